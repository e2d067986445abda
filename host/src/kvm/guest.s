# The guest with which KVM is tried: what every kernel does on its way up, in 150 instructions.
#
# Loaded at 0x8000, entered in real mode there. It says after each stage that it got there (STAGE), and ends with
# FAILED if a result is wrong; a monitor that cannot do a stage ends the run or never comes back. Tables are laid
# out by guest.rs. AT&T syntax, since LLVM takes label arithmetic in it everywhere.
    .pushsection .rodata.popf_kvm_probe, "a"
    .set LOAD, 0x8000
    .set STAGE, 0x99                # the stage just passed
    .set EXIT, 0x98                 # an exit for its own sake
    .set PAGE_TABLE, 0x6000
    .set IDT, 0x2000
    .set TSS, 0x1800
    .set STACK, 0x20000             # three, growing down
    .set STACK_TSS, 0x1f000
    .set STACK_USER, 0x1e000
    .set FIRST, 0x30000             # two pages, each beginning with its own address
    .set SECOND, 0x31000
    .set WINDOW, 0x100000           # a page that shows one or the other
    .set NOWHERE, 0x101000          # a page that is not present
    .set APIC, 0xfee00000
    .global popf_kvm_probe_start
    .global popf_kvm_probe_end
popf_kvm_probe_start:

    .code16
    cli
    movb $1, %al                    # stage 1: real mode
    outb %al, $STAGE
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl (.Lgdtr - popf_kvm_probe_start + LOAD)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    .byte 0x66, 0xea                # ljmpl
    .long .Lprotected - popf_kvm_probe_start + LOAD
    .word 0x08

    .code32
.Lprotected:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movb $2, %al                    # stage 2: protected mode
    outb %al, $STAGE
    movl %cr4, %eax
    orl $0x620, %eax                # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0x3000, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          # EFER: LME, SCE
    rdmsr
    orl $0x101, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80010000, %eax           # PG, WP
    movl %eax, %cr0
    .byte 0xea                      # ljmpl
    .long .Llong - popf_kvm_probe_start + LOAD
    .word 0x18

    .code64
.Llong:
    movl $STACK, %esp
    movb $3, %al                    # stage 3: long mode, paging
    outb %al, $STAGE

    xorl %eax, %eax                 # stage 4: CPUID, TSC, bases of GS
    cpuid
    testl %eax, %eax
    jz .Lfailed
    rdtsc
    movl %eax, %esi
    movl %edx, %edi
    rdtsc
    subl %esi, %eax
    sbbl %edi, %edx
    jb .Lfailed
    xorl %edx, %edx
    movl $0xc0000101, %ecx          # GS_BASE
    movl $FIRST, %eax
    wrmsr
    movl $0xc0000102, %ecx          # KERNEL_GS_BASE
    movl $SECOND, %eax
    wrmsr
    cmpl $FIRST, %gs:0
    jne .Lfailed
    swapgs
    cmpl $SECOND, %gs:0
    jne .Lfailed
    movb $4, %al
    outb %al, $STAGE

    movl $64, %ebp                  # stage 5: page tables changed, many times
.Lremap:
    movq $(FIRST + 3), PAGE_TABLE + 256 * 8
    invlpg WINDOW
    cmpl $FIRST, WINDOW
    jne .Lfailed
    movq $(SECOND + 3), PAGE_TABLE + 256 * 8
    movq %cr3, %rax
    movq %rax, %cr3
    cmpl $SECOND, WINDOW
    jne .Lfailed
    decl %ebp
    jnz .Lremap
    movb $5, %al
    outb %al, $STAGE

    leaq .Linvalid_opcode(%rip), %rax # stage 6: exceptions
    movl $6, %ecx
    call .Lset_gate
    leaq .Lpage_fault(%rip), %rax
    movl $14, %ecx
    call .Lset_gate
    leaq .Ltimer(%rip), %rax
    movl $0x40, %ecx
    call .Lset_gate
    lidt .Lidtr(%rip)
    xorl %r15d, %r15d
    leaq 1f(%rip), %r13
    ud2
