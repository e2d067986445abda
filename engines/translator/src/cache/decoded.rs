//! Instructions that were decoded before, since most exits are at places that have been left before.
//!
//! An exit reads the instruction's bytes anew, as it must: what counts is what is there now. If they are those of the
//! last time, then so is what they mean. So nothing has to be forgotten here, whatever becomes of blocks or mappings.

use crate::code::Code;
use crate::decode::GuestInsn;
use crate::mode::ModeWord;

const ENTRIES: usize = 256;

struct Entry {
    rip: u64,
    mode: ModeWord,
    code: Code,
    insn: GuestInsn,
}

/// See the module's documentation.
pub struct Decoded {
    entries: Box<[Option<Entry>; ENTRIES]>,
}

impl Decoded {
    /// None yet.
    pub fn new() -> Self {
        Self { entries: Box::new([const { None }; ENTRIES]) }
    }

    /// The instruction of these bytes at this rip, if it is known.
    pub fn get(&self, code: &Code, rip: u64, mode: ModeWord) -> Option<GuestInsn> {
        let entry = self.entries[slot(rip)].as_ref()?;
        (entry.rip == rip && entry.mode == mode && entry.code == *code).then_some(entry.insn)
    }

    /// Keeps it.
    pub fn put(&mut self, code: &Code, rip: u64, mode: ModeWord, insn: GuestInsn) {
        self.entries[slot(rip)] = Some(Entry { rip, mode, code: *code, insn });
    }
}

fn slot(rip: u64) -> usize {
    (rip ^ rip >> 12) as usize % ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Accesses;
    use crate::decode::decode;
    use vcpu::CpuState;

    fn decoded(code: &Code, rip: u64, mode: ModeWord) -> GuestInsn {
        decode(&code.to_vec(), rip, mode, 1, &mut Accesses::new()).0[0]
    }

    #[test]
    fn an_instruction_is_known_by_bytes_place_and_mode() {
        let mode = ModeWord::of(&CpuState::reset());
        let (input, output) = (Code::new(&[0xec, 0x90]), Code::new(&[0xee, 0x90]));
        let mut known = Decoded::new();
        assert!(known.get(&input, 0x1000, mode).is_none());
        known.put(&input, 0x1000, mode, decoded(&input, 0x1000, mode));
        let found = known.get(&input, 0x1000, mode).expect("it was put there");
        assert_eq!(found.instruction.code(), iced_x86::Code::In_AL_DX);
        assert_eq!(found.instruction.ip(), 0x1000);
        assert!(known.get(&output, 0x1000, mode).is_none(), "other bytes");
        assert!(known.get(&Code::new(&[0xec]), 0x1000, mode).is_none(), "fewer bytes");
        assert!(known.get(&input, 0x1000 + 0x1001 * ENTRIES as u64, mode).is_none(), "another place");
        assert!(known.get(&input, 0x1000, mode.with_step()).is_none(), "another mode");
        known.put(&output, 0x1000, mode, decoded(&output, 0x1000, mode));
        assert!(known.get(&input, 0x1000, mode).is_none(), "thrown out");
        assert!(known.get(&output, 0x1000, mode).is_some());
    }
}
