//! The registers a debugger sees, in its order, and how each is read and written.
//!
//! GDB knows two shapes of the architecture, x86-64 and i386, and takes one for the whole of a session. Both begin as
//! GDB's own features `org.gnu.gdb.i386.core` and `.sse` demand; what they leave out stands in a feature of ours.

use board::yard::Halted;
use vcpu::{CpuState, Invalidation};
use x86::register::gpr::*;
use x86::{Mode, Rflags, SegmentRegister, paging};

use crate::fpu::{self, Control};

/// Which of GDB's two shapes the processor is shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// x86-64.
    Wide,
    /// i386, for guests of 16 and 32 bits.
    Narrow,
}

impl Shape {
    /// The one that a processor is in: what it does now may be 32-bit code of a 64-bit system.
    pub fn of(cpu: &CpuState) -> Self {
        if cpu.efer.contains(x86::Efer::LMA) { Self::Wide } else { Self::Narrow }
    }

    fn word(self) -> usize {
        match self {
            Self::Wide => 8,
            Self::Narrow => 4,
        }
    }
}

/// One register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// General, as instructions encode them.
    Gpr(usize),
    /// Instruction pointer.
    Ip,
    /// Flags.
    Flags,
    /// Selector of a segment register.
    Selector(SegmentRegister),
    /// Base of a segment register.
    Base(SegmentRegister),
    /// x87 register, counted from the top of the stack.
    St(usize),
    /// x87 control.
    X87(Control),
    /// SSE register.
    Xmm(usize),
    /// SSE control and status.
    Mxcsr,
    /// The base that SWAPGS exchanges.
    KernelGsBase,
    /// CR0, CR2, CR3, CR4 or CR8.
    Cr(u8),
    /// The extended-feature register.
    Efer,
}

/// Why a register keeps its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not as many bytes as it has.
    #[error("a value of another size")]
    Size,
    /// No processor could hold it.
    #[error("a value that the register cannot hold")]
    Value,
    /// To change it is to change the mode, or to load a descriptor, which only an instruction can.
    #[error("a register that only the guest can change")]
    Register,
}

use Register as R;
use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};

/// General registers in GDB's order.
const WIDE: [usize; 16] = [RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8, R9, R10, R11, R12, R13, R14, R15];
const NARROW: [usize; 8] = [RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI];
const SEGMENTS: [SegmentRegister; 6] = [Cs, Ss, Ds, Es, Fs, Gs];

/// Those of GDB's core feature, in order.
pub fn core(shape: Shape) -> impl Iterator<Item = Register> {
    let general: &[usize] = match shape {
        Shape::Wide => &WIDE,
        Shape::Narrow => &NARROW,
    };
    let general = general.iter().map(|&n| R::Gpr(n)).chain([R::Ip, R::Flags]);
    let segments = SEGMENTS.into_iter().map(R::Selector);
    general.chain(segments).chain((0..8).map(R::St)).chain(Control::ALL.into_iter().map(R::X87))
}

/// Those of GDB's SSE feature.
pub fn sse(shape: Shape) -> impl Iterator<Item = Register> {
    let count = match shape {
        Shape::Wide => 16,
        Shape::Narrow => 8,
    };
    (0..count).map(R::Xmm).chain([R::Mxcsr])
}

/// Those of GDB's feature for segment bases.
pub fn segments(shape: Shape) -> impl Iterator<Item = Register> {
    [R::Base(Fs), R::Base(Gs)].into_iter().filter(move |_| shape == Shape::Wide)
}

/// What GDB has no feature for.
pub fn system(shape: Shape) -> impl Iterator<Item = Register> {
    let bases = SEGMENTS.into_iter().map(R::Base).filter(move |_| shape == Shape::Narrow);
    let swapped = (shape == Shape::Wide).then_some(R::KernelGsBase);
    bases.chain(swapped).chain([0, 2, 3, 4, 8].map(R::Cr)).chain([R::Efer])
}

/// All, in the order of their numbers.
pub fn all(shape: Shape) -> impl Iterator<Item = Register> {
    core(shape).chain(sse(shape)).chain(segments(shape)).chain(system(shape))
}

impl Register {
    /// Its size in bytes.
    pub fn size(self, shape: Shape) -> usize {
        match self {
            R::Gpr(_) | R::Ip | R::Base(_) | R::KernelGsBase | R::Cr(_) | R::Efer => shape.word(),
            R::Flags | R::Selector(_) | R::X87(_) | R::Mxcsr => 4,
            R::St(_) => 10,
            R::Xmm(_) => 16,
        }
    }

    /// What GDB calls it.
    pub fn name(self, shape: Shape) -> String {
        const LOW: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
        let prefix = if shape == Shape::Wide { 'r' } else { 'e' };
        match self {
            R::Gpr(n) if n < 8 => format!("{prefix}{}", LOW[n]),
            R::Gpr(n) => format!("r{n}"),
            R::Ip => format!("{prefix}ip"),
            R::Flags => "eflags".into(),
            R::Selector(segment) => segment_name(segment).into(),
            R::Base(segment) => format!("{}_base", segment_name(segment)),
            R::St(n) => format!("st{n}"),
            R::X87(control) => control.name().into(),
            R::Xmm(n) => format!("xmm{n}"),
            R::Mxcsr => "mxcsr".into(),
            R::KernelGsBase => "k_gs_base".into(),
            R::Cr(n) => format!("cr{n}"),
            R::Efer => "efer".into(),
        }
    }

