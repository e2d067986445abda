//! The table is total, agrees with all that iced-x86 knows by itself, and shows what the theorem stumbles over.

use std::collections::BTreeSet;

use iced_x86::{Code, FlowControl, Mnemonic, OpCodeOperandKind};

use super::*;

const MODES: [Mode; 5] = [Mode::Real, Mode::Virtual8086, Mode::Protected16, Mode::Protected32, Mode::Long64];

/// Mnemonics of codes without routine for which `wanted` holds.
fn innocuous_mnemonics(wanted: impl Fn(Code) -> bool) -> BTreeSet<String> {
    Code::values()
        .filter(|&code| routine(code, Mode::Long64).is_none() && wanted(code))
        .map(|code| format!("{:?}", code.mnemonic()).to_lowercase())
        .collect()
}

fn names(list: &str) -> BTreeSet<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn every_code_has_its_place() {
    assert_eq!(Code::values().len(), CODES, "iced-x86 has gained codes: give each its row");
    for code in Code::values() {
        for mode in MODES {
            let row = classify(code, mode);
            assert_eq!(row.reason.is_empty(), routine(code, mode).is_none(), "{code:?}");
            assert!(!row.is_sensitive() || routine(code, mode).is_some(), "{code:?} in {mode:?}");
            assert!(!row.privileged || row.is_sensitive(), "{code:?}: privileged for no reason");
        }
    }
}

#[test]
fn every_family_tells_why() {
    for (routine, row, codes) in families() {
        assert!(!row.reason.is_empty() && !row.manual.is_empty() && !codes.is_empty(), "{routine:?}");
        if !matches!(routine, Routine::NotOffered | Routine::Undefined | Routine::Nop) {
            assert_eq!(routine.is_sensitive(), row.is_sensitive(), "{routine:?}");
        }
        for &code in codes {
            assert_eq!(super::routine(code, Mode::Long64), Some(routine), "{code:?}");
            assert_eq!(classify(code, Mode::Protected32), row, "{code:?}");
        }
    }
}

#[test]
fn one_mnemonic_is_one_family() {
    use Mnemonic::{Call, Jmp, Mov, Pop, Push};
    let mixed = [Call, Jmp, Mov, Pop, Push];
    // Makers now gone reused mnemonics; the decoder knows theirs only when asked.
    let usual = |code: &Code| code.op_code().decoder_option() == 0;
    for code in Code::values().filter(usual).filter(|code| !mixed.contains(&code.mnemonic())) {
        let first = Code::values().filter(usual).find(|other| other.mnemonic() == code.mnemonic()).unwrap();
        assert_eq!(PLACES[code as usize], PLACES[first as usize], "{code:?} and {first:?}");
    }
}

#[test]
fn what_must_be_in_ring_0_is_privileged() {
    for code in Code::values() {
        // VMCALL must be in ring 0 of VMX root mode; a guest may call its monitor from any ring.
        if code.op_code().must_be_cpl0() && code != Code::Vmcall {
            assert!(classify(code, Mode::Protected32).privileged, "{code:?}");
        }
    }
}

#[test]
fn system_registers_devices_and_transfers_have_routines() {
    use OpCodeOperandKind as Kind;
    let left = innocuous_mnemonics(|code| {
        let system_operand = code.op_code().op_kinds().iter().any(|kind| {
            matches!(kind, Kind::seg_reg | Kind::cr_reg | Kind::dr_reg | Kind::tr_reg)
                || matches!(kind, Kind::farbr2_2 | Kind::farbr4_2)
                || matches!(kind, Kind::es | Kind::cs | Kind::ss | Kind::ds | Kind::fs | Kind::gs)
        });
        system_operand
            || matches!(code.flow_control(), FlowControl::Interrupt | FlowControl::Exception)
            || code.op_code().is_input_output()
            || code.op_code().is_privileged()
            || code.op_code().may_require_cpl0()
    });
    assert_eq!(left, names(""));
}

