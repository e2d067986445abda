//! What it means that an instruction did not trap.

use host::trial::Outcome;

use super::BY_SOMEBODY_ELSE;

/// In words.
pub enum Told {
    /// It told this of the host.
    Truth(String),
    /// It left this undone.
    Ignored(String),
    /// It did this.
    Did(String),
}

/// What an instruction left.
pub struct Seen<'a> {
    rax: u64,
    rdx: u64,
    rflags: u64,
    outcome: &'a Outcome,
    /// How long it took.
    pub cycles: Option<u64>,
}

impl<'a> Seen<'a> {
    /// Of an outcome of assembled code.
    pub fn new(outcome: &'a Outcome, timed: bool) -> Self {
        let gpr = &outcome.gpr;
        let [rax, rdx, rflags] =
            if timed { [gpr[10], gpr[11], gpr[12]] } else { [gpr[0], gpr[2], outcome.rflags] };
        let cycles = timed.then(|| gpr[9].saturating_sub(gpr[8]));
        Self { rax, rdx, rflags, outcome, cycles }
    }

    /// Whether somebody else must have carried it out.
    pub fn is_slow(&self) -> bool {
        self.cycles.is_some_and(|cycles| cycles > BY_SOMEBODY_ELSE)
    }

    /// EDX:EAX.
    fn wide(&self) -> u64 {
        self.rdx << 32 | self.rax & 0xffff_ffff
    }

    fn zero_flag(&self) -> bool {
        self.rflags & 1 << 6 != 0
    }
}

/// SGDT, SIDT: a limit of 16 bits and a base.
pub fn table(seen: &Seen) -> Told {
    let data = &seen.outcome.data;
    let limit = u16::from_le_bytes([data[0], data[1]]);
    let base = data[2..10].iter().rev().fold(0_u64, |base, &byte| base << 8 | u64::from(byte));
    Told::Truth(format!("base {base:x}h, limit {limit:x}h"))
}

/// SLDT, STR, PUSH of a segment.
pub fn selector(seen: &Seen) -> Told {
    Told::Truth(format!("selector {:x}h", seen.rax & 0xffff))
}

/// SMSW.
pub fn cr0(seen: &Seen) -> Told {
    Told::Truth(format!("CR0 is {:x}h", seen.rax & 0xffff_ffff))
}

/// PUSHF.
pub fn flags(seen: &Seen) -> Told {
    Told::Truth(format!("IF is {}, IOPL is {}", seen.rax >> 9 & 1, seen.rax >> 12 & 3))
}

/// POPF and IRET, asked for IF 0 and IOPL 3.
pub fn flags_kept(seen: &Seen) -> Told {
    let (interrupts, iopl) = (seen.rflags >> 9 & 1, seen.rflags >> 12 & 3);
    let text = format!("asked for IF 0 and IOPL 3, IF is {interrupts} and IOPL {iopl}");
    if (interrupts, iopl) == (0, 3) { Told::Did(text) } else { Told::Ignored(text) }
}

/// LAR.
pub fn rights(seen: &Seen) -> Told {
    Told::Truth(if seen.zero_flag() {
        format!("access rights of selector {:x}h: {:x}h", seen.outcome.gpr[1], seen.rax & 0xff_ff00)
    } else {
        format!("selector {:x}h is none that ring 3 may see", seen.outcome.gpr[1])
    })
}

/// LSL.
pub fn limit(seen: &Seen) -> Told {
    Told::Truth(format!("limit of selector {:x}h: {:x}h", seen.outcome.gpr[1], seen.rax & 0xffff_ffff))
}

/// VERR, VERW.
pub fn verified(seen: &Seen) -> Told {
    let may = if seen.zero_flag() { "may" } else { "may not" };
    Told::Truth(format!("ring 3 {may} use selector {:x}h so", seen.outcome.gpr[1]))
}

/// CS in a register.
pub fn ring(seen: &Seen) -> Told {
    Told::Truth(format!("selector {:x}h: the ring is {}", seen.rax & 0xffff, seen.rax & 3))
}

/// MOV and POP to a segment register.
pub fn segment_loaded(_seen: &Seen) -> Told {
    Told::Did("the descriptor was checked against ring 3 and loaded".into())
}

/// Far transfers.
pub fn transferred(_seen: &Seen) -> Told {
    Told::Did("the descriptor was checked against ring 3 and control transferred".into())
}

/// CPUID, leaf 0.
pub fn vendor(seen: &Seen) -> Told {
    let words = [seen.outcome.gpr[3], seen.rdx, seen.outcome.gpr[1]];
    let bytes: Vec<u8> = words.iter().flat_map(|word| (*word as u32).to_le_bytes()).collect();
    Told::Truth(format!("{}, leaves up to {:x}h", String::from_utf8_lossy(&bytes), seen.rax & 0xffff_ffff))
}

/// RDTSC, RDPRU, RDPMC.
pub fn counter(seen: &Seen) -> Told {
    Told::Truth(format!("the counter is at {}", seen.wide()))
}

/// RDTSCP; Linux keeps the processor in the low bits of TSC_AUX, the NUMA node above.
pub fn counter_and_cpu(seen: &Seen) -> Told {
    Told::Truth(format!("the counter is at {}, on processor {}", seen.wide(), seen.outcome.gpr[1] & 0xfff))
}

/// RDPID.
pub fn cpu(seen: &Seen) -> Told {
    Told::Truth(format!("on processor {}", seen.rax & 0xfff))
}

/// XGETBV.
pub fn xcr0(seen: &Seen) -> Told {
    Told::Truth(format!("XCR0 is {:x}h", seen.wide()))
}

/// RDPKRU.
pub fn keys(seen: &Seen) -> Told {
    Told::Truth(format!("PKRU is {:x}h", seen.rax & 0xffff_ffff))
}

/// RDFSBASE, RDGSBASE.
pub fn base(seen: &Seen) -> Told {
    Told::Truth(format!("the base is {:x}h", seen.rax))
}

/// WRGSBASE.
pub fn base_moved(seen: &Seen) -> Told {
    Told::Did(format!("the base was moved to {:x}h", seen.rax))
}

/// What should have trapped.
pub fn done(_seen: &Seen) -> Told {
    Told::Did("in ring 3".into())
}
