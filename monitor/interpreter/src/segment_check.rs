//! From an offset in a segment to a linear address: limit, type and canonical checks (SDM vol. 3 ch. 5.3 to
//! 5.5 and vol. 1 ch. 3.3.7.1).

use vcpu::{CpuState, Environment};
use x86::paging::is_canonical;
use x86::{Cr4, Efer, Exception, Mode, Segment, SegmentRegister};

use crate::Context;
use crate::memory::Access;

/// The exception for a bad access through a segment register.
fn violation(register: SegmentRegister) -> Exception {
    if register == SegmentRegister::Ss { Exception::ss(0) } else { Exception::gp(0) }
}

/// The linear address of `size` bytes at `offset` in `segment`, which stands or is about to stand in
/// `register`, outside of 64-bit mode.
pub(crate) fn linear_in(
    mode: Mode,
    segment: &Segment,
    register: SegmentRegister,
    offset: u64,
    size: usize,
    access: Access,
) -> Result<u64, Exception> {
    let last = size.max(1) as u64 - 1;
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
        let segment = self.cpu.segment(register);
        if self.mode() != Mode::Long64 {
            return linear_in(self.mode(), segment, register, offset, size, access);
        }
        let base = match register {
            SegmentRegister::Fs | SegmentRegister::Gs => segment.base,
            _ => 0,
        };
        let linear = base.wrapping_add(offset);
        let last = size.max(1) as u64 - 1;
        let whole = self.canonical(linear) && self.canonical(linear.wrapping_add(last));
        if whole { Ok(linear) } else { Err(violation(register)) }
    }

    /// Whether an address can be used: what page tables of four levels translate, or those of five if CR4.LA57 says so.
    pub(crate) fn canonical(&self, address: u64) -> bool {
        is_canonical(address, self.cpu.cr4.contains(Cr4::LA57))
    }

    /// Whether a register that is to hold the base of a segment or table, or the entry of a system call, takes an
    /// address. That goes by the width of addresses that the processor has, whatever CR4.LA57 says, as processors were
    /// found to do (Linux, `is_noncanonical_msr_address` in arch/x86/kvm/x86.h).
    pub(crate) fn canonical_in_register(&self, address: u64) -> bool {
        let width = |this: &Self| this.cpuid(0x8000_0008, 0)[0] >> 8 & 0xff;
        is_canonical(address, false) || is_canonical(address, true) && width(self) >= 57
    }

    /// Checks an instruction pointer about to be loaded with this code segment.
    pub(crate) fn check_target(&self, cs: &Segment, rip: u64) -> Result<(), Exception> {
        let inside = if long_mode(self.cpu) && cs.has(Segment::LONG) {
            self.canonical(rip)
        } else {
            rip <= u64::from(cs.limit)
        };
        if inside { Ok(()) } else { Err(Exception::gp(0)) }
    }
}
