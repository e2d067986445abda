//! Instructions on control registers, model-specific registers, caches, and what the processor says of
//! itself.

use iced_x86::Code::*;

use super::Routine;
use super::shape::*;

#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    family(Routine::Smsw, UMIP, BEHAVIOUR, ALL,
        "shows CR0",
        "SDM vol. 2 SMSW", &[
            Smsw_rm16, Smsw_r32m16, Smsw_r64m16,
    ]),
    family(Routine::Lmsw, TRAPS, CONTROL, ALL,
        "changes CR0",
        "SDM vol. 2 LMSW", &[
            Lmsw_rm16, Lmsw_r32m16, Lmsw_r64m16,
    ]),
    family(Routine::Clts, TRAPS, CONTROL, ALL,
        "changes CR0",
        "SDM vol. 2 CLTS", &[
            Clts,
    ]),
    family(Routine::MovFromCr, TRAPS, BEHAVIOUR, ALL,
        "shows a control register",
        "SDM vol. 2 MOV to/from control registers", &[
            Mov_r32_cr, Mov_r64_cr,
    ]),
    family(Routine::MovToCr, TRAPS, CONTROL, ALL,
        "changes mode, paging or task priority",
        "SDM vol. 2 MOV to/from control registers", &[
            Mov_cr_r32, Mov_cr_r64,
    ]),
    family(Routine::MovFromDr, TRAPS, BEHAVIOUR, ALL,
        "shows a debug register",
        "SDM vol. 2 MOV to/from debug registers", &[
            Mov_r32_dr, Mov_r64_dr,
    ]),
    family(Routine::MovToDr, TRAPS, CONTROL, ALL,
        "sets a breakpoint",
        "SDM vol. 2 MOV to/from debug registers", &[
            Mov_dr_r32, Mov_dr_r64,
    ]),
    family(Routine::Invlpg, TRAPS, CONTROL, ALL,
        "forgets a translation",
        "SDM vol. 2 INVLPG", &[
            Invlpg_m,
    ]),
    family(Routine::Invd, TRAPS, CONTROL, ALL,
        "throws cached data away",
        "SDM vol. 2 INVD", &[
            Invd,
    ]),
    family(Routine::Wbinvd, TRAPS, CONTROL, ALL,
        "empties the caches",
        "SDM vol. 2 WBINVD, WBNOINVD", &[
            Wbinvd, Wbnoinvd,
    ]),
    family(Routine::Rdmsr, TRAPS, BEHAVIOUR, ALL,
        "shows a model-specific register",
        "SDM vol. 2 RDMSR", &[
            Rdmsr,
    ]),
    family(Routine::Wrmsr, TRAPS, CONTROL, ALL,
        "changes a model-specific register",
        "SDM vol. 2 WRMSR", &[
            Wrmsr,
    ]),
    family(Routine::Rdtsc, TSD, BEHAVIOUR, ALL,
        "shows the host's time",
        "SDM vol. 2 RDTSC; vol. 3, time-stamp counter", &[
            Rdtsc,
    ]),
    family(Routine::Rdtscp, TSD, BEHAVIOUR, ALL,
        "shows the host's time and processor number",
        "SDM vol. 2 RDTSCP", &[
            Rdtscp,
    ]),
    family(Routine::Rdpid, SILENT, BEHAVIOUR, ALL,
        "shows the host's processor number",
        "SDM vol. 2 RDPID", &[
            Rdpid_r32, Rdpid_r64,
    ]),
    family(Routine::Rdpmc, TRAPS, BEHAVIOUR, ALL,
        "shows a performance counter; CR4.PCE, clear at reset, lets ring 3 read it",
        "SDM vol. 2 RDPMC", &[
            Rdpmc,
    ]),
    family(Routine::Cpuid, SILENT, BEHAVIOUR, ALL,
        "shows the host's processor",
        "SDM vol. 2 CPUID", &[
            Cpuid,
    ]),
    family(Routine::Xgetbv, SILENT, BEHAVIOUR, ALL,
        "shows XCR0",
        "SDM vol. 2 XGETBV", &[
            Xgetbv,
    ]),
    family(Routine::Xsetbv, TRAPS, CONTROL, ALL,
        "changes XCR0",
        "SDM vol. 2 XSETBV", &[
            Xsetbv,
    ]),
    family(Routine::Xsave, SILENT, BEHAVIOUR, ALL,
        "saves what XCR0 enables, and the host enables more",
        "SDM vol. 1 ch. 13.7", &[
            Xsave_mem, Xsave64_mem, Xsaveopt_mem, Xsaveopt64_mem, Xsavec_mem, Xsavec64_mem,
    ]),
    family(Routine::Xrstor, SILENT, BEHAVIOUR, ALL,
        "restores what XCR0 enables, and the host enables more",
        "SDM vol. 1 ch. 13.8", &[
            Xrstor_mem, Xrstor64_mem,
    ]),
    family(Routine::Clac, TRAPS, CONTROL, ALL,
        "restores supervisor-mode access prevention",
        "SDM vol. 2 CLAC", &[
            Clac,
    ]),
    family(Routine::Stac, TRAPS, CONTROL, ALL,
        "lifts supervisor-mode access prevention",
        "SDM vol. 2 STAC", &[
            Stac,
    ]),
];
