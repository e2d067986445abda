//! Threads: one address space, stacks and thread pointers of their own, locks through futexes.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::faults::poke;
use crate::report::Outcome;
use crate::sys::{self, PAGE, READ, WRITE};

const THREADS: usize = 4;
const STACK_PAGES: u64 = 4;

unsafe extern "C" {
    /// Starts a thread on a stack at whose top the function and its argument lie.
    fn selfcheck_thread(flags: u64, stack: u64, ended: *const AtomicU32, pointer: u64) -> isize;
}

global_asm!(
    "selfcheck_thread:",
    // ended: the word that the kernel clears at the thread's end, and wakes those who wait for it.
    "mov r10, rdx",
    "mov r8, rcx",
    "mov edx, 0",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "ret",
    "2: xor ebp, ebp",
    "pop rax",
    "pop rdi",
    "call rax",
    "xor edi, edi",
    "mov eax, 60",
    "syscall",
    "ud2",
);

/// What the kernel clears when a thread ends.
static RUNNING: [AtomicU32; THREADS] = [const { AtomicU32::new(0) }; THREADS];
/// What each thread's pointer points at.
static OWN: [AtomicU64; THREADS] = [const { AtomicU64::new(0) }; THREADS];
static WRONG: AtomicU64 = AtomicU64::new(0);

fn start(number: usize, function: extern "C" fn(usize)) -> Outcome {
    const VM_FS_FILES_SIGHAND: u64 = 0xf00;
    const THREAD_SYSVSEM_SETTLS_CHILD_CLEARTID: u64 = 0x1_0000 | 0x4_0000 | 0x8_0000 | 0x20_0000;
    let top = sys::map(STACK_PAGES, READ | WRITE) + STACK_PAGES * PAGE;
    poke(top - 16, function as *const () as u64);
    poke(top - 8, number as u64);
    RUNNING[number].store(1, SeqCst);
    OWN[number].store(number as u64 + 100, SeqCst);
    let pointer = &raw const OWN[number] as u64;
    // SAFETY: the stack is the thread's own, and the words live for ever.
    let thread = unsafe {
        selfcheck_thread(
            VM_FS_FILES_SIGHAND | THREAD_SYSVSEM_SETTLS_CHILD_CLEARTID,
            top - 16,
            &RUNNING[number],
            pointer,
        )
    };
    ensure!(thread > 0, "a thread cannot be started: {thread}");
    Ok(())
}

fn join_all() {
    for word in &RUNNING {
        while word.load(SeqCst) != 0 {
            sys::futex_wait(word, 1);
        }
    }
}

/// What the thread pointer points at.
fn own() -> u64 {
    let value: u64;
    // SAFETY: every thread here has been given a pointer to a word.
    unsafe { core::arch::asm!("mov {}, fs:[0]", out(reg) value) };
    value
}

static COUNTER: AtomicU64 = AtomicU64::new(0);
/// Added to without a lock prefix: on one processor an instruction is never interrupted in its middle.
static PLAIN: AtomicU64 = AtomicU64::new(0);
const ADDITIONS: u64 = 20_000;

extern "C" fn count(number: usize) {
    for round in 0..ADDITIONS {
        COUNTER.fetch_add(1, SeqCst);
        // SAFETY: one instruction on a word that lives for ever.
        unsafe { core::arch::asm!("lock add qword ptr [{}], 1", in(reg) PLAIN.as_ptr()) };
        if round % 512 == 0 {
            sys::yield_now();
        }
        if own() != number as u64 + 100 {
            WRONG.fetch_add(1, SeqCst);
        }
    }
}

pub fn counters() -> Outcome {
    for number in 0..THREADS {
        start(number, count)?;
    }
    join_all();
    same!(COUNTER.load(SeqCst), THREADS as u64 * ADDITIONS, "the threads' counter");
    same!(PLAIN.load(SeqCst), THREADS as u64 * ADDITIONS, "the threads' other counter");
    same!(WRONG.load(SeqCst), 0, "wrong thread pointers");
    Ok(())
}

/// 0: free, 1: taken, 2: taken, and somebody waits.
static LOCK: AtomicU32 = AtomicU32::new(0);
/// Guarded by `LOCK`; atomic only for the language's sake.
static GUARDED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
const TURNS: u64 = 2_000;

extern "C" fn take_turns(_: usize) {
    for _ in 0..TURNS {
        if LOCK.compare_exchange(0, 1, SeqCst, SeqCst).is_err() {
            while LOCK.swap(2, SeqCst) != 0 {
                sys::futex_wait(&LOCK, 2);
            }
        }
        let value = GUARDED[0].load(SeqCst);
        if value % 16 == 0 {
            sys::yield_now();
        }
        GUARDED[0].store(value + 1, SeqCst);
        GUARDED[1].store(value + 1, SeqCst);
        if LOCK.swap(0, SeqCst) == 2 {
            sys::futex_wake(&LOCK, 1);
        }
    }
}

pub fn futex() -> Outcome {
    for number in 0..THREADS {
        start(number, take_turns)?;
    }
    join_all();
    for word in &GUARDED {
        same!(word.load(SeqCst), THREADS as u64 * TURNS, "turns taken");
    }
    Ok(())
}
