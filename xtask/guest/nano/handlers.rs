//! What is done on SYSCALL, exceptions and interrupts, as little as can be: count, and go back.

use core::arch::global_asm;
use core::cell::UnsafeCell;

/// What is counted.
#[derive(Clone, Copy)]
pub enum Count {
    Ipi,
    Timer,
    Syscall,
    Software,
    Divide,
    PageFault,
}

const KINDS: usize = 6;

/// Numbers that handlers write.
#[repr(transparent)]
pub struct Shared<const N: usize>(UnsafeCell<[u64; N]>);

// SAFETY: there is one processor, and it is read by volatile accesses while handlers may write.
unsafe impl<const N: usize> Sync for Shared<N> {}

impl<const N: usize> Shared<N> {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; N]))
    }

    pub fn get(&self, at: usize) -> u64 {
        assert!(at < N);
        // SAFETY: in range; volatile, see above.
        unsafe { self.0.get().cast::<u64>().add(at).read_volatile() }
    }

    fn set(&self, at: usize, value: u64) {
        assert!(at < N);
        // SAFETY: as in `get`.
        unsafe { self.0.get().cast::<u64>().add(at).write_volatile(value) };
    }
}

/// How often each was handled, by [`Count`].
pub static COUNTS: Shared<KINDS> = Shared::new();
/// The time-stamp counter at the timer's last interrupt.
pub static TIMER_AT: Shared<1> = Shared::new();

/// Counts from 0.
pub fn reset() {
    (0..KINDS).for_each(|at| COUNTS.set(at, 0));
}

/// Whether it was handled exactly so often.
pub fn is(what: Count, times: u64) -> bool {
    COUNTS.get(what as usize) == times
}

global_asm!(
    r#"
    .text
    .balign 64
    .globl on_syscall
on_syscall:
    inc qword ptr [{counts} + 16]
    sysretq

    .balign 64
    .globl on_software
on_software:
    inc qword ptr [{counts} + 24]
    iretq

    // Goes on behind the division, which is two bytes long.
    .balign 64
    .globl on_divide
on_divide:
    inc qword ptr [{counts} + 32]
    add qword ptr [rsp], 2
    iretq

    // Makes the page present, at the frame all of them share; entries of pages that were not there need no flush.
    .balign 64
    .globl on_page_fault
on_page_fault:
    push rax
    push rcx
    inc qword ptr [{counts} + 40]
    mov rax, cr2
    shr rax, 12
    and eax, 511
    mov rcx, [{fault_entry}]
    mov [{fault_table} + rax * 8], rcx
    pop rcx
    pop rax
    add rsp, 8
    iretq

    .balign 64
    .globl on_ipi
on_ipi:
    push rax
    inc qword ptr [{counts}]
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq

    .balign 64
    .globl on_timer
on_timer:
    push rax
    push rdx
    rdtsc
    shl rdx, 32
    add rax, rdx
    mov [{timer_at}], rax
    inc qword ptr [{counts} + 8]
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rdx
    pop rax
    iretq

    .globl on_spurious
on_spurious:
    iretq

    // What nothing here causes.
    .globl on_other
on_other:
    mov al, 99
    out 0xf4, al
    jmp on_other

    // To ring 3 with a stack whose top word is where the routine returns to; back by on_leave. rdi: rip, rsi: rsp,
    // rdx and rcx: the routine's arguments.
    .balign 64
    .globl enter_user
enter_user:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [{kernel_stack}], rsp
    push 0x23
    push rsi
    push 2
    push 0x2b
    push rdi
    mov rdi, rdx
    mov rsi, rcx
    iretq

    .globl on_leave
on_leave:
    mov rsp, [{kernel_stack}]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    "#,
    counts = sym COUNTS,
    timer_at = sym TIMER_AT,
    kernel_stack = sym KERNEL_STACK,
    fault_entry = sym crate::tables::FAULT_ENTRY,
    fault_table = sym crate::tables::FAULT_TABLE,
);

static KERNEL_STACK: Shared<1> = Shared::new();

unsafe extern "C" {
    pub safe fn on_syscall();
    pub safe fn on_software();
    pub safe fn on_divide();
    pub safe fn on_page_fault();
    pub safe fn on_ipi();
    pub safe fn on_timer();
    pub safe fn on_spurious();
    pub safe fn on_other();
    pub safe fn on_leave();
    fn enter_user(rip: u64, rsp: u64, first: u64, second: u64) -> u64;
}

/// Calls a routine of ring 3 at this address of ring 3's.
pub fn call_user(rip: u64, first: u64, second: u64) -> u64 {
    let rsp = crate::tables::user_stack();
    // SAFETY: the routine is one of `ring3`, which end by returning to `r3_leave`; registers are kept as C wants them.
    unsafe { enter_user(rip, rsp, first, second) }
}
