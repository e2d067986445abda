//! What each instruction does to the state ⟨E, M, P, R⟩. In the paper's words, an instruction is a function from
//! states to states; a trap is told apart by the result.
//!
//! An instruction that traps has changed nothing: it loads all it needs before it stores.

use crate::isa::InUser;
use crate::machine::Console;
use crate::{Cause, Instruction, Isa, Mode, Op, Plain, Psw, Relocation, Shape, System, Word};

/// What an instruction for every program sees: memory through R, and P.
pub trait Processor {
    /// The machine's size and words.
    fn shape(&self) -> Shape;
    /// ⟨M, P, R⟩.
    fn psw(&self) -> Psw;
    /// Sets P.
    fn jump(&mut self, p: Word);
    /// E of a real address that exists.
    fn read(&mut self, real: Word) -> Word;
    /// Sets E of a real address that exists.
    fn write(&mut self, real: Word, value: Word);

    /// The real address of `a`.
    fn locate(&self, a: Word) -> Result<Word, Cause> {
        self.psw().r.apply(a, self.shape().size()).ok_or(Cause::Memory)
    }

    /// The word at `a`.
    fn load(&mut self, a: Word) -> Result<Word, Cause> {
        let real = self.locate(a)?;
        Ok(self.read(real))
    }

    /// Sets the word at `a`.
    fn store(&mut self, a: Word, value: Word) -> Result<(), Cause> {
        let real = self.locate(a)?;
        let value = self.shape().word(value);
        self.write(real, value);
        Ok(())
    }

    /// The address behind the current instruction.
    fn next(&self) -> Word {
        self.shape().address(self.psw().p + 1)
    }

    /// The instruction at P.
    fn fetch(&mut self) -> Result<Instruction, Cause> {
        let p = self.psw().p;
        Instruction::decode(self.load(p)?).ok_or(Cause::Illegal)
    }
}

/// Carries out an instruction for every program.
pub fn plain(op: Plain, i: Instruction, on: &mut impl Processor) -> Result<(), Cause> {
    let Instruction { a, b, .. } = i;
    let next = on.next();
    match op {
        Plain::Nop => {}
        Plain::Set => on.store(a, b)?,
        Plain::Mov => {
            let value = on.load(b)?;
            on.store(a, value)?;
        }
        Plain::Add => combine(i, on, Word::wrapping_add)?,
        Plain::Sub => combine(i, on, Word::wrapping_sub)?,
        Plain::Mul => combine(i, on, Word::wrapping_mul)?,
        Plain::Div => combine(i, on, |a, b| a.checked_div(b).unwrap_or(Word::MAX))?,
        Plain::Mod => combine(i, on, |a, b| a.checked_rem(b).unwrap_or(a))?,
        Plain::And => combine(i, on, |a, b| a & b)?,
        Plain::Or => combine(i, on, |a, b| a | b)?,
        Plain::Xor => combine(i, on, |a, b| a ^ b)?,
        Plain::Shl => combine(i, on, |a, b| a << (b % 64))?,
        Plain::Shr => combine(i, on, |a, b| a >> (b % 64))?,
        Plain::Slt => combine(i, on, |a, b| Word::from(a < b))?,
        Plain::Ldi => {
            let from = on.load(b)?;
            let value = on.load(from)?;
            on.store(a, value)?;
        }
        Plain::Sti => {
            let (to, value) = (on.load(a)?, on.load(b)?);
            on.store(to, value)?;
        }
        Plain::Jmp => return jump(on, a),
        Plain::Bz => {
            if on.load(a)? == 0 {
                return jump(on, b);
            }
        }
        Plain::Bnz => {
            if on.load(a)? != 0 {
                return jump(on, b);
            }
        }
        Plain::Call => {
            on.store(a, next)?;
            return jump(on, b);
        }
        Plain::Ret => {
            let to = on.load(a)?;
            return jump(on, to);
        }
        Plain::Svc => {
            on.jump(next);
            return Err(Cause::Svc(a));
        }
    }
    on.jump(next);
    Ok(())
}

