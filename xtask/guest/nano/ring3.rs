//! What ring 3 does, in code that runs at any address: also on the host, where nothing is between it and the processor.
//!
//! Each takes the number of iterations (above 0) and gives the cycles of the time-stamp counter.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.ring3, "ax", @progbits
    .balign 4096
    .globl r3_start, r3_end, r3_leave, r3_loop, r3_call, r3_syscall, r3_interrupt, r3_divide, r3_touch

    .macro begin
    mov rsi, rdi
    rdtsc
    shl rdx, 32
    lea r8, [rax + rdx]
    .endm

    .macro finish
    rdtsc
    shl rdx, 32
    add rax, rdx
    sub rax, r8
    ret
    .endm

r3_start:
    // Where routines return to that were entered from ring 0.
r3_leave:
    int 0x80

    .balign 64
r3_loop:
    begin
2:  dec rsi
    jnz 2b
    finish

    .balign 64
r3_call:
    begin
2:
    .rept 10
    call 3f
    .endr
    dec rsi
    jnz 2b
    finish
    .balign 64
3:  ret

    .balign 64
r3_syscall:
    begin
    // getppid, where there is somebody to understand it.
2:  mov eax, 110
    syscall
    dec rsi
    jnz 2b
    finish

    .balign 64
r3_interrupt:
    begin
2:  int 0x81
    dec rsi
    jnz 2b
    finish

    .balign 64
r3_divide:
    begin
    xor ecx, ecx
2:  mov eax, 1
    xor edx, edx
    div ecx
    dec rsi
    jnz 2b
    finish

    .balign 64
r3_touch:
    mov rcx, rsi
    begin
2:  mov eax, [rcx]
    add rcx, 4096
    dec rsi
    jnz 2b
    finish

    .balign 4096
r3_end:
    .text
    "#
);

unsafe extern "C" {
    pub safe fn r3_start();
    pub safe fn r3_end();
    /// The end of what was entered from ring 0: an `int 0x80` with the result in rax.
    pub safe fn r3_leave();
    /// Nothing but the loop.
    pub fn r3_loop(iterations: u64) -> u64;
    /// Ten calls of a function that returns, in each iteration.
    pub fn r3_call(iterations: u64) -> u64;
    /// SYSCALL with getppid's number.
    pub fn r3_syscall(iterations: u64) -> u64;
    /// `int 0x81`.
    pub fn r3_interrupt(iterations: u64) -> u64;
    /// A division by zero.
    pub fn r3_divide(iterations: u64) -> u64;
    /// Reads from so many pages, one after the other.
    pub fn r3_touch(pages: u64, first: u64) -> u64;
}
