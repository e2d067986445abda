//! The real machine.

use crate::machine::{CAUSE, Console, FREE, NEW_PSW, OLD_PSW};
use crate::semantics::{Flow, Processor, State, Store, execute, tick};
use crate::{Cause, Isa, Machine, Psw, Shape, Stop, Word};

impl Store for Vec<Word> {
    fn read(&mut self, real: Word) -> Word {
        self[real as usize]
    }

    fn write(&mut self, real: Word, value: Word) {
        self[real as usize] = value;
    }
}

/// A machine with nothing below it.
#[derive(Clone, Debug)]
pub struct Bare {
    isa: &'static Isa,
    state: State<Vec<Word>>,
    halted: bool,
}

impl Bare {
    /// A machine of `size` words, all 0, in supervisor mode at the first word that traps leave alone.
    ///
    /// # Panics
    /// If it has no room for what a trap stores, or more words than [`Shape::MAX_SIZE`].
    pub fn new(isa: &'static Isa, size: Word) -> Self {
        assert!(size >= FREE, "a trap needs {FREE} words");
        let state = State {
            shape: Shape::full(size),
            e: vec![0; size as usize],
            psw: Psw::supervisor(FREE, size),
            timer: 0,
            console: Console::default(),
        };
        Self { isa, state, halted: false }
    }

    fn step(&mut self) -> Result<Flow, Cause> {
        let instruction = self.state.fetch()?;
        let flow = execute(self.isa, instruction, &mut self.state)?;
        let (timer, trap) =
            if flow == Flow::Next { tick(self.state.timer) } else { (self.state.timer, false) };
        self.state.timer = timer;
        if trap { Err(Cause::Timer) } else { Ok(flow) }
    }

    /// Exchanges PSWs.
    fn trap(&mut self, cause: Cause) {
        let shape = self.state.shape;
        self.state.e.write(OLD_PSW, shape.pack(self.state.psw));
        self.state.e.write(CAUSE, cause.encode());
        self.state.psw = shape.unpack(self.state.e.read(NEW_PSW));
    }
}

impl Machine for Bare {
    fn shape(&self) -> Shape {
        self.state.shape
    }

    fn read(&self, real: Word) -> Word {
        self.state.e[real as usize]
    }

    fn write(&mut self, real: Word, value: Word) {
        self.state.e.write(real, value);
    }

    fn psw(&self) -> Psw {
        self.state.psw
    }

    fn set_psw(&mut self, psw: Psw) {
        self.state.psw = psw;
    }

    fn timer(&self) -> Word {
        self.state.timer
    }

    fn set_timer(&mut self, instructions: Word) {
        self.state.timer = instructions;
    }

    fn console(&mut self) -> &mut Console {
        &mut self.state.console
    }

    fn run(&mut self, fuel: &mut u64) -> Stop {
        while !self.halted {
            if *fuel == 0 {
                return Stop::Exhausted;
            }
            *fuel -= 1;
            match self.step() {
                Ok(Flow::Next) => {}
                Ok(Flow::Halt) => self.halted = true,
                Err(cause) => {
                    self.trap(cause);
                    return Stop::Trap(cause);
                }
            }
        }
        Stop::Halted
    }
}
