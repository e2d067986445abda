//! The theory popf is built on, as code that runs: Popek and Goldberg, "Formal Requirements for Virtualizable
//! Third Generation Architectures", Communications of the ACM 17(7), 1974. Section and theorem numbers in this
//! crate are that paper's.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`psw`] | a machine's state ⟨E, M, P, R⟩ but for E, and how a program status word is packed |
//! | [`isa`] | the instructions, and the instruction sets: one that is virtualizable, five that are not |
//! | [`semantics`] | what each instruction does |
//! | [`machine`], [`bare`] | a machine as the control program on it sees it; the real one |
//! | [`monitor`] | the control program ⟨D, A, {v}⟩, and the hybrid one of theorem 3; a VM is a machine again |
//! | [`theorems`] | sensitivity computed from the definitions, and what the theorems say of an instruction set |
//! | [`equivalence`] | programs run at different depths and compared; a program that can tell, made small |
//! | [`assembler`] | text to program |
//!
//! What the paper leaves open is decided here so: words have 64 bits and instructions are memory to memory, so
//! that no register is missing from ⟨E, M, P, R⟩. A trap leaves its cause in E(2), besides the exchange of PSWs
//! at E(0) and E(1). There is a console and a timer, which count as resources like R.
//!
//! Not modelled: devices that interrupt or reach memory, more than one processor, time other than the number of
//! instructions.

pub mod assembler;
pub mod bare;
pub mod equivalence;
pub mod isa;
pub mod machine;
pub mod monitor;
pub mod psw;
pub mod semantics;
pub mod theorems;

pub use bare::Bare;
pub use isa::{Instruction, Isa, Op, Plain, System};
pub use machine::{Cause, Machine, Stop};
pub use monitor::{Kind, Monitor, tower};
pub use psw::{Mode, Psw, Relocation, Shape, Word};
