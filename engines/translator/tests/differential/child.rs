//! The real processor's side: a forked process that runs cases on the bare instruction set.
//!
//! A case is entered and left by a signal. For the first of a batch the process executes UD2; the handler keeps the
//! context that it finds and puts the case's registers in its place. Whatever ends the case (its own UD2, or a fault)
//! raises the next signal, whose context is what the case left, and whose handler returns into the next case. Nothing
//! here allocates or locks: the process was forked from one with threads.
#![allow(unsafe_code)] // Signal handlers, fixed mappings, and registers that are another program's.

use std::{ptr, slice};

use crate::case::{
    ALIAS, CODE, CODE_PAGES, DATA, DATA_BYTES, ENDLESS, FPU_BYTES, PAGE, PageKind, SEGMENTS, WINDOW,
    WINDOW_PAGES, Width, note_changes, page_kind,
};
use crate::fpu::{self, Area};
use crate::native::{BATCH, Shared};

const SIGNALS: [libc::c_int; 6] =
    [libc::SIGVTALRM, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
const GPR: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];
/// The frame's SS is to be loaded, and as it is (Linux, asm/ucontext.h).
const RESTORE_SS: libc::c_ulong = 2 | 4;
const STACK_BYTES: usize = 64 << 10;

struct Child {
    phase: Phase,
    shared: *mut Shared,
    /// The case that runs, by its place in the batch.
    current: usize,
    /// Cases begun.
    begun: u64,
    /// As many had begun at the last tick of the clock.
    ticked: u64,
    /// The window's writable mapping.
    view: *mut u8,
    data: &'static [u8],
    /// What the process itself goes on with after a batch.
    gregs: [i64; 23],
    flags: libc::c_ulong,
    fpu: [u8; FPU_BYTES],
    fs_base: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Enter,
    Inside,
}

static mut CHILD: Child = Child {
    phase: Phase::Idle,
    shared: ptr::null_mut(),
    current: 0,
    begun: 0,
    ticked: 0,
    view: ptr::null_mut(),
    data: &[],
    gregs: [0; 23],
    flags: 0,
    fpu: [0; FPU_BYTES],
    fs_base: 0,
};
static mut STACK: [u8; STACK_BYTES] = [0; STACK_BYTES];

/// The child's life.
pub fn serve(shared: *mut Shared, data: &'static [u8], from: libc::c_int, to: libc::c_int) -> ! {
    // SAFETY: single-threaded from the fork on; the statics are this process's own; `shared` is mapped, and the
    // parent touches it only while we wait in `read`.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let view = prepare_window();
        ptr::copy_nonoverlapping(data.as_ptr(), view.add((DATA - WINDOW) as usize), DATA_BYTES);
        let segments = prepare_segments();
        prepare_signals();
        (CHILD.shared, CHILD.view, CHILD.data) = (shared, view, data);
        std::arch::asm!("rdfsbase {}", out(reg) CHILD.fs_base);
        libc::write(to, [u8::from(segments)].as_ptr().cast(), 1);
        let mut byte = [0_u8];
        while libc::read(from, byte.as_mut_ptr().cast(), 1) == 1 {
            CHILD.phase = Phase::Enter;
            std::arch::asm!("ud2");
            libc::write(to, byte.as_ptr().cast(), 1);
        }
        libc::_exit(0);
    }
}

/// # Safety
/// `view` is the window's writable mapping, and the range lies in its code pages.
unsafe fn fill_code(view: *mut u8, offset: u64, len: usize) {
    for n in offset..offset + len as u64 {
        // SAFETY: by the contract.
        unsafe { view.add((CODE - WINDOW + n) as usize).write(if n & 1 == 0 { 0x0f } else { 0x0b }) };
    }
}

unsafe extern "C" fn handle(signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid context. FS may hold the case's base here, so nothing thread-local may be
    // touched before it is put right. No other signal comes while this one is handled.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let child = &raw mut CHILD;
        let child = &mut *child;
        let image: *mut u8 = context.uc_mcontext.fpregs.cast();
        if signal == libc::SIGVTALRM {
            let runs_long = child.phase == Phase::Inside && child.ticked == child.begun;
            child.ticked = child.begun;
            if !runs_long {
                return;
            }
        }
        match child.phase {
            Phase::Idle => libc::_exit(100 + signal),
            Phase::Enter => {
                child.gregs = context.uc_mcontext.gregs;
                child.gregs[libc::REG_RIP as usize] += 2;
                child.flags = context.uc_flags;
                ptr::copy_nonoverlapping(image, child.fpu.as_mut_ptr(), fpu::size());
                child.current = 0;
                child.phase = Phase::Inside;
            }
            Phase::Inside => {
                child.finish(signal, context);
                child.current += 1;
                context.uc_mcontext.gregs = child.gregs;
                context.uc_flags = child.flags;
            }
        }
        if child.current < (*child.shared).count as usize {
            child.begin(context);
        } else {
            ptr::copy_nonoverlapping(child.fpu.as_ptr(), image, fpu::size());
            child.phase = Phase::Idle;
        }
    }
}

