//! What XSAVE manages here: the components popf offers to guests, where the host has them.

use std::sync::OnceLock;

use vcpu::{CpuState, FpuState};
use x86::Xcr0;

/// Components whose registers guest code may use.
const OFFERED: Xcr0 = Xcr0::X87.union(Xcr0::SSE).union(Xcr0::AVX).union(Xcr0::AVX512);

/// CPUID leaf 7, EBX: AVX512BW.
const AVX512BW: u32 = 1 << 30;

/// Offset and size in the standard format, by component (CPUID leaf D).
fn components() -> &'static [(u32, u32); 8] {
    static COMPONENTS: OnceLock<[(u32, u32); 8]> = OnceLock::new();
    COMPONENTS.get_or_init(|| {
        std::array::from_fn(|n| match n {
            0 | 1 => (0, 576),
            n => {
                let leaf = host::cpu::cpuid(0xd, n as u32);
                (leaf.ebx, leaf.eax)
            }
        })
    })
}

/// Bytes of a standard-format area with these components.
pub fn area_size(xcr0: Xcr0) -> u32 {
    let used = components().iter().enumerate().filter(|(n, _)| xcr0.bits() >> n & 1 != 0);
    used.map(|(_, (offset, size))| offset + size).max().unwrap_or(0).max(576)
}

/// What the host's processor and system let XSAVE manage, and how.
#[derive(Clone, Copy, Debug)]
pub struct XsaveFeatures {
    /// Components saved and restored.
    pub mask: u64,
    /// Where each component is in the standard format.
    pub offsets: [u32; 8],
    /// KMOVQ exists.
    pub wide_masks: bool,
}

/// What the crossings save and restore.
pub fn host_features() -> XsaveFeatures {
    let mut mask = Xcr0::from_bits_truncate(host::cpu::xcr0()) & OFFERED;
    if area_size(mask) as usize > FpuState::SIZE {
        mask &= Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    }
    XsaveFeatures {
        mask: mask.bits(),
        offsets: components().map(|(offset, _)| offset),
        wide_masks: host::cpu::cpuid_checked(7, 0).ebx & AVX512BW != 0,
    }
}

/// Bytes of the widest vector register.
pub const VECTOR_BYTES: usize = 64;

/// Where the low halves of the vector registers are in an area (SDM vol. 1 ch. 13.4), and the bits that say which components it
/// holds.
pub const XMM: usize = 160;
pub const XSTATE_BV: usize = 512;
/// XSAVE components of vector registers and masks.
pub const SSE: usize = 1;
pub const AVX: usize = 2;
pub const OPMASK: usize = 5;
pub const ZMM_HIGH: usize = 6;
pub const ZMM_16: usize = 7;

/// The vector registers in a vCPU's XSAVE area, while guest code does not run.
pub struct VectorState<'a> {
    area: &'a mut [u8; FpuState::SIZE],
}

/// A part of a register that one component holds.
#[derive(Clone, Copy)]
struct Part {
    component: usize,
    at: usize,
    len: usize,
}

impl<'a> VectorState<'a> {
    /// That of a vCPU.
    pub fn of(cpu: &'a mut CpuState) -> Self {
        Self { area: &mut cpu.fpu.area }
    }

    /// Register 0 to 31, zero where the host has no such part of it.
    pub fn vector(&self, n: usize) -> [u8; VECTOR_BYTES] {
        let mut value = [0; VECTOR_BYTES];
        let mut done = 0;
        for part in parts(n) {
            if self.present(part.component) {
                value[done..done + part.len].copy_from_slice(&self.area[part.at..part.at + part.len]);
            }
            done += part.len;
        }
        value
    }

    /// Sets all of a register.
    pub fn set_vector(&mut self, n: usize, value: &[u8; VECTOR_BYTES]) {
        let mut done = 0;
        for part in parts(n) {
            self.store(part, &value[done..done + part.len]);
            done += part.len;
        }
    }

    /// Mask register 0 to 7.
    pub fn opmask(&self, n: usize) -> u64 {
        if !self.present(OPMASK) {
            return 0;
        }
        let at = components()[OPMASK].0 as usize + n * 8;
        u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|k| self.area[at + k]))
    }

    /// Sets a mask register.
    pub fn set_opmask(&mut self, n: usize, value: u64) {
        let at = components()[OPMASK].0 as usize + n * 8;
        self.store(Part { component: OPMASK, at, len: 8 }, &value.to_le_bytes());
    }

    fn present(&self, component: usize) -> bool {
        self.area[XSTATE_BV] >> component & 1 != 0
    }

    fn store(&mut self, part: Part, value: &[u8]) {
        let (start, size) = match part.component {
            SSE => (XMM, 256),
            n => (components()[n].0 as usize, components()[n].1 as usize),
        };
        if start == 0 {
            return;
        }
        if !self.present(part.component) {
            // In its initial state: the bytes there mean nothing.
            if value.iter().all(|byte| *byte == 0) {
                return;
            }
            self.area[start..start + size].fill(0);
            self.area[XSTATE_BV] |= 1 << part.component;
        }
        self.area[part.at..part.at + part.len].copy_from_slice(value);
    }
}

fn parts(n: usize) -> impl Iterator<Item = Part> {
    let at = |component: usize, n: usize, len: usize| Part {
        component,
        at: components()[component].0 as usize + n * len,
        len,
    };
    let list = if n < 16 {
        [
            Some(Part { component: SSE, at: XMM + n * 16, len: 16 }),
            Some(at(AVX, n, 16)),
            Some(at(ZMM_HIGH, n, 32)),
        ]
    } else {
        [Some(at(ZMM_16, n - 16, 64)), None, None]
    };
    list.into_iter().flatten()
}
