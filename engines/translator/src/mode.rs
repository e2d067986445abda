//! The mode word: everything about the processor's state that changes what an instruction means or how it is
//! translated. Blocks are keyed by it, so that none of it is tested while guest code runs.

use vcpu::{CpuState, Shadow};
use x86::debug::Breakpoints;
use x86::{Cr0, Cr4, Mode, Rflags, Segment, SegmentRegister, Xcr0};

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModeWord(u32);

/// Which software TLB and jump table a memory access uses.
pub type View = usize;

const MODE_MASK: u32 = 7;
const VIEW_SHIFT: u32 = 3;
const RING0: u32 = 1 << 5;
const STACK_BIG: u32 = 1 << 6;
const FLAT_SHIFT: u32 = 7;
const STEP: u32 = 1 << 13;
const NO_X87: u32 = 1 << 14;
const NO_SSE: u32 = 1 << 15;
const NO_AVX: u32 = 1 << 16;
const NO_AVX512: u32 = 1 << 17;
const EMULATE: u32 = 1 << 18;
const FWAIT_TRAPS: u32 = 1 << 19;
const TASK_SWITCHED: u32 = 1 << 20;
const SMAP: u32 = 1 << 21;
const TSD: u32 = 1 << 22;
const PASS: u32 = 1 << 23;
const BASES: u32 = 1 << 24;

/// The view of rings 0 to 2.
pub const VIEW_KERNEL: View = 0;
/// The view of ring 3.
pub const VIEW_USER: View = 1;
/// The view of rings 0 to 2 while EFLAGS.AC lifts supervisor-mode access prevention.
pub const VIEW_KERNEL_AC: View = 2;

impl ModeWord {
    /// The mode word of a vCPU about to run.
    pub fn of(cpu: &CpuState) -> Self {
        let mode = cpu.mode();
        let cpl = cpu.cpl();
        let mut word = mode as u32;
        let lifts = cpu.cr4.contains(Cr4::SMAP) && cpu.rflags.contains(Rflags::AC);
        let view = match (cpl, lifts) {
            (3, _) => VIEW_USER,
            (_, true) => VIEW_KERNEL_AC,
            _ => VIEW_KERNEL,
        };
        word |= (view as u32) << VIEW_SHIFT;
        let mut set = |bit, on: bool| word |= if on { bit } else { 0 };
        set(RING0, cpl == 0);
        set(SMAP, cpu.cr4.contains(Cr4::SMAP));
        set(TSD, cpu.cr4.contains(Cr4::TSD));
        set(BASES, mode == Mode::Long64 && cpu.cr4.contains(Cr4::FSGSBASE));
        if mode != Mode::Long64 {
            set(STACK_BIG, cpu.segment(SegmentRegister::Ss).has(Segment::BIG));
            for (i, segment) in cpu.segments.iter().enumerate() {
                set(1 << (FLAT_SHIFT + i as u32), is_flat(segment, i));
            }
        }
        let watched = Breakpoints::of(&cpu.dr).in_memory() || checks_alignment(cpu);
        set(STEP, cpu.rflags.contains(Rflags::TF) || cpu.shadow != Shadow::None || watched);
        let task_switched = cpu.cr0.contains(Cr0::TS);
        set(TASK_SWITCHED, task_switched);
        set(NO_X87, task_switched || cpu.cr0.contains(Cr0::EM));
        set(FWAIT_TRAPS, cpu.cr0.contains(Cr0::TS | Cr0::MP));
        set(EMULATE, cpu.cr0.contains(Cr0::EM));
        set(NO_SSE, !cpu.cr4.contains(Cr4::OSFXSR) || task_switched || cpu.cr0.contains(Cr0::EM));
        let avx = cpu.cr4.contains(Cr4::OSXSAVE) && cpu.xcr0.contains(Xcr0::AVX);
        set(NO_AVX, !avx || task_switched);
        set(NO_AVX512, !avx || task_switched || !cpu.xcr0.contains(Xcr0::AVX512));
        Self(word)
    }

    /// From [`Self::word`].
    pub fn from_word(word: u64) -> Self {
        Self(word as u32)
    }

    /// As generated code stores it.
    pub fn word(self) -> u32 {
        self.0
    }

    fn with_view(self, view: View, ring0: bool) -> Self {
        let rest = self.0 & !(3 << VIEW_SHIFT | RING0);
        Self(rest | (view as u32) << VIEW_SHIFT | if ring0 { RING0 } else { 0 })
    }

    /// The mode after SYSCALL, with EFLAGS.AC clear.
    pub fn in_kernel(self) -> Self {
        self.with_view(0, true)
    }

    /// The mode after SYSRET to 64-bit code.
    pub fn in_user(self) -> Self {
        self.with_view(VIEW_USER, false)
    }

    /// The mode of ring 0 after STAC or CLAC.
    pub fn with_access(self, lifted: bool) -> Self {
        let view = if lifted && self.0 & SMAP != 0 { VIEW_KERNEL_AC } else { 0 };
        self.with_view(view, true)
    }

    /// The modes that generated code changes between without the engine: their jump tables must be ready
    /// together.
    pub fn siblings(self) -> impl Iterator<Item = Self> {
        let all = [self.in_kernel(), self.in_user(), self.with_view(VIEW_KERNEL_AC, true)];
        all.into_iter().filter(move |_| self.is_long())
    }