impl Child {
    /// Where the data pages can be written.
    fn words(&self) -> *mut u8 {
        // In the view, which holds the whole window.
        self.view.wrapping_add((DATA - WINDOW) as usize)
    }

    /// Makes memory and the context, which is the process's own, those of the current case.
    ///
    /// # Safety
    /// In the handler, with its context.
    unsafe fn begin(&mut self, context: &mut libc::ucontext_t) {
        // SAFETY: all offsets lie in the window's mapping; the current case is in the batch.
        unsafe {
            let case = &(*self.shared).cases[self.current];
            self.begun += 1;
            for (offset, value) in case.patches {
                self.words().add(offset as usize).cast::<u64>().write_unaligned(value);
            }
            let before = self.current.checked_sub(1).map(|n| &(*self.shared).cases[n]);
            if !before.is_some_and(|before| before.same_program(case)) {
                let code = self.view.add((case.linear_start() - WINDOW) as usize);
                ptr::copy_nonoverlapping(case.code.as_ptr(), code, case.code_len as usize);
            }
            let gregs = &mut context.uc_mcontext.gregs;
            for (n, register) in GPR.into_iter().enumerate() {
                gregs[register as usize] = case.gpr[n] as i64;
            }
            gregs[libc::REG_RIP as usize] = case.start as i64;
            gregs[libc::REG_EFL as usize] = (case.rflags | 0x202) as i64;
            fill_image(&(*self.shared).areas[self.current], context.uc_mcontext.fpregs.cast());
            if case.width == Width::Bits64 {
                std::arch::asm!("wrfsbase {}", in(reg) case.fs_base);
                std::arch::asm!("wrgsbase {}", in(reg) case.gs_base);
                return;
            }
            let selector = |n: usize| i64::from(selector(case.segments[n]));
            std::arch::asm!("mov es, {0:x}", in(reg) selector(0));
            std::arch::asm!("mov ds, {0:x}", in(reg) selector(3));
            std::arch::asm!("mov fs, {0:x}", in(reg) selector(4));
            std::arch::asm!("mov gs, {0:x}", in(reg) selector(5));
            gregs[libc::REG_CSGSFS as usize] = selector(1) | selector(2) << 48;
            context.uc_flags |= RESTORE_SS;
        }
    }

    /// Takes down what the current case has left, and makes memory what it was.
    ///
    /// # Safety
    /// In the handler, with its context.
    unsafe fn finish(&mut self, signal: libc::c_int, context: &libc::ucontext_t) {
        // SAFETY: as in `begin`; the statics are read by this thread alone.
        unsafe {
            let case = &(*self.shared).cases[self.current];
            if case.width != Width::Bits64 {
                std::arch::asm!("mov es, {0:x}", in(reg) 0);
                std::arch::asm!("mov ds, {0:x}", in(reg) 0);
                std::arch::asm!("mov fs, {0:x}", in(reg) 0);
                std::arch::asm!("mov gs, {0:x}", in(reg) 0);
            }
            std::arch::asm!("wrfsbase {}", in(reg) self.fs_base);
            let gregs = &context.uc_mcontext.gregs;
            let outcome = &mut (*self.shared).outcomes[self.current];
            for (n, register) in GPR.into_iter().enumerate() {
                outcome.gpr[n] = gregs[register as usize] as u64;
            }
            outcome.rip = gregs[libc::REG_RIP as usize] as u64;
            outcome.rflags = gregs[libc::REG_EFL as usize] as u64;
            outcome.vector = match signal {
                libc::SIGVTALRM => ENDLESS,
                _ => gregs[libc::REG_TRAPNO as usize] as u64,
            };
            outcome.error_code = gregs[libc::REG_ERR as usize] as u64;
            outcome.address = gregs[libc::REG_CR2 as usize] as u64;
            let image: *const u8 = context.uc_mcontext.fpregs.cast();
            ptr::copy_nonoverlapping(image, outcome.fpu.as_mut_ptr(), fpu::size());
            fpu::normalise(&mut outcome.fpu);
            note_changes(self.data, slice::from_raw_parts(self.words(), DATA_BYTES), outcome);
            for (offset, _) in outcome.changes() {
                let offset = *offset as usize;
                ptr::copy_nonoverlapping(self.data[offset..].as_ptr(), self.words().add(offset), 8);
            }
            let next = &(*self.shared).cases[(self.current + 1) % BATCH];
            if self.current + 1 == (*self.shared).count as usize || !case.same_program(next) {
                fill_code(self.view, case.linear_start() - CODE, case.code_len as usize);
            }
        }
    }
}

