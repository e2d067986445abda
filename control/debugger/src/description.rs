//! The target description: the registers as XML, by which GDB knows their names, sizes and parts (GDB manual,
//! appendix "Target Descriptions").

use std::fmt::{self, Write as _};

use bitflags::Flags;
use x86::{Cr0, Cr4, Efer, Rflags};

use crate::registers::{self, Register, Shape};

/// The description of a processor of this shape.
pub fn xml(shape: Shape) -> String {
    let mut xml = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut xml, shape);
    xml
}

fn write(xml: &mut String, shape: Shape) -> fmt::Result {
    let architecture = match shape {
        Shape::Wide => "i386:x86-64",
        Shape::Narrow => "i386",
    };
    writeln!(xml, "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">")?;
    writeln!(xml, "<target>\n<architecture>{architecture}</architecture>")?;
    feature(xml, shape, "org.gnu.gdb.i386.core", registers::core(shape))?;
    feature(xml, shape, "org.gnu.gdb.i386.sse", registers::sse(shape))?;
    if shape == Shape::Wide {
        feature(xml, shape, "org.gnu.gdb.i386.segments", registers::segments(shape))?;
    }
    feature(xml, shape, "org.popf.x86.system", registers::system(shape))?;
    writeln!(xml, "</target>")
}

fn feature(
    xml: &mut String,
    shape: Shape,
    name: &str,
    registers: impl Iterator<Item = Register>,
) -> fmt::Result {
    writeln!(xml, "<feature name=\"{name}\">")?;
    match name {
        "org.gnu.gdb.i386.core" => flags::<Rflags>(xml, "eflags", 4)?,
        "org.gnu.gdb.i386.sse" => xml.push_str(VECTORS),
        "org.popf.x86.system" => {
            let size = if shape == Shape::Wide { 8 } else { 4 };
            flags::<Cr0>(xml, "cr0", size)?;
            flags::<Cr4>(xml, "cr4", size)?;
            flags::<Efer>(xml, "efer", size)?;
        }
        _ => {}
    }
    for register in registers {
        let (name, bits) = (register.name(shape), register.size(shape) * 8);
        let kind = kind(register, bits);
        writeln!(xml, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>")?;
    }
    writeln!(xml, "</feature>")
}

fn kind(register: Register, bits: usize) -> String {
    use registers::Register as R;
    match register {
        R::Gpr(x86::register::gpr::RSP | x86::register::gpr::RBP) => "data_ptr".into(),
        R::Ip => "code_ptr".into(),
        R::Flags => "eflags_flags".into(),
        R::Cr(0) => "cr0_flags".into(),
        R::Cr(4) => "cr4_flags".into(),
        R::Efer => "efer_flags".into(),
        R::St(_) => "i387_ext".into(),
        R::Xmm(_) => "vec128".into(),
        R::X87(_) | R::Selector(_) | R::Gpr(_) => format!("int{bits}"),
        R::Base(_) | R::Mxcsr | R::KernelGsBase | R::Cr(_) => format!("uint{bits}"),
    }
}

/// A type that GDB prints as the names of the bits that are set.
fn flags<F: Flags<Bits = u64>>(xml: &mut String, name: &str, size: usize) -> fmt::Result {
    writeln!(xml, "<flags id=\"{name}_flags\" size=\"{size}\">")?;
    for flag in F::FLAGS {
        let bits = flag.value().bits();
        // Names for several bits together say nothing new.
        if bits.is_power_of_two() {
            let bit = bits.trailing_zeros();
            writeln!(xml, "<field name=\"{}\" start=\"{bit}\" end=\"{bit}\"/>", flag.name())?;
        }
    }
    writeln!(xml, "</flags>")
}

/// What an SSE register may be taken for.
const VECTORS: &str = r#"<vector id="v4_float" type="ieee_single" count="4"/>
<vector id="v2_double" type="ieee_double" count="2"/>
<vector id="v16_int8" type="int8" count="16"/>
<vector id="v8_int16" type="int16" count="8"/>
<vector id="v4_int32" type="int32" count="4"/>
<vector id="v2_int64" type="int64" count="2"/>
<union id="vec128">
<field name="v4_float" type="v4_float"/>
<field name="v2_double" type="v2_double"/>
<field name="v16_int8" type="v16_int8"/>
<field name="v8_int16" type="v8_int16"/>
<field name="v4_int32" type="v4_int32"/>
<field name="v2_int64" type="v2_int64"/>
<field name="uint128" type="uint128"/>
</union>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_is_described_once() {
        for shape in [Shape::Wide, Shape::Narrow] {
            let xml = xml(shape);
            for register in registers::all(shape) {
                let named = format!("<reg name=\"{}\" ", register.name(shape));
                assert_eq!(xml.matches(&named).count(), 1, "{named}");
            }
            assert_eq!(xml.matches("<reg ").count(), registers::all(shape).count());
            assert!(xml.contains("<field name=\"PG\" start=\"31\" end=\"31\"/>") && !xml.contains("IOPL"));
        }
    }
}