fn combine(
    i: Instruction,
    on: &mut impl Processor,
    result: impl Fn(Word, Word) -> Word,
) -> Result<(), Cause> {
    let (left, right) = (on.load(i.a)?, on.load(i.b)?);
    on.store(i.a, result(left, right))
}

fn jump(on: &mut impl Processor, to: Word) -> Result<(), Cause> {
    on.jump(on.shape().address(to));
    Ok(())
}

/// Words by their real addresses: memory, or what stands for it.
pub trait Store {
    /// E of an address that exists.
    fn read(&mut self, real: Word) -> Word;
    /// Sets E of an address that exists.
    fn write(&mut self, real: Word, value: Word);
}

/// A real machine's state.
#[derive(Clone, Debug)]
pub struct State<S> {
    /// How large everything is.
    pub shape: Shape,
    /// E.
    pub e: S,
    /// ⟨M, P, R⟩.
    pub psw: Psw,
    /// Instructions until the timer traps; 0 if it does not run.
    pub timer: Word,
    /// The console.
    pub console: Console,
}

impl<S: Store> Processor for State<S> {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn psw(&self) -> Psw {
        self.psw
    }

    fn jump(&mut self, p: Word) {
        self.psw.p = p;
    }

    fn read(&mut self, real: Word) -> Word {
        self.e.read(real)
    }

    fn write(&mut self, real: Word, value: Word) {
        self.e.write(real, value);
    }
}

/// How an instruction ended that did not trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The instruction at P is next.
    Next,
    /// No instruction is.
    Halt,
}

/// Carries out an instruction on a real machine with this instruction set.
pub fn execute<S: Store>(isa: &Isa, i: Instruction, on: &mut State<S>) -> Result<Flow, Cause> {
    match i.op {
        Op::Plain(op) => plain(op, i, on).map(|()| Flow::Next),
        Op::System(op) => match (on.psw.m, isa.in_user(op)) {
            (Mode::User, InUser::Traps) => Err(Cause::Privileged),
            (Mode::User, InUser::Quietly) => quietly(op, i, on),
            (Mode::Supervisor, _) | (Mode::User, InUser::Runs) => system(op, i, on),
        },
    }
}

fn system<S: Store>(op: System, i: Instruction, on: &mut State<S>) -> Result<Flow, Cause> {
    let Instruction { a, b, .. } = i;
    let next = on.next();
    match op {
        System::Halt => return Ok(Flow::Halt),
        System::Lpsw => {
            on.psw = on.shape.unpack(on.load(a)?);
            return Ok(Flow::Next);
        }
        System::Getm => on.store(a, Word::from(on.psw.m == Mode::User))?,
        System::Getr => {
            let Relocation { l, b: bound } = on.psw.r;
            // Both must be there before the first is written.
            on.locate(b)?;
            on.store(a, l)?;
            on.store(b, bound)?;
        }
        System::Setr => {
            let (l, b) = (on.load(a)?, on.load(b)?);
            on.psw.r = on.shape.relocation(l, b);
        }
        System::Lra => {
            let real = on.locate(b)?;
            on.store(a, real)?;
        }
        System::Jrst => {
            on.psw.m = Mode::User;
            on.psw.p = on.shape.address(a);
            return Ok(Flow::Next);
        }
        System::In => {
            // The byte is not to be lost.
            on.locate(a)?;
            let word = on.console.read();
            on.store(a, word)?;
        }
        System::Out => {
            let word = on.load(a)?;
            on.console.write(word);
        }
        System::Stt => on.timer = on.load(a)?,
        System::Gtt => on.store(a, on.timer)?,
    }
    on.psw.p = next;
    Ok(Flow::Next)
}

fn quietly<S: Store>(op: System, i: Instruction, on: &mut State<S>) -> Result<Flow, Cause> {
    on.psw.p = match op {
        System::Lpsw => on.shape.unpack(on.load(i.a)?).p,
        _ => on.next(),
    };
    Ok(Flow::Next)
}

/// A timer's reading after an instruction that did not trap, and whether it traps now.
pub fn tick(timer: Word) -> (Word, bool) {
    (timer.saturating_sub(1), timer == 1)
}
