//! {v}, the interpreter: one routine for each privileged instruction, which does to the VM what the instruction
//! would do to a real machine in supervisor mode. A system instruction without a routine does not compile.

use crate::semantics::{Flow, Processor, plain};
use crate::{Cause, Instruction, Machine, Mode, Op, Psw, System, Word};

use super::guest::Guest;

/// Carries out an instruction of a VM in its supervisor mode. Plain ones arrive here from a hybrid monitor only.
pub(super) fn interpret<M: Machine>(i: Instruction, on: &mut Guest<M>) -> Result<Flow, Cause> {
    let Instruction { op, a, b } = i;
    let next = on.next();
    match op {
        Op::Plain(op) => return plain(op, i, on).map(|()| Flow::Next),
        // Those that say themselves what is next.
        Op::System(System::Halt) => return Ok(Flow::Halt),
        Op::System(System::Lpsw) => return lpsw(on, a),
        Op::System(System::Jrst) => return jrst(on, a),
        Op::System(System::Getm) => getm(on, a)?,
        Op::System(System::Getr) => getr(on, a, b)?,
        Op::System(System::Setr) => setr(on, a, b)?,
        Op::System(System::Lra) => lra(on, a, b)?,
        Op::System(System::In) => in_(on, a)?,
        Op::System(System::Out) => out(on, a)?,
        Op::System(System::Stt) => stt(on, a)?,
        Op::System(System::Gtt) => gtt(on, a)?,
    }
    on.jump(next);
    Ok(Flow::Next)
}

fn lpsw<M: Machine>(on: &mut Guest<M>, a: Word) -> Result<Flow, Cause> {
    let psw = on.load(a)?;
    on.enter(on.shape().unpack(psw));
    Ok(Flow::Next)
}

fn jrst<M: Machine>(on: &mut Guest<M>, a: Word) -> Result<Flow, Cause> {
    on.vm.psw = Psw { m: Mode::User, p: on.shape().address(a), ..on.psw() };
    Ok(Flow::Next)
}

fn getm<M: Machine>(on: &mut Guest<M>, a: Word) -> Result<(), Cause> {
    on.store(a, Word::from(on.psw().m == Mode::User))
}

fn getr<M: Machine>(on: &mut Guest<M>, a: Word, b: Word) -> Result<(), Cause> {
    let r = on.psw().r;
    // Both must be there before the first is written.
    on.locate(b)?;
    on.store(a, r.l)?;
    on.store(b, r.b)
}

fn setr<M: Machine>(on: &mut Guest<M>, a: Word, b: Word) -> Result<(), Cause> {
    let (l, b) = (on.load(a)?, on.load(b)?);
    on.relocate(on.shape().relocation(l, b));
    Ok(())
}

fn lra<M: Machine>(on: &mut Guest<M>, a: Word, b: Word) -> Result<(), Cause> {
    let real = on.locate(b)?;
    on.store(a, real)
}

fn in_<M: Machine>(on: &mut Guest<M>, a: Word) -> Result<(), Cause> {
    // The byte is not to be lost.
    on.locate(a)?;
    let word = on.console().read();
    on.store(a, word)
}

fn out<M: Machine>(on: &mut Guest<M>, a: Word) -> Result<(), Cause> {
    let word = on.load(a)?;
    on.console().write(word);
    Ok(())
}

fn stt<M: Machine>(on: &mut Guest<M>, a: Word) -> Result<(), Cause> {
    on.vm.timer = on.load(a)?;
    Ok(())
}

fn gtt<M: Machine>(on: &mut Guest<M>, a: Word) -> Result<(), Cause> {
    let timer = on.vm.timer;
    on.store(a, timer)
}
