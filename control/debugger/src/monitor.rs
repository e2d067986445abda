//! `monitor` commands: what GDB has no packet for.

use std::fmt::{self, Write as _};

use board::yard::Halted;
use vcpu::{Activity, CpuState, Shadow};
use x86::{Mode, Segment, SegmentRegister};

use crate::memory::{self, Space};
use crate::registers::{self, Shape, segment_name};
use crate::target::Machine;

const HELP: &str = "\
info                    all of the following
info registers          registers, segments, system registers of each vCPU
info machine            what each vCPU does
info exits              what made each vCPU leave guest code, and what that cost
translate ADDRESS       the physical address of a linear one, by the page tables of vCPU 0
xp ADDRESS [COUNT]      COUNT bytes of physical memory [default: 64, at most 4096]
physical on|off         whether GDB's own commands take addresses as physical
help                    this list
Addresses are hexadecimal with 0x, else decimal.
";

/// Most bytes of one dump.
const DUMP: u64 = 4096;

/// Carries a command out; what to print.
pub fn answer(machine: &mut Machine, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let answer = match words.as_slice() {
        [] | ["help"] => Ok(HELP.to_owned()),
        ["info"] => Ok(["registers", "machine", "exits"].map(|what| info(machine, what)).concat()),
        ["info", what @ ("registers" | "machine" | "exits")] => Ok(info(machine, what)),
        ["translate", address] => number(address).map(|linear| translate(machine, linear)),
        ["xp", address] => number(address).map(|address| dump(machine, address, 64)),
        ["xp", address, count] => {
            number(address).and_then(|address| Ok(dump(machine, address, number(count)?.min(DUMP))))
        }
        ["physical", "on"] => Ok(set_space(machine, Space::Physical)),
        ["physical", "off"] => Ok(set_space(machine, Space::Linear)),
        _ => Err(format!("no such command: {command}\n{HELP}")),
    };
    answer.unwrap_or_else(|error| error)
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text} is no number: try 0x{text}\n"))
}

fn set_space(machine: &mut Machine, space: Space) -> String {
    machine.space = space;
    let what = match space {
        Space::Linear => "linear, through the guest's page tables",
        Space::Physical => "guest-physical",
    };
    format!("addresses are {what}\n")
}

fn translate(machine: &Machine, linear: u64) -> String {
    match machine.yard.with(0, |halted| memory::translate(halted, linear)) {
        Some(Some(physical)) => format!("{linear:#x} is at physical {physical:#x}\n"),
        _ => format!("{linear:#x} is not mapped\n"),
    }
}

fn dump(machine: &Machine, address: u64, count: u64) -> String {
    // At most `DUMP`.
    let mut data = vec![0; count as usize];
    let read = machine.yard.with(0, |halted| memory::read(halted, Space::Physical, address, &mut data));
    data.truncate(read.unwrap_or(0));
    let mut text = String::new();
    for (n, line) in data.chunks(16).enumerate() {
        // Writing to a string does not fail.
        let _ = write!(text, "{:#010x}:", address + 16 * n as u64);
        for byte in line {
            let _ = write!(text, " {byte:02x}");
        }
        text.push('\n');
    }
    if data.len() as u64 != count {
        let _ = writeln!(text, "there is no RAM at {:#x}", address.wrapping_add(data.len() as u64));
    }
    text
}

fn info(machine: &Machine, what: &str) -> String {
    let shape = machine.shape;
    let mut text = String::new();
    for n in 0..machine.yard.processors() {
        machine.yard.with(n, |halted| {
            // Writing to a string does not fail.
            let _ = match what {
                "registers" => write_registers(&mut text, n, shape, halted),
                "machine" => writeln!(text, "{}", summary(n, halted)),
                _ => write_exits(&mut text, n, halted),
            };
        });
    }
    text
}

