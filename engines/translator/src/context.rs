//! What generated code and the engine share: one [`Context`] per vCPU, and where it stands.
//!
//! The context, the software TLBs, the jump tables and the translation cache lie in one reservation below
//! 2 GiB, so that generated code reaches all of them with 32-bit displacements and needs no base register:
//!
//! ```text
//! +0          Context
//! +KICK       the kick word
//! +BOUNCE     guard page, two bounce pages, guard page
//! +TLB        one software TLB per memory view
//! +JUMP       one jump table per memory view: pairs of a guest address and the host's
//! +VICTIM     one victim table behind each jump table
//! +HINTS      the hints
//! +PAGES      linear addresses of ring 3's code pages
//! +CELLS      where ring 3's jumps to other pages lead
//! +CODE       the translation cache, executable; written through a second mapping elsewhere
//! ```

use std::mem::offset_of;

use host::HUGE_PAGE;

use crate::hint_table::{GROUP, HintId, HintTable};
use crate::walk::Walk;

/// Views of memory with a software TLB and a jump table each: what the same address means depends on who asks.
pub const VIEWS: usize = 3;
/// Entries of one software TLB. It has one way: with a quarter of this, two pages that a loop needs met in one
/// entry often enough to be seen, at a microsecond each time round.
pub const TLB_ENTRIES: usize = 4096;
/// log2 of the size of a [`crate::tlb_entry::TlbEntry`].
pub const TLB_ENTRY_SHIFT: u32 = 5;
/// Entries of one jump table.
pub const JUMP_ENTRIES: usize = 16384;

/// Entries of the victim table behind each jump table.
pub const VICTIM_ENTRIES: usize = 4096;

/// Bytes of an entry of either: the guest address of a block, and the host address of its entry for indirect jumps.
pub const JUMP_ENTRY_BYTES: usize = 16;

/// Offset of the kick word, which other threads set: not zero when the engine is to leave guest code.
pub const KICK_OFFSET: usize = 0x2000;
/// Offset of the bounce pages' leading guard.
pub const BOUNCE_OFFSET: usize = 0x4000;
/// Offset of the software TLBs: the tables from there on are in huge pages.
pub const TLB_OFFSET: usize = HUGE_PAGE;
/// Bytes of one software TLB.
pub const TLB_BYTES: usize = TLB_ENTRIES << TLB_ENTRY_SHIFT;
/// Offset of the jump tables.
pub const JUMP_OFFSET: usize = TLB_OFFSET + VIEWS * TLB_BYTES;
/// Bytes of one jump table.
pub const JUMP_BYTES: usize = JUMP_ENTRIES * JUMP_ENTRY_BYTES;
/// Offset of the victim tables.
pub const VICTIM_OFFSET: usize = JUMP_OFFSET + VIEWS * JUMP_BYTES;
/// Bytes of one victim table.
pub const VICTIM_BYTES: usize = VICTIM_ENTRIES * JUMP_ENTRY_BYTES;
/// Offset of the hints.
pub const HINTS_OFFSET: usize = VICTIM_OFFSET + VIEWS * VICTIM_BYTES;
/// Offset of the addresses of code pages.
pub const PAGES_OFFSET: usize = (HINTS_OFFSET + size_of::<HintTable>()).next_multiple_of(4096);
/// How many code pages may have one.
pub const PAGE_SLOTS: usize = 8192;
/// The number of a code page's slot.
pub type PageSlot = u16;
/// Offset of the cells.
pub const CELLS_OFFSET: usize = PAGES_OFFSET + PAGE_SLOTS * 8;
/// How many cells there are.
pub const CELLS: usize = 1 << 17;
/// The number of a cell.
pub type CellId = u32;
/// Bytes of one: where it leads now, and its way out.
const CELL_BYTES: usize = 16;
/// Offset of the translation cache.
pub const CODE_OFFSET: usize = (CELLS_OFFSET + CELLS * CELL_BYTES).next_multiple_of(HUGE_PAGE);

/// Addresses generated code refers to.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The [`Context`].
    pub context: u64,
    /// The exit stub: control returns to the engine with an exit index in r9d.
    pub exit: u64,
    /// The first of the routines that fill hints.
    pub refill: u64,
    /// The first of those for repeated string instructions.
    pub repeat: u64,
    /// The first of those that walk page tables.
    pub walk: u64,
}

