//! What XSAVE manages here: the components popf offers to guests, where the host has them.

use std::sync::OnceLock;

use vcpu::FpuState;
use x86::Xcr0;

use crate::trampoline::XsaveFeatures;

/// Components whose registers guest code may use.
const OFFERED: Xcr0 = Xcr0::X87.union(Xcr0::SSE).union(Xcr0::AVX).union(Xcr0::AVX512);

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

/// What the crossings save and restore.
pub fn host_features() -> XsaveFeatures {
    let mut mask = Xcr0::from_bits_truncate(host::cpu::xcr0()) & OFFERED;
    if area_size(mask) as usize > FpuState::SIZE {
        mask &= Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    }
    XsaveFeatures { mask: mask.bits(), optimised: host::cpu::cpuid(0xd, 1).eax & 1 != 0 }
}