/// A vCPU in one line.
pub fn summary(n: usize, halted: &Halted) -> String {
    let cpu = halted.cpu();
    let activity = match cpu.activity {
        Activity::Running => "running",
        Activity::Halted => "halted until an interrupt",
        Activity::WaitForStartUp => "waiting for its start-up interrupt",
        Activity::Shutdown => "shut down",
    };
    let mode = match cpu.mode() {
        Mode::Real => "real mode",
        Mode::Virtual8086 => "virtual-8086 mode",
        Mode::Protected16 => "16-bit protected mode",
        Mode::Protected32 => "32-bit protected mode",
        Mode::Long64 => "64-bit mode",
    };
    let mut text = format!("vCPU {n}: {activity}, {mode}, ring {}, {} engine", cpu.cpl(), halted.engine());
    match cpu.shadow {
        Shadow::None => {}
        Shadow::Sti => text.push_str(", in the shadow of STI"),
        Shadow::MovSs => text.push_str(", in the shadow of a load of SS"),
    }
    if cpu.nmi_blocked {
        text.push_str(", NMIs blocked");
    }
    if cpu.nmi_pending {
        text.push_str(", an NMI waits");
    }
    text
}

fn write_registers(text: &mut String, n: usize, shape: Shape, halted: &mut Halted) -> fmt::Result {
    writeln!(text, "vCPU {n}")?;
    let numbers = registers::all(shape).filter(|register| register.size(shape) <= 8);
    for (n, register) in numbers.enumerate() {
        let size = register.size(shape);
        let value = u128::from_le_bytes(register.read(halted));
        let end = if n % 4 == 3 { '\n' } else { ' ' };
        write!(
            text,
            "{:>9} {value:0width$x}{:pad$}{end}",
            register.name(shape),
            "",
            width = 2 * size,
            pad = 16 - 2 * size
        )?;
    }
    let cpu = halted.cpu();
    writeln!(text)?;
    write_system(text, cpu)
}

fn write_system(text: &mut String, cpu: &CpuState) -> fmt::Result {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
    for register in [Cs, Ss, Ds, Es, Fs, Gs] {
        segment(text, segment_name(register), cpu.segment(register))?;
    }
    segment(text, "ldtr", &cpu.ldtr)?;
    segment(text, "tr", &cpu.tr)?;
    for (name, table) in [("gdtr", cpu.gdtr), ("idtr", cpu.idtr)] {
        writeln!(text, "{name:>9} base {:016x} limit {:04x}", table.base, table.limit)?;
    }
    for n in [0, 1, 2, 3, 6, 7] {
        writeln!(text, "      dr{n} {:016x}", cpu.dr[n])?;
    }
    let msrs = &cpu.msrs;
    for (name, value) in [
        ("xcr0", cpu.xcr0.bits()),
        ("star", msrs.star),
        ("lstar", msrs.lstar),
        ("cstar", msrs.cstar),
        ("sfmask", msrs.sfmask),
        ("sysenter_cs", msrs.sysenter_cs),
        ("sysenter_esp", msrs.sysenter_esp),
        ("sysenter_eip", msrs.sysenter_eip),
        ("pat", msrs.pat),
        ("tsc_aux", msrs.tsc_aux),
    ] {
        writeln!(text, "{name:>12} {value:016x}")?;
    }
    Ok(())
}

fn segment(text: &mut String, name: &str, segment: &Segment) -> fmt::Result {
    let Segment { base, limit, selector, attributes } = segment;
    writeln!(
        text,
        "{name:>9} {selector:04x} base {base:016x} limit {limit:08x} attributes {attributes:04x}{}",
        if segment.is_present() { "" } else { " not present" }
    )
}

fn write_exits(text: &mut String, n: usize, halted: &Halted) -> fmt::Result {
    let statistics = halted.statistics();
    writeln!(text, "vCPU {n}: {:<40} {:>12} {:>16}", "why guest code was left", "times", "cycles")?;
    for row in statistics.rows() {
        writeln!(text, "        {:<40} {:>12} {:>16}", row.cause, row.counter.count, row.counter.cycles)?;
    }
    for (what, count) in &statistics.engine {
        writeln!(text, "        {what:<40} {count:>12}")?;
    }
    Ok(())
}