impl Layout {
    /// Where a view's software TLB stands.
    pub fn tlb(&self, view: usize) -> u64 {
        self.context + (TLB_OFFSET + view * TLB_BYTES) as u64
    }

    /// Where a view's jump table stands.
    pub fn jump_table(&self, view: usize) -> u64 {
        self.context + (JUMP_OFFSET + view * JUMP_BYTES) as u64
    }

    /// Where a view's victim table stands.
    pub fn victim_table(&self, view: usize) -> u64 {
        self.context + (VICTIM_OFFSET + view * VICTIM_BYTES) as u64
    }

    /// Where one of the arrays of the hints stands, by its offset in [`HintTable`].
    pub fn hints(&self, array: usize) -> u64 {
        self.context + (HINTS_OFFSET + array) as u64
    }

    /// Where the mark of a hint's group stands.
    pub fn hint_mark(&self, hint: HintId) -> u64 {
        self.hints(HintTable::FILLED) + (usize::from(hint) / GROUP) as u64
    }

    /// The first byte of the two bounce pages; the pages before and after are inaccessible.
    pub fn bounce(&self) -> u64 {
        self.context + (BOUNCE_OFFSET + 4096) as u64
    }

    /// The translation cache as it is executed.
    pub fn code(&self) -> u64 {
        self.context + CODE_OFFSET as u64
    }
}

/// State that generated code reads and writes. While guest code runs, a general register lives in the host
/// register of the same name, except r9, r10 and r11, which live here: the translator's sequences need three
/// scratch registers, and these are the ones that code uses least.
#[repr(C, align(4096))]
pub struct Context {
    /// Guest general registers.
    pub gpr: [u64; 16],
    /// The status flags in ax form (`lahf; seto al`) while the guest does not run.
    pub flags: u64,
    /// The status flags in ax form across an indirect jump, or around a string instruction.
    pub jump_flags: u64,
    /// RFLAGS other than the status flags, IF and DF.
    pub system_flags: u64,
    /// IF, apart so that CLI is one store: 2 (the bit's place in the second byte of RFLAGS) or 0.
    pub interrupt_flag: u64,
    /// DF, apart for the same reason, in the same byte: 4 or 0. The host's stays clear.
    pub direction_flag: u64,
    /// Not zero when STI is to leave guest code, because an interrupt waits.
    pub window: u64,
    /// The mode word, kept by code that changes it.
    pub mode: u64,
    /// Not zero when CS and SS are those of SYSCALL (1) or SYSRET (2) and `CpuState` does not know yet.
    pub ring_change: u64,
    /// How often ring 3 has entered the kernel, by SYSCALL or an exception.
    pub kernel_entries: u64,
    /// Segment selectors.
    pub selector: [u64; 6],
    /// Base of the global descriptor table.
    pub gdt_base: u64,
    /// Not zero when IRET is to leave guest code.
    pub slow_return: u64,
    /// What SWAPGS exchanges with the base of GS.
    pub kernel_gs_base: u64,
    /// What RDTSCP returns in ecx.
    pub tsc_aux: u64,
    /// Segment bases.
    pub base: [u64; 6],
    /// For segments that are not flat: the number of readable bytes, 0 where only the slow path may decide.
    pub readable: [u64; 6],
    /// The same for writes.
    pub writable: [u64; 6],
    /// CR0 to CR4, which generated code only reads.
    pub control: [u64; 5],
    /// Added to the host's time-stamp counter.
    pub tsc_offset: u64,
    /// Where [`crate::trampoline`] enters.
    pub enter_target: u64,
    /// Why guest code was left: r9 at the exit, see [`crate::block::Site`].
    pub exit_index: u64,
    /// r10 at the exit: the target, for a missed jump.
    pub exit_value: u64,
    /// r11 at a miss: the [`crate::block::Site`] of the indirect jump, if it was one.
    pub jump_source: u64,
    /// A value on its way between two accesses of one instruction.
    pub carried: u64,
    /// Another.
    pub carried_more: u64,
    /// Address of the [`crate::refill::Note`] of an access whose hint has missed.
    pub note: u64,
    /// The first twelve general registers while a hint is filled, those that are needed for it; the spilled ones at a signal.
    pub put: [u64; 12],
    /// Where that leads.
    pub onward: u64,
    /// What [`Self::note`] was, while one routine needs another.
    pub outer_note: u64,
    /// What the walks of page tables go by.
    pub walk: Walk,
    /// The XSAVE area of the vCPU.
    pub fpu: u64,
    /// The host's stack pointer while the guest runs.
    pub host_rsp: u64,
    /// The host's MXCSR.
    pub host_mxcsr: u64,
    /// Host address at which a host signal stopped guest code, or zero.
    pub fault_pc: u64,
    /// 1 for SIGBUS.
    pub fault_signal: u64,
    /// The processor's vector.
    pub fault_vector: u64,
    /// The address it names.
    pub fault_address: u64,
    /// Its error code.
    pub fault_code: u64,
}

