//! Locked instructions that generated code cannot carry out itself: on pages that hold translated code, or across two.
//!
//! All other processors carry theirs out natively, so this has to be indivisible to them. The instruction runs on a copy of its
//! operand, and the result is put in the original's place if that has not changed meanwhile; else it runs again. Across
//! pages there is no such step: those are kept apart by a lock of the machine's, and with a host's processor that has both
//! pages side by side in a window they are not. Where a device answers there is nothing to be indivisible with.

use iced_x86::Mnemonic;
use vcpu::CpuState;

use super::Slow;
use super::bounce::Bounce;
use crate::decode::GuestInsn;
use crate::engine::Translator;

/// Whether the processor carries it out in one indivisible step: XCHG with memory does not need the prefix.
pub(super) fn is_locked(insn: &GuestInsn) -> bool {
    let i = &insn.instruction;
    insn.direction.writes() && (i.has_lock_prefix() || i.mnemonic() == Mnemonic::Xchg)
}

impl Translator {
    /// Carries one out whose operand is in RAM.
    pub(super) fn execute_locked(&mut self, cpu: &CpuState, bounce: Bounce) -> Slow {
        let parts: Vec<_> = bounce.parts().collect();
        let next = bounce.insn.instruction.next_ip();
        let [(_, len, target)] = parts[..] else {
            return self.execute_straddling(cpu, &bounce);
        };
        let operand = bounce.at as usize..bounce.at as usize + len;
        let context = self.cache.region.context();
        let (gpr, flags) = (context.gpr, context.flags);
        loop {
            let current = self.cache.region.bounce()[operand.clone()].to_vec();
            if let Err(slow) = self.execute_natively(cpu, &bounce) {
                return slow;
            }
            let new = self.cache.region.bounce()[operand.clone()].to_vec();
            let exchanged = self.guest.exchange(target.physical, &current, &new);
            if exchanged == Some(true) {
                break;
            }
            let context = self.cache.region.context();
            (context.gpr, context.flags) = (gpr, flags);
            // No processor has a locked instruction of this size, or at this place.
            if exchanged.is_none() {
                return self.execute_straddling(cpu, &bounce);
            }
            self.fill_buffer(&bounce);
        }
        self.has_written(target.physical, len);
        Slow::Done(next)
    }

    /// Carries one out in parts, one processor at a time.
    fn execute_straddling(&mut self, cpu: &CpuState, bounce: &Bounce) -> Slow {
        let peers = self.guest.peers.clone();
        let _one_at_a_time = peers.straddling();
        self.fill_buffer(bounce);
        match self.execute_natively(cpu, bounce) {
            Ok(()) => {
                self.write_back(bounce, &[]);
                Slow::Done(bounce.insn.instruction.next_ip())
            }
            Err(slow) => slow,
        }
    }
}
