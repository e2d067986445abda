//! From the PVH entry (32-bit protected mode, docs/misc/pvh.pandoc of Xen) to long mode with the first 4 GiB of
//! memory mapped to themselves, and an interrupt table whose only handler acknowledges and returns.
//!
//! The exceptions that this program could cause have no gates: one is a triple fault, which popf reports.

use core::arch::{asm, global_asm};

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18                      // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

    .section .text.pvh, "ax", @progbits
    .code32
pvh_start:
    cli
    // Four page directories of 2 MiB pages.
    movl $tables + 0x1003, tables
    movl $tables + 0x1000, %edi
    movl $tables + 0x2003, %eax
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x1000, %eax
    loop 1b
    movl $tables + 0x2000, %edi
    movl $0x83, %eax
    movl $2048, %ecx
2:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    loop 2b
    // PAE and SSE, long mode, paging.
    movl %cr4, %eax
    orl $0x620, %eax
    movl %eax, %cr4
    movl $tables, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    andl $0xfffffffb, %eax
    orl $0x80000002, %eax
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $long_start
    .code64
long_start:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $stack_top, %esp
    jmp _start

    // Acknowledges to the local APIC.
interrupt:
    pushq %rax
    movl $0xfee000b0, %eax
    movl $0, (%rax)
    popq %rax
    iretq

    .section .rodata.gdt, "a", @progbits
    .balign 8
gdt:
    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
    .word 23
    .long gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
tables:
    .skip 0x6000
    .skip 0x4000
stack_top:
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    /// The handler above; not to be called.
    fn interrupt();
}

/// Where the interrupt table is put: below the arena, above this program.
const IDT: u64 = 0x70_0000;

/// Sets the interrupt table up; interrupts stay off until [`breathe`].
pub fn set_up_interrupts() {
    let handler = interrupt as *const () as u64;
    for vector in 16..256 {
        let gate = IDT + 16 * vector;
        // An interrupt gate of ring 0 through selector 8.
        super::machine::store(
            gate,
            handler & 0xffff | 8 << 16 | 0x8e00 << 32 | (handler & 0xffff_0000) << 32,
        );
        super::machine::store(gate + 8, handler >> 32);
    }
    let mut pointer = [0_u8; 10];
    pointer[..2].copy_from_slice(&0xfff_u16.to_le_bytes());
    pointer[2..].copy_from_slice(&IDT.to_le_bytes());
    // SAFETY: the table is complete, and stays.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) };
    // The local APIC's spurious-interrupt register: enabled. The two 8259 have all lines masked.
    super::machine::write(0xfee0_00f0, 4, 0x1ff);
    super::machine::out(0x21, 1, 0xff);
    super::machine::out(0xa1, 1, 0xff);
}

/// Takes whatever interrupts wait.
pub fn breathe() {
    // SAFETY: the handler changes nothing; below the red zone.
    unsafe { asm!("sub rsp, 128", "sti", "nop", "nop", "cli", "add rsp, 128") };
}
