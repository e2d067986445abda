//! From an offset in a segment to a linear address: limit, type and canonical checks (SDM vol. 3 ch. 5.3 to
//! 5.5 and vol. 1 ch. 3.3.7.1).

use vcpu::{CpuState, Environment};
use x86::{Efer, Exception, Mode, Segment, SegmentRegister};

use crate::Context;
use crate::memory::Access;

/// Whether bits 63 to 47 are all equal; 5-level paging is not offered.
pub(crate) const fn canonical(address: u64) -> bool {
    x86::paging::is_canonical(address, false)
}

/// The exception for a bad access through a segment register.
fn violation(register: SegmentRegister) -> Exception {
    if register == SegmentRegister::Ss { Exception::ss(0) } else { Exception::gp(0) }
}

/// The linear address of `size` bytes at `offset` in `segment`, which stands or is about to stand in
/// `register`.
pub(crate) fn linear_in(
    mode: Mode,
    segment: &Segment,
    register: SegmentRegister,
    offset: u64,
    size: usize,
    access: Access,
) -> Result<u64, Exception> {
    let last = size.max(1) as u64 - 1;
    if mode == Mode::Long64 {
        let base = match register {
            SegmentRegister::Fs | SegmentRegister::Gs => segment.base,
            _ => 0,
        };
        let linear = base.wrapping_add(offset);
        if !canonical(linear) || !canonical(linear.wrapping_add(last)) {
            return Err(violation(register));
        }
        return Ok(linear);
    }
    if !segment.is_present() && !mode.is_real_style() {
        return Err(violation(register));
    }
    if !mode.is_real_style() {
        let code = segment.has(Segment::EXECUTABLE);
        let permitted = match access {
            Access::Read => !code || segment.has(Segment::READABLE_OR_WRITABLE),
            Access::Write => !code && segment.has(Segment::READABLE_OR_WRITABLE),
        };
        if !permitted {
            return Err(violation(register));
        }
    }
    let limit = u64::from(segment.limit);
    let expand_down = !segment.has(Segment::EXECUTABLE) && segment.has(Segment::CONFORMING_OR_EXPAND_DOWN);
    let inside = if expand_down {
        let top = if segment.has(Segment::BIG) { 0xffff_ffff } else { 0xffff };
        offset > limit && offset.saturating_add(last) <= top
    } else {
        offset.saturating_add(last) <= limit
    };
    if !inside {
        return Err(violation(register));
    }
    Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
}

/// Whether the processor is in long mode: 64-bit or compatibility mode.
pub(crate) fn long_mode(cpu: &CpuState) -> bool {
    cpu.efer.contains(Efer::LMA)
}

impl<E: Environment + ?Sized> Context<'_, E> {
    /// The linear address of `size` bytes at `offset` in a segment register.
    pub(crate) fn linear(
        &self,
        register: SegmentRegister,
        offset: u64,
        size: usize,
        access: Access,
    ) -> Result<u64, Exception> {
        linear_in(self.mode(), self.cpu.segment(register), register, offset, size, access)
    }

    /// Checks an instruction pointer about to be loaded with this code segment.
    pub(crate) fn check_target(&self, cs: &Segment, rip: u64) -> Result<(), Exception> {
        let inside = if long_mode(self.cpu) && cs.has(Segment::LONG) {
            canonical(rip)
        } else {
            rip <= u64::from(cs.limit)
        };
        if inside { Ok(()) } else { Err(Exception::gp(0)) }
    }
}
