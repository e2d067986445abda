//! x87 and vector registers between a vCPU's XSAVE area and a stub's. Both are in the standard format (SDM vol. 1 ch. 13.4); the
//! host's may hold components that guests are not offered, and those stay as they are.

use host::stub::Stub;
use vcpu::FpuState;

use crate::xsave::{XMM, XSTATE_BV};

/// x87 and SSE: FXSAVE's part as far as registers go.
const LEGACY: usize = 416;
const X87_CONTROL: usize = 24;
const MXCSR_END: usize = 32;
const EXTENDED: usize = 576;
const X87: u64 = 1;
const SSE: u64 = 2;

fn components(area: &[u8]) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|n| area[XSTATE_BV + n]))
}

fn set_components(area: &mut [u8], components: u64) {
    area[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&components.to_le_bytes());
}

/// Gives a stub what the vCPU has in these components, in an area of so many bytes, if it has anything else.
pub fn put(stub: &mut Stub, fpu: &FpuState, mask: u64, size: usize) {
    let (area, there) = (&fpu.area, stub.vectors());
    let size = size.min(there.len()).min(area.len());
    let (wanted, found) = (components(area) & mask, components(there));
    let extended = EXTENDED..size.max(EXTENDED);
    if wanted == found & mask
        && area[..LEGACY] == there[..LEGACY]
        && area[extended.clone()] == there[extended.clone()]
    {
        return;
    }
    let there = stub.vectors_mut();
    there[..LEGACY].copy_from_slice(&area[..LEGACY]);
    there[extended.clone()].copy_from_slice(&area[extended]);
    // What the area does not hold is in its initial state. MXCSR is loaded in any case.
    if wanted & X87 == 0 {
        there[..X87_CONTROL].fill(0);
        there[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        there[MXCSR_END..XMM].fill(0);
    }
    if wanted & SSE == 0 {
        there[XMM..LEGACY].fill(0);
    }
    set_components(there, wanted | X87 | SSE | found & !mask);
}

/// Takes from a stub what it has in these components.
pub fn get(stub: &Stub, fpu: &mut FpuState, mask: u64, size: usize) {
    let (area, there) = (&mut fpu.area, stub.vectors());
    let size = size.min(there.len()).min(area.len());
    let extended = EXTENDED..size.max(EXTENDED);
    area[..LEGACY].copy_from_slice(&there[..LEGACY]);
    area[extended.clone()].copy_from_slice(&there[extended]);
    set_components(area, components(there) & mask);
}