#[test]
fn what_hardware_assisted_monitors_intercept_has_routines() {
    let left = innocuous_mnemonics(|code| {
        let info = code.op_code();
        let vmx = info.intel_vm_exit() || info.intel_may_vm_exit();
        let svm = info.amd_vm_exit() || info.amd_may_vm_exit();
        let tdx = info.tdx_non_root_gen_ud() || info.tdx_non_root_gen_ve() || info.tdx_non_root_may_gen_ex();
        vmx || svm || tdx
    });
    // Their exits serve scheduling and nesting: neither shows nor changes anything.
    assert_eq!(left, names("pause rdrand rdseed"));
}

#[test]
fn what_64_bit_mode_lacks_has_a_routine_or_another_encoding() {
    let left = innocuous_mnemonics(|code| !code.op_code().mode64());
    // Opcode 82h is 80h; 40h to 4Fh have a long form; stack and branches are rewritten anyway.
    let arithmetic = "adc add and cmp or sbb sub xor inc dec";
    let stack = "call leave pop push ret";
    let branches = "ja jae jb jbe jcxz je jecxz jg jge jl jle jmp jne jno jnp jns jo jp js loop loope loopne";
    // Of the 287 and 387SL, decoded only when asked.
    let coprocessor = "fnstdw fnstsg frstpm fstdw fstsg";
    assert_eq!(left, names(&[arithmetic, stack, branches, coprocessor].join(" ")));
}

/// An extension in none of these lists is new to iced-x86: think, then add it here or give it a row.
#[test]
fn every_extension_that_runs_natively_is_known() {
    let left: BTreeSet<_> = Code::values()
        .filter(|&code| routine(code, Mode::Long64).is_none())
        .flat_map(|code| code.cpuid_features().iter().map(|feature| format!("{feature:?}")))
        .collect();
    let general = "INTEL8086 INTEL186 INTEL386 INTEL486 X64 CMOV CX8 CMPXCHG16B MULTIBYTENOP PAUSE MOVBE \
        POPCNT LZCNT BMI1 BMI2 TBM ADX RDRAND RDSEED SERIALIZE CET_IBT CMPCCXADD RAO_INT MOVDIRI";
    let cache = "CLDEMOTE CLFLUSHOPT CLFSH CLWB PREFETCHITI PREFETCHW PREFETCHWT1";
    let x87 = "FPU FPU287 FPU287XL_ONLY FPU387 FPU387SL_ONLY FXSR MMX D3NOW D3NOWEXT";
    let sse = "SSE SSE2 SSE3 SSE4A SSE4_1 SSE4_2 SSSE3 AES PCLMULQDQ SHA GFNI";
    let avx = "AVX AVX2 AVX_IFMA AVX_NE_CONVERT AVX_VNNI AVX_VNNI_INT16 AVX_VNNI_INT8 F16C FMA FMA4 XOP VAES \
        VPCLMULQDQ SHA512 SM3 SM4";
    let avx512 = "AVX512F AVX512BW AVX512CD AVX512DQ AVX512ER AVX512PF AVX512VL AVX512_4FMAPS AVX512_4VNNIW \
        AVX512_BF16 AVX512_BITALG AVX512_FP16 AVX512_IFMA AVX512_VBMI AVX512_VBMI2 AVX512_VNNI \
        AVX512_VP2INTERSECT AVX512_VPOPCNTDQ";
    // Vector arithmetic of a coprocessor that no host is; the decoder is built without it.
    let coprocessor = "KNC";
    assert_eq!(left, names(&[general, cache, x87, sse, avx, avx512, coprocessor].join(" ")));
}

