//! PAUSE, where there are several processors: whoever says it waits for another, which may have no host's processor because
//! this one has it.

use iced_x86::Mnemonic;
use vcpu::CpuState;

use super::Translator;
use super::exits::Next;
use crate::slow::Slow;

/// How many in a row give the host's processor away.
const PATIENCE: u32 = 32;
/// How far apart they are in a row, at most, in cycles of the time-stamp counter.
const IN_A_ROW: u64 = 1 << 14;

/// How long a guest has been waiting.
#[derive(Debug, Default)]
pub(super) struct Spin {
    last: u64,
    times: u32,
    /// How often the host's processor was given away.
    pub yields: u64,
}

impl Spin {
    /// Another PAUSE; whether it is time to give way.
    fn is_over(&mut self, now: u64) -> bool {
        let in_a_row = now.wrapping_sub(self.last) < IN_A_ROW;
        self.times = if in_a_row { self.times + 1 } else { 1 };
        self.last = now;
        let over = self.times >= PATIENCE;
        if over {
            (self.times, self.yields) = (0, self.yields + 1);
        }
        over
    }
}

impl Translator {
    /// Guest code has come to the PAUSE at `rip`.
    pub(super) fn paused(&mut self, cpu: &CpuState, rip: u64) -> Next {
        let code = self.fetch_instruction(cpu, rip).unwrap_or_default();
        let insn = self.cache.decode_one(&code, rip, self.mode).map(|insn| insn.instruction);
        let Some(insn) = insn.filter(|insn| insn.mnemonic() == Mnemonic::Pause) else {
            return self.changed(rip);
        };
        if self.spin.is_over(host::cpu::rdtsc()) {
            // Nobody has to wait for an answer of one that waits itself.
            self.guest.mailbox.depart();
            std::thread::yield_now();
            self.guest.mailbox.arrive();
            if let Some((news, number)) = self.guest.mailbox.take_withdrawals() {
                self.withdraw(&news);
                self.guest.mailbox.answer(number);
            }
        }
        self.after_slow(Slow::Done(insn.next_ip()), rip)
    }
}
