//! The assembler: a program's text to the words of a machine's memory.
//!
//! ```text
//! ; hello.asm: a comment
//!         .equ limit, 5                  ; a name for a number
//!         .org 1                         ; go on at this address
//!         .psw supervisor, trap, 0, size ; M, P, l and b in one word; `size` is the machine's
//! start:  SET  n, limit                  ; a program begins at `start`, or at 3
//! loop:   OUT  ='*'                      ; the address of a word that holds this
//!         SUB  n, =1
//!         BNZ  n, loop
//! trap:   HALT
//! n:      .word 0
//! name:   .string "popf"                 ; a word for each byte, and a 0
//! room:   .space 10                      ; words of 0
//! ```
//!
//! Numbers are decimal, hexadecimal (`0x1f`) or a character (`'a'`, `'\n'`), and may be added and subtracted. What
//! `.equ`, `.org` and `.space` take must be known from the lines above.

mod expression;
mod parse;

use std::collections::HashMap;
use std::fmt;

use expression::Expression;
use parse::{Line, Statement};

use crate::isa::{OPERAND_LIMIT, Operand};
use crate::machine::FREE;
use crate::{Instruction, Mode, Psw, Shape, Word};

/// A program in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// All words of the machine.
    pub memory: Vec<Word>,
    /// Where it begins.
    pub entry: Word,
    /// The addresses that have names, in the order of addresses.
    pub labels: Vec<(String, Word)>,
}

