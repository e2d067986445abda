//! Gathers and scatters: as many accesses as the mask has elements, each with its own address, so they are done
//! element by element on the vector state in the XSAVE area (SDM vol. 2, VGATHERDPS, VPSCATTERDD and their kin).
//!
//! Elements go from the lowest to the highest. A fault leaves what is done: those elements and their mask bits
//! are written back, and the instruction can be executed again.

use iced_x86::{EncodingKind, Instruction, Mnemonic};
use vcpu::CpuState;
use x86::Exception;

use super::{Insn, Slow, access};
use crate::access::Direction;
use crate::decode::is_amd;
use crate::engine::Translator;
use crate::lower::address_bytes;
use crate::xsave::{VECTOR_BYTES, VectorState};

/// CPUID leaf 7 in ebx: AVX2 and the foundation of AVX-512.
const AVX2: u32 = 1 << 5;
const AVX512F: u32 = 1 << 16;

/// One of them, taken apart.
#[derive(Clone, Copy, Debug)]
struct Form {
    scatter: bool,
    /// Bytes of an element.
    data: usize,
    /// Bytes of an index.
    index: usize,
    /// The vector that is loaded or stored, and how much of it counts.
    vector: usize,
    vector_bytes: usize,
    /// Bytes of the longer of the two vectors.
    longest: usize,
    /// The vector of indices.
    indices: usize,
    count: usize,
    mask: Mask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mask {
    /// The sign bits of a vector's elements (AVX2).
    Vector(usize),
    /// An opmask register.
    Opmask(usize),
}

/// Whether this is a gather or a scatter.
pub(super) fn is_gather(i: &Instruction) -> bool {
    i.memory_index().is_vector_register()
}

impl Translator {
    pub(super) fn gather(&mut self, cpu: &mut CpuState, insn: Insn) -> Slow {
        let i = &insn.instruction;
        let Some(form) = Form::of(i) else {
            return Slow::Fault(Exception::UD);
        };
        if !form.is_valid() || !form.is_supported() {
            return Slow::Fault(Exception::UD);
        }
        let mut vector = VectorState::of(cpu).vector(form.vector);
        let indices = VectorState::of(cpu).vector(form.indices);
        let wanted = form.mask_bits(cpu);
        let mut mask = wanted;
        let mut outcome = Slow::Done(i.next_ip());
        let mut reached = 0;
        for n in (0..form.count).filter(|n| mask >> n & 1 != 0).collect::<Vec<_>>() {
            match self.gather_element(cpu, i, form, &mut vector, element(&indices, form.index, n), n) {
                Ok(()) => {
                    mask &= !(1 << n);
                    self.answers.forget();
                }
                Err(slow) => {
                    (outcome, reached) = (slow, n);
                    break;
                }
            }
        }
        let done = matches!(outcome, Slow::Done(_));
        if !form.scatter {
            // AVX-512's forms, and on Intel's processors all, clear what lies above the longer vector as soon as one
            // element is there.
            if done {
                vector[form.vector_bytes..].fill(0);
            } else if mask != wanted && (matches!(form.mask, Mask::Opmask(_)) || !is_amd()) {
                vector[form.longest..].fill(0);
            }
            VectorState::of(cpu).set_vector(form.vector, &vector);
        }
        form.set_mask(cpu, reached, done);
        outcome
    }

    fn gather_element(
        &mut self,
        cpu: &CpuState,
        i: &Instruction,
        form: Form,
        vector: &mut [u8; VECTOR_BYTES],
        index: u64,
        n: usize,
    ) -> Result<(), Slow> {
        let base = self.register(i.memory_base());
        let scaled = index.wrapping_mul(u64::from(i.memory_index_scale()));
        let sum = base.wrapping_add(scaled).wrapping_add(i.memory_displacement64());
        let offset = sum & (u64::MAX >> (64 - 8 * address_bytes(i)));
        let size = form.data as u32;
        let segment = self.segment_of(i);
        let linear = self.linear(cpu, segment, offset, size, form.scatter).map_err(Slow::Fault)?;
        let at = n * form.data..(n + 1) * form.data;
        if form.scatter {
            let value = element(vector, form.data, n);
            self.write_linear(access(linear, size, Direction::Write), value)
        } else {
            let value = self.read_linear(access(linear, size, Direction::Read))?;
            vector[at].copy_from_slice(&value.to_le_bytes()[..form.data]);
            Ok(())
        }
    }
}

/// Element `n` of a vector, sign-extended.
fn element(vector: &[u8; VECTOR_BYTES], bytes: usize, n: usize) -> u64 {
    let at = n * bytes;
    if bytes == 4 {
        let four = [0, 1, 2, 3].map(|k| vector[at + k]);
        i64::from(i32::from_le_bytes(four)) as u64
    } else {
        u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|k| vector[at + k]))
    }
}

