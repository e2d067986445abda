//! Binary translation: unmodified guest code of any privilege runs on the processor, rewritten once.
//!
//! An innocuous instruction is copied with its registers as they are; memory operands go through a software TLB
//! ([`tlb`]), control flow through the translation cache ([`cache`]), and sensitive instructions leave to the
//! monitor. The way of a guest instruction: [`decode`] finds it and what it does to flags, [`lower`] writes host
//! code for it, [`cache`] keeps that, [`engine`] runs it, and [`slow`] does what it could not.
//!
//! What keeps the processor busy in ring 3 does not stay translated: it runs as it is, in a process of its own ([`direct`]).
//!
//! W^X: the cache is mapped twice, and no address of it is ever writable and executable. Nothing here is global
//! but the signal handler; a vCPU has a translator of its own, with its own cache and TLB.
//!
//! Not kept exact: status flags that a program overwrites before it reads them may be lost where a memory access
//! comes between, and so differ in the flags image that a fault on that access pushes.
//! Of several faults of one instruction that of a page or segment may come before #UD, #MF or that of alignment.
//! A direct near jump to where nothing can be (an address that is not canonical, an offset beyond CS) faults there
//! and not at the jump, as an indirect one does. x87's pointers to its last instruction and operand are the host's. In 16- and 32-bit modes
//! FXSAVE, XSAVE and VZEROALL reach xmm8 to xmm15. A test compares everything else with the processor.

mod access;
mod block;
mod by_part;
mod cache;
mod cells;
mod code;
mod context;
mod decode;
mod detour;
mod direct;
mod emit;
mod engine;
mod fault;
mod fetch;
mod flags;
mod gigabytes;
mod guest;
mod hash;
mod hint;
mod hint_table;
mod inlining;
mod inspect;
mod lower;
mod mode;
mod peers;
mod refill;
mod region;
mod regs;
mod repeat;
mod sample;
mod seen;
mod slow;
mod spaces;
mod status;
mod tlb;
mod tlb_entry;
mod trampoline;
mod vectors;
mod walk;
mod windows;
mod xsave;

pub use direct::Promotion;
pub use engine::{Options, Translator};
pub use hint::Windowing;
pub use peers::Peers;

/// Whether a sensitive instruction is done inside translated code while a vCPU is in this state, for tools that
/// tell what becomes of code. Some of its forms may leave to the monitor all the same.
pub fn inlines(instruction: &iced_x86::Instruction, cpu: &vcpu::CpuState) -> bool {
    let mode = mode::ModeWord::of(cpu);
    let routine = x86::classify::routine(instruction.code(), mode.mode());
    routine.is_some_and(|routine| inlining::inlines(instruction, routine, mode))
}