/// The seventeen of Robin and Irvine, "Analysis of the Intel Pentium's Ability to Support a Secure Virtual
/// Machine Monitor" (2000), with a code for each of the names in their list, which are eighteen.
const SEVENTEEN: [(&str, Code); 18] = [
    ("SGDT", Code::Sgdt_m1632),
    ("SIDT", Code::Sidt_m1632),
    ("SLDT", Code::Sldt_rm16),
    ("SMSW", Code::Smsw_rm16),
    ("STR", Code::Str_rm16),
    ("PUSHF", Code::Pushfd),
    ("POPF", Code::Popfd),
    ("LAR", Code::Lar_r32_r32m16),
    ("LSL", Code::Lsl_r32_r32m16),
    ("VERR", Code::Verr_rm16),
    ("VERW", Code::Verw_rm16),
    ("POP", Code::Popd_DS),
    ("PUSH", Code::Pushd_CS),
    ("CALL", Code::Call_ptr1632),
    ("JMP", Code::Jmp_ptr1632),
    ("INT n", Code::Int_imm8),
    ("RET", Code::Retfd),
    ("MOV", Code::Mov_rm16_Sreg),
];

#[test]
fn the_seventeen_are_sensitive_and_do_not_trap() {
    let others = [Code::Iretd, Code::Mov_Sreg_rm16, Code::Popfq, Code::Retfq, Code::Iretq];
    let codes = SEVENTEEN.map(|(_, code)| code);
    for code in codes.into_iter().chain(others) {
        for mode in [Mode::Protected32, Mode::Protected16, Mode::Long64] {
            let row = classify(code, mode);
            assert!(row.is_offender(Cr4::empty()), "{code:?} in {mode:?}: {row:?}");
        }
    }
}

#[test]
fn umip_and_tsd_take_offenders_away() {
    let umip: Vec<_> = SEVENTEEN
        .iter()
        .filter(|(_, code)| !classify(*code, Mode::Protected32).is_offender(Cr4::UMIP))
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(umip, ["SGDT", "SIDT", "SLDT", "SMSW", "STR"]);
    for code in [Code::Rdtsc, Code::Rdtscp] {
        let row = classify(code, Mode::Long64);
        assert!(row.is_offender(Cr4::UMIP) && !row.is_offender(Cr4::TSD), "{code:?}");
    }
}

#[test]
fn modes_differ() {
    let sensitivity = |code, mode| classify(code, mode).sensitivity;
    let popf = |mode| classify(Code::Popfw, mode).privileged;
    assert!(popf(Mode::Virtual8086) && !popf(Mode::Protected16) && !popf(Mode::Real));
    for mode in [Mode::Real, Mode::Virtual8086] {
        assert_eq!(sensitivity(Code::Mov_Sreg_rm16, mode), Sensitivity::None);
        assert_eq!(routine(Code::Mov_Sreg_rm16, mode), Some(Routine::MovToSegment), "all the same");
    }
    assert_eq!(sensitivity(Code::Mov_Sreg_rm16, Mode::Protected16), Sensitivity::Both);
    for code in Code::values() {
        assert!(!classify(code, Mode::Real).is_privileged_under(Cr4::all()), "{code:?} in real mode");
    }
}

#[test]
fn samples() {
    let check = |code, privileged, sensitivity, expected| {
        let row = classify(code, Mode::Long64);
        assert_eq!((row.privileged, row.sensitivity), (privileged, sensitivity), "{code:?}");
        assert_eq!(routine(code, Mode::Long64), expected, "{code:?}");
    };
    check(Code::Add_rm64_r64, false, Sensitivity::None, None);
    check(Code::Call_rel32_64, false, Sensitivity::None, None);
    check(Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er, false, Sensitivity::None, None);
    check(Code::Cli, true, Sensitivity::Control, Some(Routine::Cli));
    check(Code::Rdmsr, true, Sensitivity::Behaviour, Some(Routine::Rdmsr));
    check(Code::In_AL_DX, true, Sensitivity::Both, Some(Routine::In));
    check(Code::Mov_cr_r64, true, Sensitivity::Control, Some(Routine::MovToCr));
    check(Code::Syscall, false, Sensitivity::Control, Some(Routine::Syscall));
    check(Code::Cpuid, false, Sensitivity::Behaviour, Some(Routine::Cpuid));
    check(Code::Vmrunq, true, Sensitivity::Both, Some(Routine::NotOffered));
    check(Code::INVALID, false, Sensitivity::None, Some(Routine::Undefined));
    check(Code::Aaa, false, Sensitivity::None, Some(Routine::Aaa));
}
