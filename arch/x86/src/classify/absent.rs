//! Instructions that popf's guests do not find in their processor, though the host may have them: CPUID does
//! not offer them, and they raise #UD. Each is classed as it would be where it exists.

use iced_x86::Code::*;

use super::Routine;
use super::shape::*;

#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    family(Routine::NotOffered, TRAPS, BOTH, ALL,
        "Intel's own virtualization, not offered",
        "SDM vol. 3, VMX instruction reference", &[
            Vmclear_m64, Vmlaunch, Vmptrld_m64, Vmptrst_m64, Vmread_rm32_r32, Vmread_rm64_r64, Vmresume,
            Vmwrite_r32_rm32, Vmwrite_r64_rm64, Vmxoff, Vmxon_m64, Invept_r32_m128, Invept_r64_m128,
            Invvpid_r32_m128, Invvpid_r64_m128,
    ]),
    family(Routine::NotOffered, SILENT, CONTROL, ALL,
        "changes the nested page tables, where a monitor allows it",
        "SDM vol. 3 VMFUNC", &[
            Vmfunc,
    ]),
    family(Routine::NotOffered, TRAPS, BOTH, ALL,
        "AMD's own virtualization, not offered",
        "APM vol. 2 ch. 15", &[
            Vmrunw, Vmrund, Vmrunq, Vmloadw, Vmloadd, Vmloadq, Vmsavew, Vmsaved, Vmsaveq, Stgi, Clgi,
            Skinit, Invlpgaw, Invlpgad, Invlpgaq,
    ]),
    family(Routine::NotOffered, SILENT, CONTROL, ALL,
        "leaves an encrypted guest for its monitor",
        "APM vol. 2 ch. 15.35", &[
            Vmgexit, Vmgexit_F2,
    ]),
    family(Routine::NotOffered, TRAPS, BOTH, ALL,
        "memory encryption's page ownership, not offered",
        "APM vol. 2 ch. 15.36", &[
            Pvalidatew, Pvalidated, Pvalidateq, Psmash, Rmpadjust, Rmpupdate, Rmpquery,
    ]),
    family(Routine::NotOffered, TRAPS, CONTROL, ALL,
        "invalidates translations on all processors, not offered",
        "APM vol. 3 INVLPGB", &[
            Invlpgbw, Invlpgbd, Invlpgbq, Tlbsync,
    ]),
    family(Routine::NotOffered, TRAPS, BOTH, ALL,
        "trust domains, not offered",
        "Intel TDX module specification", &[
            Tdcall, Seamret, Seamops, Seamcall,
    ]),
    family(Routine::NotOffered, SILENT, BOTH, ALL,
        "enclaves, not offered",
        "SDM vol. 3, SGX instruction reference", &[
            Enclu,
    ]),
    family(Routine::NotOffered, TRAPS, BOTH, ALL,
        "enclaves and memory encryption, not offered",
        "SDM vol. 3, SGX instruction reference; vol. 2 PCONFIG", &[
            Encls, Enclv, Pconfig, Pbndkb,
    ]),
    family(Routine::NotOffered, SILENT, BOTH, ALL,
        "safer mode extensions, not offered",
        "SDM vol. 2 ch. 6", &[
            Getsecd, Getsecq,
    ]),
    family(Routine::NotOffered, TRAPS, CONTROL, ALL,
        "leaves system-management mode, which no guest enters",
        "SDM vol. 3, system management mode", &[
            Rsm,
    ]),
    family(Routine::NotOffered, TRAPS, CONTROL, ALL,
        "waits on memory; not offered",
        "SDM vol. 2 MONITOR, MWAIT", &[
            Monitorw, Monitord, Monitorq, Mwait,
    ]),
    family(Routine::NotOffered, SILENT, CONTROL, ALL,
        "waits on memory; not offered",
        "APM vol. 3 MONITORX; SDM vol. 2 UMWAIT", &[
            Monitorxw, Monitorxd, Monitorxq, Mwaitx, Umonitor_r16, Umonitor_r32, Umonitor_r64, Umwait_r32,
            Umwait_r64, Tpause_r32, Tpause_r64,
    ]),
    family(Routine::NotOffered, TRAPS, CONTROL, ALL,
        "process-context identifiers are not offered",
        "SDM vol. 2 INVPCID", &[
            Invpcid_r32_m128, Invpcid_r64_m128,
    ]),
    family(Routine::NotOffered, SILENT, BEHAVIOUR, ALL,
        "protection keys are not offered",
        "SDM vol. 2 RDPKRU", &[
            Rdpkru,
    ]),
    family(Routine::NotOffered, SILENT, CONTROL, ALL,
        "protection keys are not offered",
        "SDM vol. 2 WRPKRU", &[
            Wrpkru,
    ]),
    family(Routine::NotOffered, TRAPS, BOTH, ALL,
        "supervisor state components are not offered",
        "SDM vol. 1 ch. 13.11", &[
            Xsaves_mem, Xsaves64_mem, Xrstors_mem, Xrstors64_mem,
    ]),
    family(Routine::NotOffered, SILENT, CONTROL, ALL,
        "shadow stacks are not offered",
        "SDM vol. 1, CET", &[
            Incsspd_r32, Incsspq_r64, Rstorssp_m64, Saveprevssp, Wrssd_m32_r32, Wrssq_m64_r64,
    ]),
    family(Routine::NotOffered, TRAPS, CONTROL, ALL,
        "shadow stacks are not offered",
        "SDM vol. 1, CET", &[
            Setssbsy, Clrssbsy_m64, Wrussd_m32_r32, Wrussq_m64_r64,
    ]),
    family(Routine::NotOffered, SILENT, BOTH, ALL,
        "user interrupts are not offered",
        "SDM vol. 3, user interrupts", &[
            Uiret, Testui, Clui, Stui, Senduipi_r64,
    ]),
    family(Routine::NotOffered, TRAPS, CONTROL, ALL,
        "FRED, and the other MSR and event instructions, are not offered",
        "SDM vol. 2 LKGS, ERETS, HRESET, WRMSRNS", &[
            Lkgs_rm16, Lkgs_r32m16, Lkgs_r64m16, Eretu, Erets, Hreset_imm8, Rdmsrlist, Wrmsrlist, Wrmsrns,
    ]),
    family(Routine::NotOffered, SILENT, BEHAVIOUR, ALL,
        "shows the host's performance counters",
        "APM vol. 3 RDPRU", &[
            Rdpru,
    ]),
    family(Routine::NotOffered, SILENT, BEHAVIOUR, ALL,
        "writes to the host's processor trace",
        "SDM vol. 2 PTWRITE", &[
            Ptwrite_rm32, Ptwrite_rm64,
    ]),
    family(Routine::NotOffered, SILENT, CONTROL, ALL,
        "lightweight profiling is not offered",
        "APM vol. 3 LLWPCB", &[
            XOP_Llwpcb_r32, XOP_Llwpcb_r64, XOP_Slwpcb_r32, XOP_Slwpcb_r64, XOP_Lwpins_r32_rm32_imm32,
            XOP_Lwpins_r64_rm32_imm32, XOP_Lwpval_r32_rm32_imm32, XOP_Lwpval_r64_rm32_imm32,
    ]),
    family(Routine::NotOffered, SILENT, BEHAVIOUR, ALL,
        "commits stores, if EFER says so; not offered",
        "APM vol. 3 MCOMMIT", &[
            Mcommit,
    ]),
    family(Routine::NotOffered, SILENT, BEHAVIOUR, ALL,
        "a transaction ends at a translator's callout; not offered",
        "SDM vol. 1, TSX", &[
            Xabort_imm8, Xbegin_rel16, Xbegin_rel32, Xend, Xtest, Xsusldtrk, Xresldtrk,
    ]),
    family(Routine::NotOffered, SILENT, CONTROL, ALL,
        "work queues of devices are not offered",
        "SDM vol. 2 ENQCMD", &[
            Enqcmd_r16_m512, Enqcmd_r32_m512, Enqcmd_r64_m512,
    ]),
    family(Routine::NotOffered, TRAPS, CONTROL, ALL,
        "work queues of devices are not offered",
        "SDM vol. 2 ENQCMDS", &[
            Enqcmds_r16_m512, Enqcmds_r32_m512, Enqcmds_r64_m512,
    ]),
    family(Routine::NotOffered, SILENT, CONTROL, ALL,
        "wrapping keys are the host's; key locker is not offered",
        "Intel key locker specification", &[
            Aesencwide128kl_m384, Aesdecwide128kl_m384, Aesencwide256kl_m512, Aesdecwide256kl_m512,
            Aesenc128kl_xmm_m384, Aesdec128kl_xmm_m384, Aesenc256kl_xmm_m512, Aesdec256kl_xmm_m512,
            Encodekey128_r32_r32, Encodekey256_r32_r32,
    ]),
    family(Routine::NotOffered, TRAPS, CONTROL, ALL,
        "wrapping keys are the host's; key locker is not offered",
        "SDM vol. 2 LOADIWKEY", &[
            Loadiwkey_xmm_xmm,
    ]),
    family(Routine::NotOffered, HARMLESS, NEITHER, ALL,
        "tile state is not offered: the host's kernel gives it on request only",
        "SDM vol. 1, AMX", &[
            VEX_Ldtilecfg_m512, VEX_Tilerelease, VEX_Sttilecfg_m512, VEX_Tilezero_tmm,
            VEX_Tileloaddt1_tmm_sibmem, VEX_Tilestored_sibmem_tmm, VEX_Tileloadd_tmm_sibmem,
            VEX_Tdpbuud_tmm_tmm_tmm, VEX_Tdpbusd_tmm_tmm_tmm, VEX_Tdpbsud_tmm_tmm_tmm,
            VEX_Tdpbssd_tmm_tmm_tmm, VEX_Tdpbf16ps_tmm_tmm_tmm, VEX_Tdpfp16ps_tmm_tmm_tmm,
            VEX_Tcmmrlfp16ps_tmm_tmm_tmm, VEX_Tcmmimfp16ps_tmm_tmm_tmm,
    ]),
    family(Routine::NotOffered, HARMLESS, NEITHER, ALL,
        "writes 64 bytes where a register, not an operand, says; not offered",
        "SDM vol. 2 MOVDIR64B", &[
            Movdir64b_r16_m512, Movdir64b_r32_m512, Movdir64b_r64_m512,
    ]),
    family(Routine::NotOffered, HARMLESS, NEITHER, ALL,
        "VIA's cryptography: reads and writes where registers say; not offered",
        "VIA PadLock programming guide", &[
            Xcryptecb_16, Xcryptecb_32, Xcryptecb_64, Xcryptcbc_16, Xcryptcbc_32, Xcryptcbc_64,
            Xcryptctr_16, Xcryptctr_32, Xcryptctr_64, Xcryptcfb_16, Xcryptcfb_32, Xcryptcfb_64,
            Xcryptofb_16, Xcryptofb_32, Xcryptofb_64, Xsha1_16, Xsha1_32, Xsha1_64, Xsha256_16, Xsha256_32,
            Xsha256_64, Xsha512_16, Xsha512_32, Xsha512_64, Xsha512_alt_16, Xsha512_alt_32, Xsha512_alt_64,
            Montmul_16, Montmul_32, Montmul_64, Xstore_16, Xstore_32, Xstore_64, Xstore_alt_16,
            Xstore_alt_32, Xstore_alt_64, Ccs_hash_16, Ccs_hash_32, Ccs_hash_64, Ccs_encrypt_16,
            Ccs_encrypt_32, Ccs_encrypt_64, Via_undoc_F30FA6F0_16, Via_undoc_F30FA6F0_32,
            Via_undoc_F30FA6F0_64, Via_undoc_F30FA6F8_16, Via_undoc_F30FA6F8_32, Via_undoc_F30FA6F8_64,
    ]),
];