    /// Its value in its first bytes, little-endian.
    pub fn read(self, halted: &mut Halted) -> [u8; 16] {
        if let R::Cr(8) = self {
            return u128::from(halted.task_priority()).to_le_bytes();
        }
        let cpu = halted.cpu();
        let value = match self {
            R::Gpr(n) => cpu.gpr[n],
            R::Ip => cpu.rip,
            R::Flags => cpu.rflags.bits(),
            R::Selector(segment) => cpu.segment(segment).selector.into(),
            R::Base(segment) => cpu.segment(segment).base,
            R::X87(control) => fpu::control(&cpu.fpu, control).into(),
            R::Mxcsr => fpu::mxcsr(&cpu.fpu).into(),
            R::KernelGsBase => cpu.msrs.kernel_gs_base,
            R::Cr(0) => cpu.cr0.bits(),
            R::Cr(2) => cpu.cr2,
            R::Cr(3) => cpu.cr3,
            R::Cr(_) => cpu.cr4.bits(),
            R::Efer => cpu.efer.bits(),
            R::St(n) => return fpu::st(&cpu.fpu, n),
            R::Xmm(n) => return fpu::xmm(&cpu.fpu, n),
        };
        u128::from(value).to_le_bytes()
    }

    /// Writes it.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn write(self, halted: &mut Halted, shape: Shape, bytes: &[u8]) -> Result<(), Refused> {
        if bytes.len() != self.size(shape) {
            return Err(Refused::Size);
        }
        let mut wide = [0; 16];
        wide[..bytes.len()].copy_from_slice(bytes);
        let value = u128::from_le_bytes(wide) as u64;
        let current = self.read(halted);
        if current[..bytes.len()] == *bytes {
            // A debugger that writes all registers means those that it has changed.
            return Ok(());
        }
        if let R::Cr(8) = self {
            let priority = u8::try_from(value).ok().filter(|priority| *priority < 16);
            halted.set_task_priority(priority.ok_or(Refused::Value)?);
            return Ok(());
        }
        let physical_bits = halted.physical_bits();
        let cpu = halted.cpu_mut();
        let five_level = cpu.cr4.contains(x86::Cr4::LA57);
        let long = cpu.efer.contains(x86::Efer::LMA);
        let canonical = if paging::is_canonical(value, five_level) { Ok(value) } else { Err(Refused::Value) };
        match self {
            R::Gpr(n) => cpu.gpr[n] = value,
            R::Ip if cpu.mode() == Mode::Long64 => cpu.rip = canonical?,
            R::Ip => cpu.rip = u64::from(u32::try_from(value).map_err(|_| Refused::Value)?),
            R::Flags => set_flags(cpu, value),
            R::Selector(segment) => load_selector(cpu, segment, value)?,
            R::Base(segment @ (Fs | Gs)) if long => cpu.segment_mut(segment).base = canonical?,
            R::KernelGsBase => cpu.msrs.kernel_gs_base = canonical?,
            R::X87(control) => fpu::set_control(&mut cpu.fpu, control, value as u32),
            R::Mxcsr => fpu::set_mxcsr(&mut cpu.fpu, value as u32).ok_or(Refused::Value)?,
            R::St(n) => fpu::set_st(&mut cpu.fpu, n, &wide),
            R::Xmm(n) => fpu::set_xmm(&mut cpu.fpu, n, &wide),
            R::Cr(2) => cpu.cr2 = value,
            R::Cr(3) if value >> physical_bits == 0 => {
                cpu.cr3 = value;
                halted.invalidate(Invalidation::AllPages);
            }
            R::Cr(3) => return Err(Refused::Value),
            R::Base(_) | R::Cr(_) | R::Efer => return Err(Refused::Register),
        }
        Ok(())
    }
}

/// What of the flags an instruction could set; the rest stays.
fn set_flags(cpu: &mut CpuState, value: u64) {
    let changeable = Rflags::STATUS
        | Rflags::TF
        | Rflags::IF
        | Rflags::DF
        | Rflags::IOPL
        | Rflags::NT
        | Rflags::RF
        | Rflags::AC
        | Rflags::ID;
    cpu.rflags = (cpu.rflags - changeable) | (Rflags::from_bits_truncate(value) & changeable);
}

/// In real and virtual-8086 mode a selector is all there is to a segment.
fn load_selector(cpu: &mut CpuState, segment: SegmentRegister, value: u64) -> Result<(), Refused> {
    if !cpu.mode().is_real_style() {
        return Err(Refused::Register);
    }
    let selector = u16::try_from(value).map_err(|_| Refused::Value)?;
    let segment = cpu.segment_mut(segment);
    (segment.selector, segment.base) = (selector, u64::from(selector) << 4);
    Ok(())
}

/// As assemblers call them.
pub fn segment_name(segment: SegmentRegister) -> &'static str {
    match segment {
        Es => "es",
        Cs => "cs",
        Ss => "ss",
        Ds => "ds",
        Fs => "fs",
        Gs => "gs",
    }
}
