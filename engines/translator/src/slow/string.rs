//! String instructions, a page at a time where the direction and the pages allow.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use vcpu::CpuState;
use x86::register::gpr;

use super::{Insn, Slow, access};
use crate::access::Direction;
use crate::decode::is_amd;
use crate::engine::Translator;
use crate::status;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Move,
    Store,
    Load,
    Compare,
    Scan,
}

/// One string instruction, taken apart.
#[derive(Clone, Copy, Debug)]
struct Form {
    kind: Kind,
    width: u32,
    /// Bits of rsi, rdi and rcx that count.
    address_bits: u32,
    repeat: Option<Repeat>,
    source_segment: Register,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// REP, or REPE for a comparison.
    WhileEqual,
    /// REPNE.
    WhileNotEqual,
}

impl Translator {
    pub(super) fn slow_string(&mut self, cpu: &CpuState, insn: Insn) -> Slow {
        let Some(form) = Form::of(&insn.instruction) else {
            return Slow::Unsupported;
        };
        self.run_string(cpu, form, &insn.instruction).unwrap_or_else(|slow| slow)
    }

    fn run_string(&mut self, cpu: &CpuState, form: Form, i: &Instruction) -> Result<Slow, Slow> {
        self.widen_pointers(form);
        loop {
            let count = self.count(form);
            if form.repeat.is_some() && count == 0 {
                return Ok(Slow::Done(i.next_ip()));
            }
            // Stepped, a string instruction traps behind every repetition.
            let steps = self.mode.steps();
            let (done, more) = self.string_chunk(cpu, form, if steps { 1 } else { count })?;
            if form.repeat.is_some() {
                self.set_masked(gpr::RCX, form.address_bits, count.wrapping_sub(done));
            }
            if form.repeat.is_none() || !more || count == done {
                return Ok(Slow::Done(i.next_ip()));
            }
            if steps || self.kicked() {
                return Ok(Slow::Done(i.ip()));
            }
        }
    }

    /// Intel's processors write 32-bit registers of a repeated instruction, and so clear their upper halves, even if
    /// it does nothing, or faults at once (seen on one of them; no manual says it); AMD's write what has changed.
    fn widen_pointers(&mut self, form: Form) {
        if form.address_bits != 32 || form.repeat.is_none() || is_amd() {
            return;
        }
        let pointers = match form.kind {
            Kind::Move | Kind::Store => true,
            Kind::Compare => self.count(form) != 0,
            Kind::Load | Kind::Scan => false,
        };
        let used = [
            (true, gpr::RCX),
            (pointers && form.uses_source(), gpr::RSI),
            (pointers && form.uses_destination(), gpr::RDI),
        ];
        for (_, register) in used.into_iter().filter(|(used, _)| *used) {
            let pointer = self.pointer(form, register);
            self.set_masked(register, 32, pointer);
        }
    }

    /// Does at least one element; gives how many, and whether the condition lets more follow.
    fn string_chunk(&mut self, cpu: &CpuState, form: Form, count: u64) -> Result<(u64, bool), Slow> {
        if matches!(form.kind, Kind::Move | Kind::Store) && form.repeat.is_some() {
            let done = self.bulk(cpu, form, count)?;
            if done > 0 {
                return Ok((done, true));
            }
        }
        let more = self.element(cpu, form)?;
        self.answers.forget();
        Ok((1, more))
    }