impl Form {
    fn of(i: &Instruction) -> Option<Self> {
        use Mnemonic as M;
        let (scatter, index, data) = match i.mnemonic() {
            M::Vgatherdps | M::Vpgatherdd => (false, 4, 4),
            M::Vgatherdpd | M::Vpgatherdq => (false, 4, 8),
            M::Vgatherqps | M::Vpgatherqd => (false, 8, 4),
            M::Vgatherqpd | M::Vpgatherqq => (false, 8, 8),
            M::Vscatterdps | M::Vpscatterdd => (true, 4, 4),
            M::Vscatterdpd | M::Vpscatterdq => (true, 4, 8),
            M::Vscatterqps | M::Vpscatterqd => (true, 8, 4),
            M::Vscatterqpd | M::Vpscatterqq => (true, 8, 8),
            _ => return None,
        };
        let vector = if scatter { i.op1_register() } else { i.op0_register() };
        let indices = i.memory_index();
        let count = (vector.size() / data).min(indices.size() / index);
        let mask = match i.code().op_code().encoding() {
            EncodingKind::VEX => Mask::Vector(i.op2_register().number()),
            _ => Mask::Opmask(i.op_mask().number()),
        };
        Some(Self {
            scatter,
            data,
            index,
            vector: vector.number(),
            vector_bytes: count * data,
            longest: vector.size().max(indices.size()),
            indices: indices.number(),
            count,
            mask,
        })
    }

    /// Whether its registers may be combined.
    fn is_valid(self) -> bool {
        match self.mask {
            Mask::Vector(mask) => self.vector != self.indices && self.vector != mask && mask != self.indices,
            Mask::Opmask(mask) => mask != 0 && (self.scatter || self.vector != self.indices),
        }
    }

    /// Whether the host's processor has it.
    fn is_supported(self) -> bool {
        let wanted = match self.mask {
            Mask::Vector(_) => AVX2,
            Mask::Opmask(_) => AVX512F,
        };
        host_features() & wanted != 0
    }

    /// A bit for each element that is to be moved.
    fn mask_bits(self, cpu: &mut CpuState) -> u64 {
        let state = VectorState::of(cpu);
        match self.mask {
            Mask::Opmask(k) => state.opmask(k) & ((1 << self.count) - 1),
            Mask::Vector(n) => {
                let vector = state.vector(n);
                let signs = (0..self.count).map(|n| (element(&vector, self.data, n) >> 63) << n);
                signs.sum()
            }
        }
    }

    /// Takes the elements below `reached` out of the mask; at the end nothing is left of it. In a vector that is the
    /// mask, Intel's processors make an element's every bit what its sign is before they begin, as the manual's
    /// pseudo-code has it; AMD's leave what they did not get to.
    fn set_mask(self, cpu: &mut CpuState, reached: usize, done: bool) {
        let mut state = VectorState::of(cpu);
        match self.mask {
            Mask::Opmask(k) => {
                let left = state.opmask(k) & !((1 << reached) - 1);
                state.set_opmask(k, if done { 0 } else { left });
            }
            Mask::Vector(n) => {
                let mut vector = state.vector(n);
                let cleared = if done { VECTOR_BYTES } else { reached * self.data };
                vector[..cleared].fill(0);
                if !is_amd() {
                    let (elements, above) = vector.split_at_mut(self.longest);
                    for element in elements.chunks_mut(self.data) {
                        let sign = element[self.data - 1] >> 7;
                        element.fill(sign.wrapping_neg());
                    }
                    above.fill(0);
                }
                state.set_vector(n, &vector);
            }
        }
    }
}

fn host_features() -> u32 {
    static FEATURES: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *FEATURES.get_or_init(|| host::cpu::cpuid(7, 0).ebx)
}
