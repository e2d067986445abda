//! What a monitor does for a case: the routines of instructions that any program may use and that 64-bit mode lacks,
//! or whose result a monitor alone knows.

use interpreter::{Effects, execute};
use memory::GuestRam;
use vcpu::{CpuState, Insn};
use x86::Exception;
use x86::classify::Routine;

use crate::plain::Plain;

/// Whether a case may hold instructions of this routine. Selectors differ between the two sides in 64-bit mode.
pub fn carries_out(routine: Routine, bits: u32) -> bool {
    use Routine as R;
    match routine {
        R::Aaa | R::Aas | R::Aam | R::Aad | R::Daa | R::Das | R::Salc | R::Pusha | R::Popa => true,
        R::Bound | R::Arpl | R::Enter | R::Pushf => true,
        R::PushSegment | R::MovFromSegment => bits != 64,
        _ => false,
    }
}

/// Runs one.
pub fn run(cpu: &mut CpuState, insn: &Insn, ram: &GuestRam) -> Result<(), Exception> {
    let mut effects = Effects::default();
    execute(cpu, insn, &mut Plain(ram.clone()), &mut effects).map(|_| ())
}