    /// As many elements as lie in one page each of source and destination, in the order of the direction flag.
    fn bulk(&mut self, cpu: &CpuState, form: Form, count: u64) -> Result<u64, Slow> {
        let down = self.backwards();
        let (rsi, rdi) = (self.pointer(form, gpr::RSI), self.pointer(form, gpr::RDI));
        let width = u64::from(form.width);
        let top = u64::MAX >> (64 - form.address_bits);
        // Elements from a pointer to the end of its page, or of the address space, in the direction.
        let reach = |pointer: u64, linear: u64| {
            let offset = linear & 0xfff;
            match down {
                false => ((4096 - offset) / width).min((top - pointer) / width),
                true if offset + width > 4096 => 0,
                true => (offset / width + 1).min(pointer / width),
            }
        };
        if !self.mode.is_flat(0) || !self.mode.is_flat(form.source_segment.number()) {
            return Ok(0);
        }
        // Faults are found again, in their order, by the element alone.
        let Ok(to) = self.string_access(cpu, form, gpr::RDI) else { return Ok(0) };
        let mut n = reach(rdi, to.linear).min(count);
        let from = match form.kind {
            Kind::Move => match self.string_access(cpu, form, gpr::RSI) {
                Ok(from) => Some(from),
                Err(_) => return Ok(0),
            },
            _ => None,
        };
        if let Some(from) = from {
            n = n.min(reach(rsi, from.linear));
        }
        if n < 2 {
            return Ok(0);
        }
        let bytes = n * width;
        // The lowest byte of a range whose first element is at this address.
        let lowest = |first: u64| if down { first - (bytes - width) } else { first };
        let source = from.map(|from| self.page_again(from.linear, false));
        let Ok(source) = source.transpose() else { return Ok(0) };
        let Ok(target) = self.page_again(to.linear, true) else { return Ok(0) };
        let (source, target) = (source.map(|source| source.physical), target.physical);
        let written = match source {
            Some(source) => {
                // A destination a little ahead of its source repeats what was just written.
                let ahead = if down { source.wrapping_sub(target) } else { target.wrapping_sub(source) };
                if ahead != 0 && ahead < bytes {
                    return Ok(0);
                }
                self.guest.copy(lowest(source), lowest(target), bytes as usize)
            }
            None => {
                let element = &self.cache.region.context().gpr[gpr::RAX].to_le_bytes()[..form.width as usize];
                if element.iter().all(|byte| *byte == element[0]) {
                    let value = element[0];
                    self.guest.fill(lowest(target), bytes as usize, value)
                } else {
                    let all = element.repeat(n as usize);
                    self.guest.write(lowest(target), &all)
                }
            }
        };
        if !written {
            return Ok(0);
        }
        self.has_written(lowest(target), bytes as usize);
        let moved = if down { bytes.wrapping_neg() } else { bytes };
        self.set_masked(gpr::RDI, form.address_bits, rdi.wrapping_add(moved));
        if form.kind == Kind::Move {
            self.set_masked(gpr::RSI, form.address_bits, rsi.wrapping_add(moved));
        }
        Ok(n)
    }

    fn element(&mut self, cpu: &CpuState, form: Form) -> Result<bool, Slow> {
        let mut more = true;
        if form.kind == Kind::Compare && form.repeat.is_none() {
            // Alone, it looks at its destination first, which shows where both fault.
            let to = self.string_access(cpu, form, gpr::RDI)?;
            self.pages(to).map_err(Slow::Fault)?;
        }
        let source = if form.uses_source() { Some(self.string_access(cpu, form, gpr::RSI)?) } else { None };
        let accumulator = self.cache.region.context().gpr[gpr::RAX];
        let left = match source {
            Some(source) => self.read_linear(source)?,
            None => accumulator & (u64::MAX >> (64 - 8 * form.width)),
        };
        match form.kind {
            Kind::Move | Kind::Store => {
                let to = self.string_access(cpu, form, gpr::RDI)?;
                self.write_linear(to, left)?;
            }
            Kind::Load => {
                let name = match form.width {
                    1 => Register::AL,
                    2 => Register::AX,
                    4 => Register::EAX,
                    _ => Register::RAX,
                };
                self.set_register(name, left);
            }
            Kind::Compare | Kind::Scan => {
                let to = self.string_access(cpu, form, gpr::RDI)?;
                let right = self.read_linear(to)?;
                self.cache.region.context().flags = status::of_subtraction(left, right, form.width);
                more = match form.repeat {
                    Some(Repeat::WhileEqual) => left == right,
                    Some(Repeat::WhileNotEqual) => left != right,
                    None => false,
                };
            }
        }
        let width = u64::from(form.width);
        let step = if self.backwards() { width.wrapping_neg() } else { width };
        for (used, register) in [(form.uses_source(), gpr::RSI), (form.uses_destination(), gpr::RDI)] {
            if used {
                let moved = self.pointer(form, register).wrapping_add(step);
                self.set_masked(register, form.address_bits, moved);
            }
        }
        Ok(more)
    }