1:  cmpl $1, %r15d
    jne .Lfailed
    leaq 1f(%rip), %r13
    movl NOWHERE, %eax
1:  cmpl $2, %r15d
    jne .Lfailed
    cmpq $NOWHERE, %r12
    jne .Lfailed
    movb $6, %al
    outb %al, $STAGE

    movl $0xc0000081, %ecx          # stage 7: ring 3, SYSCALL, and an exception from there
    xorl %eax, %eax                 # STAR: CS 0x18 for SYSCALL, 0x28 for SYSRET
    movl $0x002b0018, %edx
    wrmsr
    incl %ecx                       # LSTAR
    leaq .Lsystem_call(%rip), %rax
    xorl %edx, %edx
    wrmsr
    movl $0xc0000084, %ecx          # SFMASK
    movl $0x200, %eax
    wrmsr
    movl $STACK_TSS, TSS + 4        # RSP0
    movw $0x40, %ax
    ltr %ax
    pushq $0x33
    pushq $STACK_USER
    pushq $0x202
    pushq $0x3b
    leaq .Luser(%rip), %rax
    pushq %rax
    xorl %r14d, %r14d
    iretq
.Luser:
    syscall
    syscall
    ud2                             # goes to .Linvalid_opcode and on from there
.Lback:
    movl $STACK, %esp
    cmpl $2, %r14d
    jne .Lfailed
    movb $7, %al
    outb %al, $STAGE

    movl $100, %ebp                 # stage 8: exits, for their speed
1:  outb %al, $EXIT
    decl %ebp
    jnz 1b
    movb $8, %al
    outb %al, $STAGE

    movl $APIC, %esi                # stage 9: an interrupt of the APIC's timer ends HLT
    movl $0x1ff, 0xf0(%rsi)
    movl $0x40, 0x320(%rsi)
    movl $0xb, 0x3e0(%rsi)
    xorl %r14d, %r14d
    movl $20000, 0x380(%rsi)
    sti
1:  hlt
    cmpl $1, %r14d
    jne .Lfailed
    movb $9, %al
    outb %al, $STAGE

.Lfailed:
    movb $0xff, %al
    outb %al, $STAGE
    hlt

.Lset_gate:                         # vector ecx to address rax
    shll $4, %ecx
    movw %ax, IDT(%rcx)
    movw $0x18, IDT + 2(%rcx)
    movw $0x8e00, IDT + 4(%rcx)
    shrl $16, %eax
    movw %ax, IDT + 6(%rcx)
    ret

.Linvalid_opcode:                   # goes on at r13, or from ring 3 at .Lback
    testb $3, 8(%rsp)
    jnz .Lback
    incl %r15d
    movq %r13, (%rsp)
    iretq

.Lpage_fault:
    movq %cr2, %r12
    addq $8, %rsp
    incl %r15d
    movq %r13, (%rsp)
    iretq

.Lsystem_call:
    incl %r14d
    sysretq

.Ltimer:
    incl %r14d
    movl $0, 0xb0(%rsi)             # end of interrupt
    iretq

    .balign 8
.Lgdt:
    .quad 0
    .quad 0x00cf9b000000ffff        # 08 code, 32 bits
    .quad 0x00cf93000000ffff        # 10 data
    .quad 0x00af9b000000ffff        # 18 code, 64 bits
    .quad 0x00cf93000000ffff        # 20 data, for SYSCALL
    .quad 0x00cffb000000ffff        # 28 ring 3: base of SYSRET
    .quad 0x00cff3000000ffff        # 30 ring 3 data
    .quad 0x00affb000000ffff        # 38 ring 3 code, 64 bits
    .quad 0x0000890018000067        # 40 TSS at 0x1800
    .quad 0
.Lgdtr:
    .word . - .Lgdt - 1
    .long .Lgdt - popf_kvm_probe_start + LOAD
.Lidtr:
    .word 0x41 * 16 - 1
    .quad IDT
popf_kvm_probe_end:
    .popsection