/// A field of the context that generated code names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ContextField {
    Gpr(u8),
    Flags,
    JumpFlags,
    SystemFlags,
    InterruptFlag,
    DirectionFlag,
    Kick,
    Window,
    Mode,
    RingChange,
    KernelEntries,
    PageBase(PageSlot),
    Cell(CellId),
    Selector(u8),
    GdtBase,
    SlowReturn,
    KernelGsBase,
    TscAux,
    Base(u8),
    Readable(u8),
    Writable(u8),
    Control(u8),
    TscOffset,
    EnterTarget,
    ExitIndex,
    ExitValue,
    JumpSource,
    Carried,
    CarriedMore,
    Note,
    OuterNote,
    Put(u8),
    Onward,
    /// At an offset in [`Walk`].
    Walk(u16),
    Fpu,
    HostRsp,
    HostMxcsr,
    HintTag(HintId),
    HintDelta(HintId),
    HintLimit(HintId),
}

impl ContextField {
    /// Offset from the context's beginning.
    pub fn offset(self) -> usize {
        let array = |base: usize, i: u8| base + usize::from(i) * 8;
        let hint = |array: usize, n: HintId| HINTS_OFFSET + array + usize::from(n) * 8;
        match self {
            Self::Gpr(i) => array(offset_of!(Context, gpr), i),
            Self::Flags => offset_of!(Context, flags),
            Self::JumpFlags => offset_of!(Context, jump_flags),
            Self::SystemFlags => offset_of!(Context, system_flags),
            Self::DirectionFlag => offset_of!(Context, direction_flag),
            Self::InterruptFlag => offset_of!(Context, interrupt_flag),
            Self::Kick => KICK_OFFSET,
            Self::Window => offset_of!(Context, window),
            Self::Mode => offset_of!(Context, mode),
            Self::RingChange => offset_of!(Context, ring_change),
            Self::KernelEntries => offset_of!(Context, kernel_entries),
            Self::PageBase(n) => PAGES_OFFSET + usize::from(n) * 8,
            Self::Cell(n) => CELLS_OFFSET + n as usize * CELL_BYTES,
            Self::Selector(i) => array(offset_of!(Context, selector), i),
            Self::GdtBase => offset_of!(Context, gdt_base),
            Self::SlowReturn => offset_of!(Context, slow_return),
            Self::KernelGsBase => offset_of!(Context, kernel_gs_base),
            Self::TscAux => offset_of!(Context, tsc_aux),
            Self::Base(i) => array(offset_of!(Context, base), i),
            Self::Readable(i) => array(offset_of!(Context, readable), i),
            Self::Writable(i) => array(offset_of!(Context, writable), i),
            Self::Control(i) => array(offset_of!(Context, control), i),
            Self::TscOffset => offset_of!(Context, tsc_offset),
            Self::EnterTarget => offset_of!(Context, enter_target),
            Self::ExitIndex => offset_of!(Context, exit_index),
            Self::ExitValue => offset_of!(Context, exit_value),
            Self::JumpSource => offset_of!(Context, jump_source),
            Self::Carried => offset_of!(Context, carried),
            Self::CarriedMore => offset_of!(Context, carried_more),
            Self::Note => offset_of!(Context, note),
            Self::OuterNote => offset_of!(Context, outer_note),
            Self::Put(i) => array(offset_of!(Context, put), i),
            Self::Onward => offset_of!(Context, onward),
            Self::Walk(offset) => offset_of!(Context, walk) + usize::from(offset),
            Self::Fpu => offset_of!(Context, fpu),
            Self::HostRsp => offset_of!(Context, host_rsp),
            Self::HostMxcsr => offset_of!(Context, host_mxcsr),
            Self::HintTag(n) => hint(HintTable::TAGS, n),
            Self::HintDelta(n) => hint(HintTable::DELTAS, n),
            Self::HintLimit(n) => hint(HintTable::LIMITS, n),
        }
    }
}
