//! Instructions of processors before, or beside, those popf runs on. The decoder knows them only when asked;
//! they raise #UD.

use iced_x86::Code::*;

use super::Routine;
use super::shape::*;

#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    family(Routine::Undefined, TRAPS, BOTH, ALL,
        "loads or stores the whole processor; gone since the 486",
        "iced-x86 OpCodeInfo", &[
            Loadall286, Loadall386, Storeall, Cl1invmb,
    ]),
    family(Routine::Undefined, SILENT, BOTH, ALL,
        "reaches user memory from in-circuit emulation; gone since the 486",
        "iced-x86 OpCodeInfo", &[
            Umov_rm8_r8, Umov_rm16_r16, Umov_rm32_r32, Umov_r8_rm8, Umov_r16_rm16, Umov_r32_rm32,
    ]),
    family(Routine::Undefined, TRAPS, BOTH, ALL,
        "test registers; gone since the Pentium",
        "SDM vol. 3, architecture compatibility", &[
            Mov_r32_tr, Mov_tr_r32,
    ]),
    family(Routine::Undefined, SILENT, CONTROL, ALL,
        "changes to another instruction set",
        "Intel Itanium architecture manual; VIA AIS", &[
            Jmpe_rm16, Jmpe_rm32, Jmpe_disp16, Jmpe_disp32, Altinst,
    ]),
    family(Routine::Undefined, TRAPS, BOTH, ALL,
        "system-management and debug instructions of Cyrix, Geode and others",
        "Cyrix 6x86MX data book", &[
            Rdshr_rm32, Wrshr_rm32, Smint, Smint_0F7E, Dmint, Rdm, Svdc_m80_Sreg, Rsdc_Sreg_m80, Svldt_m80,
            Rsldt_m80, Svts_m80, Rsts_m80, Bb0_reset, Bb1_reset, Cpu_write, Cpu_read, Rdudbg, Wrudbg,
    ]),
    family(Routine::Undefined, HARMLESS, NEITHER, ALL,
        "bit strings of the first 386 and CMPXCHG of the first 486",
        "iced-x86 OpCodeInfo", &[
            Ibts_rm16_r16, Ibts_rm32_r32, Xbts_r16_rm16, Xbts_r32_rm32, Cmpxchg486_rm8_r8,
            Cmpxchg486_rm16_r16, Cmpxchg486_rm32_r32,
    ]),
    family(Routine::Undefined, HARMLESS, NEITHER, ALL,
        "never made",
        "Intel architecture extensions reference", &[
            Pcommit,
    ]),
    family(Routine::Undefined, HARMLESS, NEITHER, ALL,
        "floating point and MMX extensions of Cyrix",
        "Cyrix 6x86MX data book", &[
            Cyrix_D9D7, Cyrix_D9E2, Ftstp, Cyrix_D9E7, Frint2, Frichop, Cyrix_DED8, Cyrix_DEDA, Cyrix_DEDC,
            Cyrix_DEDD, Cyrix_DEDE, Frinear, Paveb_mm_mmm64, Paddsiw_mm_mmm64, Pmagw_mm_mmm64,
            Pdistib_mm_m64, Psubsiw_mm_mmm64, Pmvzb_mm_m64, Pmulhrw_mm_mmm64, Pmvnzb_mm_m64, Pmvlzb_mm_m64,
            Pmvgezb_mm_m64, Pmulhriw_mm_mmm64, Pmachriw_mm_m64, D3NOW_Pfrcpv_mm_mmm64,
            D3NOW_Pfrsqrtv_mm_mmm64,
    ]),
];
