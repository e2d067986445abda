//! IRET of a 64-bit kernel, to a program or to itself, if what it finds is what kernels for SYSCALL have: selectors as STAR has
//! them, and flat descriptors behind them. So the routine has nothing to load that is not known beforehand. All else is its.

use x86::{Rflags, Segment, SegmentRegister};

use super::page::Extent;
use super::saved::Saved;
use super::stubs::SlowStub;
use super::transition::{ENTERED, RETURNED, selectors};
use super::{Lowering, SiteKind};
use crate::context::ContextField as F;
use crate::decode::GuestInsn;
use crate::emit::{Cond, Fixup, Mem, Op, Reg};
use crate::regs::SPILLED;

/// Offsets in the frame.
const CS: i32 = 8;
const FLAGS: i32 = 16;
const RSP: i32 = 24;
const SS: i32 = 32;
const FRAME: u32 = 40;

/// The descriptor of a flat segment that has been loaded before (SDM vol. 3 ch. 3.4.5).
const fn flat(attributes: u16, ring: u8) -> u64 {
    let common = Segment::PRESENT
        | Segment::CODE_OR_DATA
        | Segment::READABLE_OR_WRITABLE
        | Segment::ACCESSED
        | Segment::GRANULARITY;
    let all = (attributes | common | (ring as u16) << 5) as u64;
    all << 40 | 0xf << 48 | 0xffff
}

const fn code(ring: u8) -> u64 {
    flat(Segment::EXECUTABLE | Segment::LONG, ring)
}

const fn data(ring: u8) -> u64 {
    flat(Segment::BIG, ring)
}

impl Lowering<'_> {
    /// IRETQ in ring 0.
    pub(super) fn iret(&mut self, insn: &GuestInsn) -> bool {
        let Some(target) = self.frame.syscall else { return false };
        // Nothing reads the flags any more but who carries it out instead.
        if !self.parked {
            self.flags_to_context();
            self.parked = true;
            self.out.parked = Some(self.e.offset() as u32);
        }
        for field in [F::SlowReturn, F::Window] {
            self.e.cmp_ctx8(field, 0);
            self.leave_if(Cond::NotEqual, insn);
        }
        self.e.raw_ctx(&[0xf7], 0, F::SystemFlags, &(Rflags::NT.bits() as u32).to_le_bytes()); // test
        self.leave_if(Cond::NotEqual, insn);
        let [frame, temp, value] = SPILLED;
        self.e.mov(frame, Reg::RSP);
        self.find(insn, FRAME);
        self.e.op_mem(Op::Load, true, temp, Mem::at(frame, FLAGS));
        let unusual = Rflags::TF | Rflags::AC | Rflags::NT | Rflags::VM | Rflags::VIF | Rflags::VIP;
        self.e.test32(temp, unusual.bits() as u32);
        self.leave_if(Cond::NotEqual, insn);
        self.e.op_mem(Op::Load, true, value, Mem::base(frame));
        let far = self.branch_beyond_four_levels(value, temp);
        self.leave_by(far, insn);
        self.e.op_ctx(Op::Store, true, frame, F::Carried);
        self.e.load16(temp, Mem::at(frame, CS));
        self.e.load16(value, Mem::at(frame, SS));
        let mode = self.frame.mode;
        let (cs, ss) = selectors(target.star, RETURNED);
        self.e.group1(7, false, temp, cs.into()); // cmp
        let inside = self.e.jcc(Cond::NotEqual);
        self.check_segments(insn, (cs, ss), 3);
        self.change_ring(RETURNED, target, mode.in_user());
        self.load_frame();
        self.frame.mode = mode;
        self.e.fix_here(inside);
        let (cs, ss) = selectors(target.star, ENTERED);
        self.e.group1(7, false, temp, cs.into()); // cmp
        self.leave_if(Cond::NotEqual, insn);
        self.check_segments(insn, (cs, ss), 0);
        self.change_ring(ENTERED, target, mode.with_access(false));
        self.load_frame();
        true
    }

    fn leave_if(&mut self, cond: Cond, insn: &GuestInsn) {
        let jump = self.e.jcc(cond);
        self.leave_by(jump, insn);
    }

    fn leave_by(&mut self, jump: Fixup, insn: &GuestInsn) {
        self.slow.push(SlowStub::new([Some(jump), None], Saved::Parked, SiteKind::Callout, insn.offset));
    }

    /// From the linear address in r9 to the host address of so many bytes to be read there.
    fn find(&mut self, insn: &GuestInsn, size: u32) {
        let (missed, detour) = self.page_or_walk(SPILLED, Extent { size, write: false });
        let stub = SlowStub::new([missed, None], Saved::Parked, SiteKind::Callout, insn.offset);
        self.slow.push(stub.behind(detour));
    }

    /// Leaves unless r11 holds this selector of the stack's, and the descriptors of both are flat.
    fn check_segments(&mut self, insn: &GuestInsn, (cs, ss): (u16, u16), ring: u8) {
        let [place, temp, value] = SPILLED;
        self.e.group1(7, false, value, ss.into()); // cmp
        self.leave_if(Cond::NotEqual, insn);
        let index = |selector: u16| i32::from(selector & !7);
        // They stand side by side, as STAR has them.
        let first = index(cs).min(index(ss));
        self.e.op_ctx(Op::Load, true, place, F::GdtBase);
        self.e.group1(0, true, place, first); // add
        self.find(insn, 16);
        for (selector, descriptor) in [(cs, code(ring)), (ss, data(ring))] {
            self.e.mov_imm(temp, descriptor);
            self.e.op_mem(Op::Cmp, true, temp, Mem::at(place, index(selector) - first));
            self.leave_if(Cond::NotEqual, insn);
        }
    }

    /// What the frame has for flags, stack pointer and rip.
    fn load_frame(&mut self) {
        let [frame, image, rip] = SPILLED;
        self.e.op_ctx(Op::Load, true, frame, F::Carried);
        self.e.op_mem(Op::Load, true, image, Mem::at(frame, FLAGS));
        self.e.op_mem(Op::Load, true, rip, Mem::base(frame));
        self.e.op_mem(Op::Load, true, Reg::RSP, Mem::at(frame, RSP));
        self.load_flags();
        self.e.mov(Reg::R9, rip);
        self.jump_by_r9();
    }
}

