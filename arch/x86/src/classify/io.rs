//! Instructions that reach devices, interrupts and the processor's waiting.

use iced_x86::Code::*;

use super::Routine;
use super::shape::*;

#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    family(Routine::In, TRAPS, BOTH, ALL,
        "reads a device",
        "SDM vol. 1, I/O privilege; vol. 2 IN", &[
            In_AL_imm8, In_AX_imm8, In_EAX_imm8, In_AL_DX, In_AX_DX, In_EAX_DX,
    ]),
    family(Routine::Out, TRAPS, CONTROL, ALL,
        "writes a device",
        "SDM vol. 1, I/O privilege; vol. 2 OUT", &[
            Out_imm8_AL, Out_imm8_AX, Out_imm8_EAX, Out_DX_AL, Out_DX_AX, Out_DX_EAX,
    ]),
    family(Routine::Ins, TRAPS, BOTH, ALL,
        "reads a device",
        "SDM vol. 1, I/O privilege; vol. 2 INS", &[
            Insb_m8_DX, Insw_m16_DX, Insd_m32_DX,
    ]),
    family(Routine::Outs, TRAPS, CONTROL, ALL,
        "writes a device",
        "SDM vol. 1, I/O privilege; vol. 2 OUTS", &[
            Outsb_DX_m8, Outsw_DX_m16, Outsd_DX_m32,
    ]),
    family(Routine::Cli, TRAPS, CONTROL, ALL,
        "holds interrupts off",
        "SDM vol. 2 CLI", &[
            Cli,
    ]),
    family(Routine::Sti, TRAPS, CONTROL, ALL,
        "lets interrupts in",
        "SDM vol. 2 STI", &[
            Sti,
    ]),
    family(Routine::Pushf, SILENT, BEHAVIOUR, VM86_TRAPS,
        "shows IF and IOPL, which are the monitor's",
        "SDM vol. 2 PUSHF", &[
            Pushfw, Pushfd, Pushfq,
    ]),
    family(Routine::Popf, SILENT, BOTH, VM86_TRAPS,
        "changes IF and IOPL in ring 0, and in ring 3 silently leaves them",
        "SDM vol. 2 POPF", &[
            Popfw, Popfd, Popfq,
    ]),
    family(Routine::Hlt, TRAPS, CONTROL, ALL,
        "gives the processor up",
        "SDM vol. 2 HLT", &[
            Hlt,
    ]),
    family(Routine::Int, SILENT, CONTROL, VM86_TRAPS,
        "enters the supervisor through the IDT",
        "SDM vol. 2 INT n; vol. 3, 8086 emulation", &[
            Int_imm8,
    ]),
    family(Routine::Int3, SILENT, CONTROL, ALL,
        "enters the supervisor through the IDT",
        "SDM vol. 2 INT 3", &[
            Int3,
    ]),
    family(Routine::Into, SILENT, CONTROL, ALL,
        "enters the supervisor through the IDT; absent in 64-bit mode",
        "SDM vol. 2 INTO", &[
            Into,
    ]),
    family(Routine::Int1, SILENT, CONTROL, ALL,
        "enters the supervisor through the IDT",
        "SDM vol. 2 INT 1", &[
            Int1,
    ]),
    family(Routine::Iret, SILENT, BOTH, VM86_TRAPS,
        "changes CPL, IF and IOPL as far as CPL and IOPL let it",
        "SDM vol. 2 IRET", &[
            Iretw, Iretd, Iretq,
    ]),
    family(Routine::Syscall, SILENT, CONTROL, ALL,
        "enters ring 0",
        "SDM vol. 2 SYSCALL; APM vol. 3 SYSCALL", &[
            Syscall,
    ]),
    family(Routine::Sysret, TRAPS, CONTROL, ALL,
        "leaves ring 0",
        "SDM vol. 2 SYSRET; APM vol. 3 SYSRET", &[
            Sysretd, Sysretq,
    ]),
    family(Routine::Sysenter, SILENT, CONTROL, ALL,
        "enters ring 0",
        "SDM vol. 2 SYSENTER", &[
            Sysenter,
    ]),
    family(Routine::Sysexit, TRAPS, CONTROL, ALL,
        "leaves ring 0",
        "SDM vol. 2 SYSEXIT", &[
            Sysexitd, Sysexitq,
    ]),
    family(Routine::Hypercall, SILENT, CONTROL, ALL,
        "calls the monitor, where there is one",
        "SDM vol. 3, VMX instruction reference; APM vol. 3 VMMCALL", &[
            Vmcall, Vmmcall,
    ]),
];