impl Program {
    /// An address as people call it: the label at or before it.
    pub fn place(&self, address: Word) -> Option<(&str, Word)> {
        let behind = self.labels.partition_point(|&(_, at)| at <= address);
        let (name, at) = self.labels.get(behind.checked_sub(1)?)?;
        Some((name, address - at))
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for Error {}

/// Translates a program for a machine of `size` words. Everything that is wrong is told, in the order of lines.
///
/// # Panics
/// If there is no such machine, see [`Shape::full`].
pub fn assemble(text: &str, size: Word) -> Result<Program, Vec<Error>> {
    let mut assembler = Assembler::new(size);
    for (n, line) in text.lines().enumerate() {
        assembler.place(n + 1, line);
    }
    assembler.place_literals();
    for placed in std::mem::take(&mut assembler.placed) {
        assembler.write(&placed);
    }
    assembler.finish()
}

/// A statement and where it goes.
struct Placed {
    line: usize,
    at: Word,
    statement: Statement,
}

struct Assembler {
    shape: Shape,
    here: Word,
    names: HashMap<String, Word>,
    labels: Vec<(String, Word)>,
    placed: Vec<Placed>,
    /// Each literal once, with the line that asked for it first.
    literals: Vec<(Expression, usize, Word)>,
    memory: Vec<Option<Word>>,
    errors: Vec<Error>,
}

impl Assembler {
    fn new(size: Word) -> Self {
        Self {
            shape: Shape::full(size),
            here: FREE,
            names: HashMap::from([("size".to_owned(), size)]),
            labels: Vec::new(),
            placed: Vec::new(),
            literals: Vec::new(),
            memory: vec![None; size as usize],
            errors: Vec::new(),
        }
    }

    fn error(&mut self, line: usize, message: impl Into<String>) {
        self.errors.push(Error { line, message: message.into() });
    }

    /// First pass: what the line is, and where it goes.
    fn place(&mut self, line: usize, text: &str) {
        let Line { label, statement } = match parse::line(text) {
            Ok(parsed) => parsed,
            Err(message) => return self.error(line, message),
        };
        if let Some(label) = label {
            self.define(line, &label, self.here);
            self.labels.push((label, self.here));
        }
        let Some(statement) = statement else { return };
        let words = match &statement {
            Statement::Org(to) => {
                if let Some(to) = self.now(line, to) {
                    self.here = to;
                }
                return;
            }
            Statement::Name(name, value) => {
                if let Some(value) = self.now(line, value) {
                    self.define(line, name, value);
                }
                return;
            }
            Statement::Space(count) => self.now(line, count).unwrap_or(0),
            Statement::Words(words) => words.len() as Word,
            Statement::Bytes(bytes) => bytes.len() as Word + 1,
            Statement::Psw(..) => 1,
            Statement::Instruction(_, operands) => {
                let literals = operands.iter().filter(|operand| operand.literal);
                for literal in literals.map(|operand| &operand.value) {
                    if self.literals.iter().all(|(known, ..)| known != literal) {
                        self.literals.push((literal.clone(), line, 0));
                    }
                }
                1
            }
        };
        let size = self.shape.size();
        match self.here.checked_add(words) {
            Some(end) if end <= size => {
                self.placed.push(Placed { line, at: self.here, statement });
                self.here = end;
            }
            _ => self.error(line, format!("this does not fit the machine's {size} words")),
        }
    }

    /// Literals stand behind everything else.
    fn place_literals(&mut self) {
        let ends = self.placed.iter().map(|placed| placed.at + 1).max().unwrap_or(FREE);
        let mut here = self.here.max(ends);
        let size = self.shape.size();
        let mut full = None;
        for (_, line, at) in &mut self.literals {
            if here < size {
                *at = here;
                here += 1;
            } else {
                full = full.or(Some(*line));
            }
        }
        if let Some(line) = full {
            self.error(line, format!("there is no room for this literal in the machine's {size} words"));
        }
        for (value, line, at) in self.literals.clone() {
            if let Some(value) = self.now(line, &value) {
                self.set(line, at, value);
            }
        }
    }

    /// Second pass: the statement's words.
    fn write(&mut self, placed: &Placed) {
        let &Placed { line, at, .. } = placed;
        match &placed.statement {
            Statement::Org(_) | Statement::Name(..) => {}
            Statement::Space(count) => {
                for n in 0..self.now(line, count).unwrap_or(0) {
                    self.set(line, at + n, 0);
                }
            }
            Statement::Words(words) => {
                for (n, word) in words.iter().enumerate() {
                    if let Some(word) = self.now(line, word) {
                        self.set(line, at + n as Word, word);
                    }
                }
            }
            Statement::Bytes(bytes) => {
                for (n, byte) in bytes.iter().copied().chain([0]).enumerate() {
                    self.set(line, at + n as Word, byte.into());
                }
            }
            Statement::Psw(m, fields) => self.write_psw(line, at, *m, fields),
            Statement::Instruction(row, operands) => {
                let mut values = [0; 2];
                for ((value, operand), kind) in values.iter_mut().zip(operands).zip(row.operands) {
                    let literal = || self.literals.iter().find(|(known, ..)| *known == operand.value);
                    let found = if operand.literal {
                        literal().map(|&(.., at)| at)
                    } else {
                        self.now(line, &operand.value)
                    };
                    *value = found.unwrap_or(0);
                    if *value >= OPERAND_LIMIT {
                        let hint =
                            if *kind == Operand::Number { "; MOV from a literal takes any" } else { "" };
                        self.error(line, format!("{value} is too large for an operand{hint}"));
                    }
                }
                let instruction = Instruction { op: row.op, a: values[0], b: values[1] };
                self.set(line, at, instruction.encode());
            }
        }
    }

    fn write_psw(&mut self, line: usize, at: Word, m: Mode, fields: &[Expression; 3]) {
        let [Some(p), Some(l), Some(b)] = [0, 1, 2].map(|n| self.now(line, &fields[n])) else { return };
        let psw = Psw { m, p, r: crate::Relocation { l, b } };
        let word = self.shape.pack(psw);
        if p.max(l).max(b) > Shape::MAX_SIZE || self.shape.unpack(word) != psw {
            return self.error(line, format!("⟨{psw}⟩ does not fit a PSW"));
        }
        self.set(line, at, word);
    }

    /// What an expression is worth, if all of its names are known by now.
    fn now(&mut self, line: usize, expression: &Expression) -> Option<Word> {
        match expression.value(&self.names) {
            Ok(value) => Some(value),
            Err(unknown) => {
                self.error(line, format!("there is no {unknown:?}"));
                None
            }
        }
    }

    fn define(&mut self, line: usize, name: &str, value: Word) {
        if self.names.insert(name.to_owned(), value).is_some() {
            self.error(line, format!("{name:?} has been defined before"));
        }
    }

    fn set(&mut self, line: usize, at: Word, word: Word) {
        let place = &mut self.memory[at as usize];
        if place.replace(word).is_some() {
            self.error(line, format!("the word at {at} has been written before"));
        }
    }

    fn finish(mut self) -> Result<Program, Vec<Error>> {
        if !self.errors.is_empty() {
            self.errors.sort_by_key(|error| error.line);
            return Err(self.errors);
        }
        self.labels.sort_by_key(|&(_, at)| at);
        let start = self.labels.iter().find(|(name, _)| name == "start");
        Ok(Program {
            memory: self.memory.into_iter().map(Option::unwrap_or_default).collect(),
            entry: start.map_or(FREE, |&(_, at)| at),
            labels: self.labels,
        })
    }
}