    /// RDTSC traps.
    pub fn traps_tsc(self) -> bool {
        self.0 & TSD != 0 && !self.is_ring0()
    }

    /// 64-bit mode, and CR4.FSGSBASE lets code of any ring read and write the bases of FS and GS.
    pub fn reaches_bases(self) -> bool {
        self.0 & BASES != 0
    }

    /// The operating mode.
    pub fn mode(self) -> Mode {
        match self.0 & MODE_MASK {
            0 => Mode::Real,
            1 => Mode::Virtual8086,
            2 => Mode::Protected16,
            3 => Mode::Protected32,
            _ => Mode::Long64,
        }
    }

    /// Code size in bits.
    pub fn bits(self) -> u32 {
        self.mode().code_bits()
    }

    /// 64-bit mode.
    pub fn is_long(self) -> bool {
        self.mode() == Mode::Long64
    }

    /// Which software TLB and jump table apply.
    pub fn view(self) -> View {
        (self.0 >> VIEW_SHIFT & 3) as View
    }

    /// Current privilege level 0.
    pub fn is_ring0(self) -> bool {
        self.0 & RING0 != 0
    }

    /// Width of the stack pointer in bits.
    pub fn stack_bits(self) -> u32 {
        match (self.is_long(), self.0 & STACK_BIG != 0) {
            (true, _) => 64,
            (_, true) => 32,
            _ => 16,
        }
    }

    /// Whether accesses through this segment need neither base nor limit.
    pub fn is_flat(self, segment: usize) -> bool {
        if self.is_long() { segment < 4 } else { self.0 >> (FLAT_SHIFT + segment as u32) & 1 != 0 }
    }

    /// One instruction at a time: single stepping, in an interrupt shadow, or watched by a breakpoint.
    pub fn steps(self) -> bool {
        self.0 & STEP != 0
    }

    /// Whether a debugger's breakpoints are passed.
    pub fn passes(self) -> bool {
        self.0 & PASS != 0
    }

    /// This mode for one instruction that is to run even if it has a debugger's breakpoint.
    pub fn for_one_step(self) -> Self {
        Self(self.0 | STEP | PASS)
    }

    /// This mode without [`Self::steps`].
    pub fn without_step(self) -> Self {
        Self(self.0 & !(STEP | PASS))
    }

    /// This mode with [`Self::steps`].
    pub fn with_step(self) -> Self {
        Self(self.0 | STEP)
    }

    /// Whether blocks of this mode are made so that they are good wherever their page is mapped. Ring 3's programs and
    /// libraries are at other addresses in each process, and linear addresses are rips there; a kernel stays
    /// where it is.
    pub fn is_relocatable(self) -> bool {
        self.is_long() && self.view() == VIEW_USER && !self.steps()
    }

    /// Whether any floating-point or vector instruction would trap, so that each must be looked at.
    pub fn restricts_fpu(self) -> bool {
        self.0 & (NO_X87 | NO_SSE | NO_AVX | NO_AVX512 | FWAIT_TRAPS) != 0
    }

    /// Whether any of those would that are as old as AVX, or FWAIT.
    pub fn restricts_old_fpu(self) -> bool {
        self.0 & (NO_X87 | NO_SSE | NO_AVX | FWAIT_TRAPS) != 0
    }

    /// x87 and MMX instructions trap.
    pub fn no_x87(self) -> bool {
        self.0 & NO_X87 != 0
    }

    /// SSE instructions trap.
    pub fn no_sse(self) -> bool {
        self.0 & NO_SSE != 0
    }

    /// AVX instructions trap.
    pub fn no_avx(self) -> bool {
        self.0 & NO_AVX != 0
    }

    /// AVX-512 instructions trap.
    pub fn no_avx512(self) -> bool {
        self.0 & NO_AVX512 != 0
    }

    /// CR0.EM: floating point is to be emulated by the guest.
    pub fn emulates(self) -> bool {
        self.0 & EMULATE != 0
    }

    /// CR0.TS: the registers belong to another task.
    pub fn task_switched(self) -> bool {
        self.0 & TASK_SWITCHED != 0
    }

    /// WAIT/FWAIT traps.
    pub fn fwait_traps(self) -> bool {
        self.0 & FWAIT_TRAPS != 0
    }
}

/// Whether misaligned accesses fault.
pub fn checks_alignment(cpu: &CpuState) -> bool {
    cpu.rflags.contains(Rflags::AC) && cpu.cr0.contains(Cr0::AM) && cpu.cpl() == 3
}

/// Base 0 and 4 GiB of ordinary, writable (for CS: executable) memory.
fn is_flat(segment: &Segment, index: usize) -> bool {
    let kind = if index == SegmentRegister::Cs as usize {
        Segment::EXECUTABLE | Segment::READABLE_OR_WRITABLE
    } else {
        Segment::READABLE_OR_WRITABLE
    };
    let expand_down = !segment.has(Segment::EXECUTABLE) && segment.has(Segment::CONFORMING_OR_EXPAND_DOWN);
    segment.is_present()
        && segment.has(kind)
        && !expand_down
        && segment.base == 0
        && segment.limit == u32::MAX
}