    fn string_access(&mut self, cpu: &CpuState, form: Form, pointer: usize) -> Result<super::Access, Slow> {
        let writes = pointer == gpr::RDI && matches!(form.kind, Kind::Move | Kind::Store);
        let segment = if pointer == gpr::RDI { Register::ES } else { form.source_segment };
        let offset = self.pointer(form, pointer);
        let linear = self.linear(cpu, segment, offset, form.width, writes).map_err(Slow::Fault)?;
        let direction = if writes { Direction::Write } else { Direction::Read };
        Ok(access(linear, form.width, direction))
    }

    fn pointer(&mut self, form: Form, register: usize) -> u64 {
        self.cache.region.context().gpr[register] & (u64::MAX >> (64 - form.address_bits))
    }

    fn count(&mut self, form: Form) -> u64 {
        self.pointer(form, gpr::RCX)
    }

    fn set_masked(&mut self, register: usize, bits: u32, value: u64) {
        let slot = &mut self.cache.region.context().gpr[register];
        *slot = match bits {
            16 => *slot & !0xffff | value & 0xffff,
            32 => value & 0xffff_ffff,
            _ => value,
        };
    }

    fn backwards(&mut self) -> bool {
        self.cache.region.context().direction_flag != 0
    }
}

impl Form {
    fn uses_source(self) -> bool {
        matches!(self.kind, Kind::Move | Kind::Load | Kind::Compare)
    }

    fn uses_destination(self) -> bool {
        self.kind != Kind::Load
    }

    fn of(i: &Instruction) -> Option<Self> {
        use Mnemonic as M;
        let (kind, width) = match i.mnemonic() {
            M::Movsb => (Kind::Move, 1),
            M::Movsw => (Kind::Move, 2),
            M::Movsd => (Kind::Move, 4),
            M::Movsq => (Kind::Move, 8),
            M::Stosb => (Kind::Store, 1),
            M::Stosw => (Kind::Store, 2),
            M::Stosd => (Kind::Store, 4),
            M::Stosq => (Kind::Store, 8),
            M::Lodsb => (Kind::Load, 1),
            M::Lodsw => (Kind::Load, 2),
            M::Lodsd => (Kind::Load, 4),
            M::Lodsq => (Kind::Load, 8),
            M::Cmpsb => (Kind::Compare, 1),
            M::Cmpsw => (Kind::Compare, 2),
            M::Cmpsd => (Kind::Compare, 4),
            M::Cmpsq => (Kind::Compare, 8),
            M::Scasb => (Kind::Scan, 1),
            M::Scasw => (Kind::Scan, 2),
            M::Scasd => (Kind::Scan, 4),
            M::Scasq => (Kind::Scan, 8),
            _ => return None,
        };
        let address_bits = i.op_kinds().find_map(|kind| match kind {
            OpKind::MemorySegSI | OpKind::MemoryESDI => Some(16),
            OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(32),
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(64),
            _ => None,
        })?;
        let repeat = match (i.has_repne_prefix(), i.has_rep_prefix()) {
            (true, _) => Some(Repeat::WhileNotEqual),
            (_, true) => Some(Repeat::WhileEqual),
            _ => None,
        };
        Some(Self { kind, width, address_bits, repeat, source_segment: i.memory_segment() })
    }
}
