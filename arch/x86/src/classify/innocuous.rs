//! Instructions without any sensitivity that a 64-bit host in ring 3 cannot run as they stand.

use iced_x86::Code::*;

use super::Routine;
use super::shape::*;

#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    family(Routine::Undefined, HARMLESS, NEITHER, ALL,
        "raises #UD, by design or because it is no instruction",
        "SDM vol. 2 UD", &[
            INVALID, DeclareByte, DeclareWord, DeclareDword, DeclareQword, Zero_bytes, Ud0_r16_rm16,
            Ud0_r32_rm32, Ud0_r64_rm64, Ud0, Ud1_r16_rm16, Ud1_r32_rm32, Ud1_r64_rm64, Ud2,
    ]),
    family(Routine::Nop, HARMLESS, NEITHER, ALL,
        "does nothing while CR4.CET is clear, as it always is; native, it would depend on the host",
        "SDM vol. 2 RDSSP", &[
            Rdsspd_r32, Rdsspq_r64,
    ]),
    family(Routine::Nop, HARMLESS, NEITHER, ALL,
        "does nothing while bounds registers are off, as they always are",
        "SDM vol. 1, MPX", &[
            Bndldx_bnd_mib, Bndmov_bnd_bndm64, Bndmov_bnd_bndm128, Bndcl_bnd_rm32, Bndcl_bnd_rm64,
            Bndcu_bnd_rm32, Bndcu_bnd_rm64, Bndstx_mib_bnd, Bndmov_bndm64_bnd, Bndmov_bndm128_bnd,
            Bndmk_bnd_m32, Bndmk_bnd_m64, Bndcn_bnd_rm32, Bndcn_bnd_rm64,
    ]),
    family(Routine::Aaa, HARMLESS, NEITHER, ALL,
        "absent in 64-bit mode",
        "SDM vol. 2 AAA", &[
            Aaa,
    ]),
    family(Routine::Aas, HARMLESS, NEITHER, ALL,
        "absent in 64-bit mode",
        "SDM vol. 2 AAS", &[
            Aas,
    ]),
    family(Routine::Aam, HARMLESS, NEITHER, ALL,
        "absent in 64-bit mode",
        "SDM vol. 2 AAM", &[
            Aam_imm8,
    ]),
    family(Routine::Aad, HARMLESS, NEITHER, ALL,
        "absent in 64-bit mode",
        "SDM vol. 2 AAD", &[
            Aad_imm8,
    ]),
    family(Routine::Daa, HARMLESS, NEITHER, ALL,
        "absent in 64-bit mode",
        "SDM vol. 2 DAA", &[
            Daa,
    ]),
    family(Routine::Das, HARMLESS, NEITHER, ALL,
        "absent in 64-bit mode",
        "SDM vol. 2 DAS", &[
            Das,
    ]),
    family(Routine::Salc, HARMLESS, NEITHER, ALL,
        "absent in 64-bit mode",
        "APM vol. 3 app. A", &[
            Salc,
    ]),
    family(Routine::Pusha, HARMLESS, NEITHER, ALL,
        "absent in 64-bit mode",
        "SDM vol. 2 PUSHA", &[
            Pushaw, Pushad,
    ]),
    family(Routine::Popa, HARMLESS, NEITHER, ALL,
        "absent in 64-bit mode",
        "SDM vol. 2 POPA", &[
            Popaw, Popad,
    ]),
    family(Routine::Bound, HARMLESS, NEITHER, ALL,
        "absent in 64-bit mode",
        "SDM vol. 2 BOUND", &[
            Bound_r16_m1616, Bound_r32_m3232,
    ]),
    family(Routine::Arpl, HARMLESS, NEITHER, ALL,
        "absent in 64-bit mode",
        "SDM vol. 2 ARPL", &[
            Arpl_rm16_r16, Arpl_r32m16_r32,
    ]),
    family(Routine::Enter, HARMLESS, NEITHER, ALL,
        "pushes a chain of frame pointers on what would be the host's stack",
        "SDM vol. 2 ENTER", &[
            Enterw_imm16_imm8, Enterd_imm16_imm8, Enterq_imm16_imm8,
    ]),
    family(Routine::Clzero, HARMLESS, NEITHER, ALL,
        "writes 64 bytes where rAX, not an operand, says",
        "APM vol. 3 CLZERO", &[
            Clzerow, Clzerod, Clzeroq,
    ]),
];
