//! Instructions on segments, descriptors and their tables: most of the seventeen that trap-and-emulate fails
//! on.

use iced_x86::Code::*;

use super::Routine;
use super::shape::*;

#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    family(Routine::Lgdt, TRAPS, CONTROL, ALL,
        "moves the descriptor table",
        "SDM vol. 2 LGDT", &[
            Lgdt_m1632_16, Lgdt_m1632, Lgdt_m1664,
    ]),
    family(Routine::Lidt, TRAPS, CONTROL, ALL,
        "moves the interrupt table",
        "SDM vol. 2 LIDT", &[
            Lidt_m1632_16, Lidt_m1632, Lidt_m1664,
    ]),
    family(Routine::Sgdt, UMIP, BEHAVIOUR, ALL,
        "shows where the monitor's descriptor table lies",
        "SDM vol. 2 SGDT", &[
            Sgdt_m1632_16, Sgdt_m1632, Sgdt_m1664,
    ]),
    family(Routine::Sidt, UMIP, BEHAVIOUR, ALL,
        "shows where the monitor's interrupt table lies",
        "SDM vol. 2 SIDT", &[
            Sidt_m1632_16, Sidt_m1632, Sidt_m1664,
    ]),
    family(Routine::Lldt, TRAPS, CONTROL, PROTECTED,
        "changes the local descriptor table",
        "SDM vol. 2 LLDT", &[
            Lldt_rm16, Lldt_r32m16, Lldt_r64m16,
    ]),
    family(Routine::Sldt, UMIP, BEHAVIOUR, PROTECTED,
        "shows the monitor's selector",
        "SDM vol. 2 SLDT", &[
            Sldt_rm16, Sldt_r32m16, Sldt_r64m16,
    ]),
    family(Routine::Ltr, TRAPS, CONTROL, PROTECTED,
        "changes the task register",
        "SDM vol. 2 LTR", &[
            Ltr_rm16, Ltr_r32m16, Ltr_r64m16,
    ]),
    family(Routine::Str, UMIP, BEHAVIOUR, PROTECTED,
        "shows the monitor's selector",
        "SDM vol. 2 STR", &[
            Str_rm16, Str_r32m16, Str_r64m16,
    ]),
    family(Routine::Lar, SILENT, BEHAVIOUR, PROTECTED,
        "sees descriptors as far as CPL lets it",
        "SDM vol. 2 LAR; vol. 3 ch. 5.10", &[
            Lar_r16_rm16, Lar_r32_r32m16, Lar_r64_r64m16,
    ]),
    family(Routine::Lsl, SILENT, BEHAVIOUR, PROTECTED,
        "sees descriptors as far as CPL lets it",
        "SDM vol. 2 LSL; vol. 3 ch. 5.10", &[
            Lsl_r16_rm16, Lsl_r32_r32m16, Lsl_r64_r64m16,
    ]),
    family(Routine::Verr, SILENT, BEHAVIOUR, PROTECTED,
        "answers by CPL",
        "SDM vol. 2 VERR; vol. 3 ch. 5.10", &[
            Verr_rm16, Verr_r32m16, Verr_r64m16,
    ]),
    family(Routine::Verw, SILENT, BEHAVIOUR, PROTECTED,
        "answers by CPL",
        "SDM vol. 2 VERW; vol. 3 ch. 5.10", &[
            Verw_rm16, Verw_r32m16, Verw_r64m16,
    ]),
    family(Routine::MovFromSegment, SILENT, BEHAVIOUR, PROTECTED,
        "CS and SS show the CPL",
        "SDM vol. 2 MOV", &[
            Mov_rm16_Sreg, Mov_r32m16_Sreg, Mov_r64m16_Sreg,
    ]),
    family(Routine::MovToSegment, SILENT, BOTH, PROTECTED,
        "reads the descriptor table and is checked against CPL",
        "SDM vol. 2 MOV; vol. 3 ch. 5.6", &[
            Mov_Sreg_rm16, Mov_Sreg_r32m16, Mov_Sreg_r64m16,
    ]),
    family(Routine::PushSegment, SILENT, BEHAVIOUR, PROTECTED,
        "CS and SS show the CPL",
        "SDM vol. 2 PUSH", &[
            Pushw_ES, Pushd_ES, Pushw_CS, Pushd_CS, Pushw_SS, Pushd_SS, Pushw_DS, Pushd_DS, Pushw_FS,
            Pushd_FS, Pushq_FS, Pushw_GS, Pushd_GS, Pushq_GS,
    ]),
    family(Routine::PopSegment, SILENT, BOTH, PROTECTED,
        "reads the descriptor table and is checked against CPL",
        "SDM vol. 2 POP; vol. 3 ch. 5.6", &[
            Popw_ES, Popd_ES, Popw_CS, Popw_SS, Popd_SS, Popw_DS, Popd_DS, Popw_FS, Popd_FS, Popq_FS,
            Popw_GS, Popd_GS, Popq_GS,
    ]),
    family(Routine::LoadFarPointer, SILENT, BOTH, PROTECTED,
        "reads the descriptor table and is checked against CPL",
        "SDM vol. 2 LDS; vol. 3 ch. 5.6", &[
            Lds_r16_m1616, Lds_r32_m1632, Les_r16_m1616, Les_r32_m1632, Lfs_r16_m1616, Lfs_r32_m1632,
            Lfs_r64_m1664, Lgs_r16_m1616, Lgs_r32_m1632, Lgs_r64_m1664, Lss_r16_m1616, Lss_r32_m1632,
            Lss_r64_m1664,
    ]),
    family(Routine::CallFar, SILENT, BOTH, PROTECTED,
        "reads the descriptor table; a call gate raises the privilege",
        "SDM vol. 2 CALL; vol. 3 ch. 5.8", &[
            Call_ptr1616, Call_ptr1632, Call_m1616, Call_m1632, Call_m1664,
    ]),
    family(Routine::JmpFar, SILENT, BOTH, PROTECTED,
        "reads the descriptor table; may switch tasks",
        "SDM vol. 2 JMP; vol. 3 ch. 5.8", &[
            Jmp_ptr1616, Jmp_ptr1632, Jmp_m1616, Jmp_m1632, Jmp_m1664,
    ]),
    family(Routine::RetFar, SILENT, BOTH, PROTECTED,
        "lowers the privilege, checked against CPL",
        "SDM vol. 2 RET; vol. 3 ch. 5.8.6", &[
            Retfw_imm16, Retfd_imm16, Retfq_imm16, Retfw, Retfd, Retfq,
    ]),
    family(Routine::Swapgs, TRAPS, CONTROL, ALL,
        "exchanges the base of GS with an MSR",
        "SDM vol. 2 SWAPGS", &[
            Swapgs,
    ]),
    family(Routine::Rdfsbase, SILENT, BEHAVIOUR, ALL,
        "shows a segment's base, which the monitor may have moved",
        "SDM vol. 2 RDFSBASE", &[
            Rdfsbase_r32, Rdfsbase_r64,
    ]),
    family(Routine::Rdgsbase, SILENT, BEHAVIOUR, ALL,
        "shows a segment's base, which the monitor may have moved",
        "SDM vol. 2 RDGSBASE", &[
            Rdgsbase_r32, Rdgsbase_r64,
    ]),
    family(Routine::Wrfsbase, SILENT, CONTROL, ALL,
        "moves a segment",
        "SDM vol. 2 WRFSBASE", &[
            Wrfsbase_r32, Wrfsbase_r64,
    ]),
    family(Routine::Wrgsbase, SILENT, CONTROL, ALL,
        "moves a segment",
        "SDM vol. 2 WRGSBASE", &[
            Wrgsbase_r32, Wrgsbase_r64,
    ]),
];