/// Whether IRET had better be left to its routine, whatever its frame says: one that ends an NMI, and one by which a program
/// would get a segment of the kernel's, which it has to drop. The table has to have both pairs of descriptors.
pub fn is_slow(cpu: &vcpu::CpuState) -> bool {
    use SegmentRegister::{Ds, Es, Fs, Gs};
    let is_inner = |register| {
        let segment: &Segment = cpu.segment(register);
        segment.is_present() && segment.dpl() < 3
    };
    let highest = [ENTERED, RETURNED].map(|how| {
        let (cs, ss) = selectors(cpu.msrs.star, how);
        cs.max(ss) | 7
    });
    let in_table = highest.iter().all(|last| *last <= cpu.gdtr.limit);
    cpu.nmi_blocked || !in_table || [Ds, Es, Fs, Gs].into_iter().any(is_inner)
}

#[cfg(test)]
mod tests {
    use vcpu::{CpuState, Width};
    use x86::Descriptor;

    use super::*;

    #[test]
    fn descriptors_are_of_what_system_calls_load() {
        let mut cpu = CpuState::reset();
        for ring in [0, 3] {
            let (cs, ss) = (0x10 | u16::from(ring), 0x18 | u16::from(ring));
            cpu.load_flat_segments(cs, ss, Width::Long, ring);
            assert_eq!(Descriptor(code(ring)).segment(cs), *cpu.segment(SegmentRegister::Cs));
            assert_eq!(Descriptor(data(ring)).segment(ss), *cpu.segment(SegmentRegister::Ss));
        }
        assert_eq!((code(3), data(3)), (0x00af_fb00_0000_ffff, 0x00cf_f300_0000_ffff));
    }
}
