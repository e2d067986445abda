//! The vector registers, loaded one by one from a vCPU's XSAVE area.
//!
//! XRSTOR takes 230 cycles on a Zen 4, which is a third of a short exit. What it does beyond this is the x87 state, which
//! no code of ours touches: where that still is as guest code has left it, this is enough.

use iced_x86::{Code, Encoder, IcedError, Instruction, MemoryOperand, Register};

use crate::emit::{Cond, Emitter, Mem, Op, Reg};
use crate::xsave::{AVX, OPMASK, SSE, XsaveFeatures, ZMM_16, ZMM_HIGH};

/// Offset of the bits that say which components an area holds. The others are in their initial state: zero.
const XSTATE_BV: i32 = 512;
const MXCSR: u32 = 24;
const XMM: u32 = 160;

impl XsaveFeatures {
    fn has(&self, component: usize) -> bool {
        self.mask >> component & 1 != 0
    }

    /// Whether the registers can be loaded one by one here. A host without AVX is not worth the code.
    pub fn can_load(&self) -> bool {
        self.has(SSE) && self.has(AVX) && (self.wide_masks || !self.has(OPMASK))
    }
}

/// Loads all vector and mask registers, and MXCSR, from the area whose address is in r9. Clobbers rax and flags.
pub fn emit_load(e: &mut Emitter, xsave: XsaveFeatures) {
    let mut loader = Loader { e, encoder: Encoder::new(64) };
    loader.e.op_mem(Op::Load, false, Reg::RAX, Mem::at(Reg::R9, XSTATE_BV));
    loader.put(Instruction::with1(Code::Ldmxcsr_m32, area(MXCSR)));
    // So no upper half of a register is left for code to drag along that knows nothing of it.
    loader.put(Ok(Instruction::with(Code::VEX_Vzeroall)));
    let at = |component: usize| xsave.offsets[component];
    loader.component(SSE, |loader| {
        for n in 0..16 {
            let xmm = Register::XMM0 + n;
            loader.put(Instruction::with2(Code::Movups_xmm_xmmm128, xmm, area(XMM + 16 * n)));
        }
    });
    loader.component(AVX, |loader| {
        for n in 0..16 {
            let (ymm, half) = (Register::YMM0 + n, area(at(AVX) + 16 * n));
            let code = Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8;
            loader.put(Instruction::with4(code, ymm, ymm, half, 1));
        }
    });
    if xsave.has(ZMM_HIGH) {
        loader.component(ZMM_HIGH, |loader| {
            for n in 0..16 {
                let (zmm, half) = (Register::ZMM0 + n, area(at(ZMM_HIGH) + 32 * n));
                let code = Code::EVEX_Vinsertf64x4_zmm_k1z_zmm_ymmm256_imm8;
                loader.put(Instruction::with4(code, zmm, zmm, half, 1));
            }
        });
    }
    if xsave.has(ZMM_16) {
        let zmms = || (0..16).map(|n| (n, Register::ZMM16 + n));
        loader.clear(
            zmms()
                .map(|(_, zmm)| Instruction::with3(Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32, zmm, zmm, zmm)),
        );
        loader.component(ZMM_16, |loader| {
            for (n, zmm) in zmms() {
                let from = area(at(ZMM_16) + 64 * n);
                loader.put(Instruction::with2(Code::EVEX_Vmovups_zmm_k1z_zmmm512, zmm, from));
            }
        });
    }
    if xsave.has(OPMASK) {
        let masks = || (0..8).map(|n| (n, Register::K0 + n));
        loader.clear(masks().map(|(_, k)| Instruction::with3(Code::VEX_Kxorq_kr_kr_kr, k, k, k)));
        loader.component(OPMASK, |loader| {
            for (n, k) in masks() {
                loader.put(Instruction::with2(Code::VEX_Kmovq_kr_km64, k, area(at(OPMASK) + 8 * n)));
            }
        });
    }
}

fn area(offset: u32) -> MemoryOperand {
    MemoryOperand::with_base_displ(Register::R9, offset.into())
}

struct Loader<'a> {
    e: &'a mut Emitter,
    encoder: Encoder,
}

impl Loader<'_> {
    /// What is done if the area holds a component.
    fn component(&mut self, component: usize, load: impl FnOnce(&mut Self)) {
        self.e.test32(Reg::RAX, 1 << component);
        let absent = self.e.jcc(Cond::Equal);
        load(self);
        self.e.fix_here(absent);
    }

    fn clear(&mut self, instructions: impl Iterator<Item = Result<Instruction, IcedError>>) {
        instructions.for_each(|instruction| self.put(instruction));
    }

    fn put(&mut self, instruction: Result<Instruction, IcedError>) {
        let encoded = instruction.and_then(|instruction| self.encoder.encode(&instruction, self.e.here()));
        encoded.expect("instructions with the operands that they have");
        let bytes = self.encoder.take_buffer();
        self.e.bytes(&bytes);
    }
}