/// Puts a case's vector state into a signal frame, whose software bytes and other components stay.
///
/// # Safety
/// `image` is a frame's XSAVE image.
unsafe fn fill_image(area: &Area, image: *mut u8) {
    const HEADER: usize = 512;
    let layout = fpu::layout();
    // SAFETY: the image holds every component that XCR0 names, at the standard offsets.
    unsafe {
        ptr::copy_nonoverlapping(area.as_ptr(), image, 416);
        for (at, size) in layout.components {
            ptr::copy_nonoverlapping(area.as_ptr().add(at), image.add(at), size);
        }
        let present: *mut u64 = image.add(HEADER).cast();
        present.write_unaligned(present.read_unaligned() | layout.mask);
    }
}

fn selector(index: u8) -> u16 {
    u16::from(index) << 3 | 7
}

/// Maps the window at its two places and once more for writing, and gives the last.
///
/// # Safety
/// In the child only.
unsafe fn prepare_window() -> *mut u8 {
    const BYTES: usize = (WINDOW_PAGES * PAGE) as usize;
    // SAFETY: the fixed places are checked to be free by MAP_FIXED_NOREPLACE.
    unsafe {
        let file = libc::memfd_create(c"window".as_ptr(), 0);
        if file < 0 || libc::ftruncate(file, BYTES as i64) != 0 {
            libc::_exit(2);
        }
        for base in [WINDOW, ALIAS] {
            for page in 0..WINDOW_PAGES {
                let protection = match page_kind(page) {
                    PageKind::Nothing => continue,
                    PageKind::Data => libc::PROT_READ | libc::PROT_WRITE,
                    PageKind::ReadOnly => libc::PROT_READ,
                    PageKind::Code => libc::PROT_READ | libc::PROT_EXEC,
                };
                let at = (base + page * PAGE) as *mut libc::c_void;
                let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE;
                let offset = (page * PAGE) as i64;
                if libc::mmap(at, PAGE as usize, protection, flags, file, offset) != at {
                    libc::_exit(3);
                }
            }
        }
        let view =
            libc::mmap(ptr::null_mut(), BYTES, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file, 0);
        if view == libc::MAP_FAILED {
            libc::_exit(4);
        }
        fill_code(view.cast(), 0, (CODE_PAGES * PAGE) as usize);
        view.cast()
    }
}

/// Linux, asm/ldt.h.
#[repr(C)]
struct UserDesc {
    entry_number: u32,
    base_addr: u32,
    limit: u32,
    flags: u32,
}

/// Enters [`SEGMENTS`] into the local descriptor table; whether that is possible here.
///
/// # Safety
/// In the child only.
unsafe fn prepare_segments() -> bool {
    for (n, spec) in SEGMENTS.iter().enumerate() {
        let contents = match (spec.code, spec.expand_down) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        };
        let in_pages = spec.limit > 0xf_ffff;
        let entry = UserDesc {
            entry_number: n as u32,
            base_addr: spec.base,
            limit: if in_pages { spec.limit >> 12 } else { spec.limit },
            flags: u32::from(spec.big)
                | contents << 1
                | u32::from(!spec.accessible) << 3
                | u32::from(in_pages) << 4
                | 1 << 6,
        };
        // SAFETY: a valid descriptor of this process's own table.
        let result =
            unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, &raw const entry, size_of::<UserDesc>()) };
        if result != 0 {
            return false;
        }
    }
    true
}

/// # Safety
/// In the child only.
unsafe fn prepare_signals() {
    // SAFETY: valid arguments; the stack is used for nothing else.
    unsafe {
        let stack = libc::stack_t { ss_sp: (&raw mut STACK).cast(), ss_flags: 0, ss_size: STACK_BYTES };
        libc::sigaltstack(&stack, ptr::null_mut());
        for signal in SIGNALS {
            let function: unsafe extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = function as usize;
            // The clock may tick just when the process goes to wait for cases.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigfillset(&mut action.sa_mask);
            if libc::sigaction(signal, &action, ptr::null_mut()) != 0 {
                libc::_exit(5);
            }
        }
        let tick = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
        let timer = libc::itimerval { it_interval: tick, it_value: tick };
        libc::setitimer(libc::ITIMER_VIRTUAL, &timer, ptr::null_mut());
    }
}
