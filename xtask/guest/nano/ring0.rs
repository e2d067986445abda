//! What ring 0 does. As in ring 3, each takes the number of iterations (above 0) and gives cycles.

use core::arch::{asm, global_asm};

use crate::handlers::{COUNTS, Count};

global_asm!(
    r#"
    .text
    .macro clock0
    rdtsc
    shl rdx, 32
    lea r8, [rax + rdx]
    .endm

    .macro elapsed0
    rdtsc
    shl rdx, 32
    add rax, rdx
    sub rax, r8
    .endm

    .macro begin0
    mov rsi, rdi
    clock0
    .endm

    .macro finish0
    elapsed0
    ret
    .endm

    .balign 64
r0_in:
    mov al, 3
    out 0x61, al
    begin0
2:  in al, 0x61
    dec rsi
    jnz 2b
    finish0

    .balign 64
r0_out:
    begin0
    mov al, 2
2:  out 0x61, al
    dec rsi
    jnz 2b
    finish0

    .balign 64
r0_cr8:
    mov ecx, 2
    begin0
2:  mov cr8, rcx
    dec rsi
    jnz 2b
    xor ecx, ecx
    finish0

    .balign 64
r0_cr3:
    mov rcx, cr3
    begin0
2:  mov cr3, rcx
    dec rsi
    jnz 2b
    finish0

    // rsi: the entry, rdx: the address, rcx and r8: the two values it has in turns.
    .balign 64
r0_pte:
    push rbx
    mov rbx, r8
    clock0
2:  mov [rsi], rcx
    xchg rcx, rbx
    dec rdi
    jnz 2b
    elapsed0
    pop rbx
    ret

    // And r9: where the sum of what is read is added.
    .balign 64
r0_remap:
    push rbx
    push rbp
    push r12
    mov rbp, rdx
    mov r12, r8
    xor ebx, ebx
    clock0
2:  mov [rsi], rcx
    invlpg [rbp]
    add rbx, [rbp]
    xchg rcx, r12
    dec rdi
    jnz 2b
    elapsed0
    add [r9], rbx
    pop r12
    pop rbp
    pop rbx
    ret

    // Fixed, to itself, vector 0x40; over when the handler has counted it.
    .balign 64
r0_ipi:
    mov ecx, 0xfee00300
    push rbx
    mov rbx, [{ipis}]
    begin0
    sti
2:  mov dword ptr [rcx], 0x44040
    inc rbx
3:  cmp [{ipis}], rbx
    jne 3b
    dec rsi
    jnz 2b
    cli
    pop rbx
    finish0
    "#,
    ipis = sym COUNTS,
);

// The assembly above counts on it.
const _: () = assert!(Count::Ipi as usize == 0);

unsafe extern "C" {
    /// Reads port 61, which was given 3 before.
    pub fn r0_in(iterations: u64) -> u64;
    /// Writes 2 to port 61.
    pub fn r0_out(iterations: u64) -> u64;
    /// Writes 2 to CR8.
    pub fn r0_cr8(iterations: u64) -> u64;
    /// Writes to CR3 what is there.
    pub fn r0_cr3(iterations: u64) -> u64;
    /// Writes a page-table entry.
    pub fn r0_pte(iterations: u64, entry: u64, address: u64, first: u64, second: u64, sum: *mut u64) -> u64;
    /// The same, with INVLPG and a read.
    pub fn r0_remap(iterations: u64, entry: u64, address: u64, first: u64, second: u64, sum: *mut u64)
    -> u64;
    /// Has the local APIC interrupt its own processor, and waits for the handler.
    pub fn r0_ipi(iterations: u64) -> u64;
}

/// CR8, which is put back to 0.
pub fn cr8() -> u64 {
    let value: u64;
    // SAFETY: the priority has no bearing on memory.
    unsafe { asm!("mov {0}, cr8", "mov cr8, {1}", out(reg) value, in(reg) 0_u64, options(nomem, nostack)) };
    value
}

/// Port 61.
pub fn port_61() -> u64 {
    let value: u8;
    // SAFETY: the port is a register of the machine.
    unsafe { asm!("in al, 0x61", out("al") value, options(nomem, nostack)) };
    value.into()
}
