//! Entering handlers through the gates of protected and long mode (SDM vol. 3 ch. 6.12 and 6.14).

use vcpu::Environment;
use x86::register::gpr;
use x86::{Exception, Mode, Rflags, Segment, SegmentRegister, Vector};

use crate::Context;
use crate::deliver::Entrance;
use crate::descriptors::{is_null, null, without_rpl};
use crate::memory::{Access, Level};
use crate::operand::mask;
use crate::segment_check::linear_in;
use crate::stack::{Frame, pointer_size, set_pointer};
use crate::task::Switch;

impl<E: Environment + ?Sized> Context<'_, E> {
    /// Through a 16-byte gate.
    pub(crate) fn enter_long(&mut self, entrance: Entrance) -> Result<(), Exception> {
        let gate_code = u32::from(entrance.vector) * 8 + 2;
        let offset = u64::from(entrance.vector) * 16;
        if offset + 15 > u64::from(self.cpu.idtr.limit) {
            return Err(Exception::gp(gate_code));
        }
        let mut gate = [0; 16];
        self.read_bytes(self.cpu.idtr.base.wrapping_add(offset), &mut gate, Level::SYSTEM)?;
        let gate = u128::from_le_bytes(gate);
        let kind = (gate >> 40) as u8 & 0x1f;
        let gate_dpl = (gate >> 45) as u8 & 3;
        let cpl = self.cpu.cpl();
        if kind & !1 != 0b01110 || (entrance.software && gate_dpl < cpl) {
            return Err(Exception::gp(gate_code));
        }
        if gate >> 47 & 1 == 0 {
            return Err(Exception::with_code(Vector::SegmentNotPresent, gate_code));
        }
        let selector = (gate >> 16) as u16;
        let target = (gate & 0xffff) as u64 | ((gate >> 32) as u64 & !0xffff);
        let (mut cs, inner) = self.handler_segment(selector, cpl)?;
        if !cs.has(Segment::LONG) || cs.has(Segment::BIG) {
            return Err(Exception::gp(without_rpl(selector)));
        }
        if !self.canonical(target) {
            return Err(Exception::gp(0));
        }
        let new_cpl = inner.unwrap_or(cpl);
        let ist = (gate >> 32) as u64 & 7;
        let old_rsp = self.cpu.gpr[gpr::RSP];
        let top = match (ist, inner) {
            (0, None) => old_rsp,
            (0, Some(dpl)) => self.long_stack(4 + u64::from(dpl) * 8)?,
            (ist, _) => self.long_stack(0x1c + ist * 8)?,
        } & !15;
        let mut frame = Frame::new();
        frame.push(8, self.cpu.segment(SegmentRegister::Ss).selector.into());
        frame.push(8, old_rsp);
        frame.push(8, self.flags_image(entrance));
        frame.push(8, self.cpu.segment(SegmentRegister::Cs).selector.into());
        frame.push(8, entrance.rip);
        if let Some(code) = entrance.error_code {
            frame.push(8, code.into());
        }
        let rsp = top.wrapping_sub(frame.bytes().len() as u64);
        if !self.canonical(rsp) || !self.canonical(top.wrapping_sub(1)) {
            return Err(Exception::ss(0));
        }
        self.write_bytes(rsp, frame.bytes(), Level::of(new_cpl))?;

        self.cpu.gpr[gpr::RSP] = rsp;
        if let Some(dpl) = inner {
            *self.cpu.segment_mut(SegmentRegister::Ss) = null(dpl.into(), dpl);
        }
        cs.selector = (cs.selector & !3) | u16::from(new_cpl);
        *self.cpu.segment_mut(SegmentRegister::Cs) = cs;
        self.cpu.rip = target;
        self.enter_handler(kind & 1 == 0);
        Ok(())
    }

    /// The flags a handler starts with.
    fn enter_handler(&mut self, interrupt_gate: bool) {
        self.cpu.rflags.remove(Rflags::TF | Rflags::NT | Rflags::RF | Rflags::VM);
        if interrupt_gate {
            self.cpu.rflags.remove(Rflags::IF);
        }
    }

    /// The code segment of a handler, and the inner ring it runs in if it is one.
    fn handler_segment(&mut self, selector: u16, cpl: u8) -> Result<(Segment, Option<u8>), Exception> {
        if is_null(selector) {
            return Err(Exception::gp(0));
        }
        let code = without_rpl(selector);
        let mut descriptor = self.descriptor(selector, Exception::gp)?;
        if !descriptor.is_code() || descriptor.dpl() > cpl {
            return Err(Exception::gp(code));
        }
        if !descriptor.present() {
            return Err(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        self.mark_accessed(&mut descriptor)?;
        let inner = (!descriptor.conforming() && descriptor.dpl() < cpl).then(|| descriptor.dpl());
        Ok((descriptor.segment(selector), inner))
    }

    /// A stack pointer from the 64-bit TSS.
    pub(crate) fn long_stack(&mut self, offset: u64) -> Result<u64, Exception> {
        let tr = self.cpu.tr;
        if offset + 7 > u64::from(tr.limit) {
            return Err(invalid_tss(without_rpl(tr.selector)));
        }
        let rsp = self.read_value(tr.base.wrapping_add(offset), 8, Level::SYSTEM)?;
        if self.canonical(rsp) { Ok(rsp) } else { Err(Exception::ss(0)) }
    }

    /// SS and stack pointer of an inner ring from a 16- or 32-bit TSS.
    pub(crate) fn inner_stack(&mut self, cpl: u8) -> Result<(u16, u64), Exception> {
        let tr = self.cpu.tr;
        let size = if tr.kind() & 8 != 0 { 4 } else { 2 };
        let offset = size + u64::from(cpl) * size * 2;
        if offset + size + 1 > u64::from(tr.limit) {
            return Err(invalid_tss(without_rpl(tr.selector)));
        }
        let at = self.table_address(tr.base, offset);
        let pointer = self.read_value(at, size as usize, Level::SYSTEM)?;
        let at = self.table_address(tr.base, offset + size);
        let selector = self.read_value(at, 2, Level::SYSTEM)?;
        Ok((selector as u16, pointer))
    }

    /// Through an 8-byte gate of protected mode.
    pub(crate) fn enter_protected(&mut self, entrance: Entrance) -> Result<(), Exception> {
        let gate_code = u32::from(entrance.vector) * 8 + 2;
        let offset = u64::from(entrance.vector) * 8;
        if offset + 7 > u64::from(self.cpu.idtr.limit) {
            return Err(Exception::gp(gate_code));
        }
        let linear = self.table_address(self.cpu.idtr.base, offset);
        let gate = self.read_value(linear, 8, Level::SYSTEM)?;
        let kind = (gate >> 40) as u8 & 0x1f;
        let gate_dpl = (gate >> 45) as u8 & 3;
        let cpl = self.cpu.cpl();
        if !matches!(kind, 5..=7 | 14..=15) || (entrance.software && gate_dpl < cpl) {
            return Err(Exception::gp(gate_code));
        }
        if gate >> 47 & 1 == 0 {
            return Err(Exception::with_code(Vector::SegmentNotPresent, gate_code));
        }
        if kind == 5 {
            return self.enter_task((gate >> 16) as u16, entrance);
        }
        let size = if kind & 8 != 0 { 4 } else { 2 };
        let selector = (gate >> 16) as u16;
        let target = if size == 4 { (gate & 0xffff) | (gate >> 32 & 0xffff_0000) } else { gate & 0xffff };
        let (mut cs, inner) = self.handler_segment(selector, cpl)?;
        let virtual_8086 = self.cpu.rflags.contains(Rflags::VM);
        if virtual_8086 && inner != Some(0) {
            return Err(Exception::gp(without_rpl(selector)));
        }
        if target > u64::from(cs.limit) {
            return Err(Exception::gp(0));
        }
        let new_cpl = inner.unwrap_or(cpl);
        let mut frame = Frame::new();
        if virtual_8086 {
            use SegmentRegister::{Ds, Es, Fs, Gs};
            for register in [Gs, Fs, Ds, Es] {
                frame.push(size, self.cpu.segment(register).selector.into());
            }
        }
        if inner.is_some() {
            frame.push(size, self.cpu.segment(SegmentRegister::Ss).selector.into());
            frame.push(size, self.cpu.gpr[gpr::RSP]);
        }
        frame.push(size, self.flags_image(entrance));
        frame.push(size, self.cpu.segment(SegmentRegister::Cs).selector.into());
        frame.push(size, entrance.rip);
        if let Some(code) = entrance.error_code {
            frame.push(size, code.into());
        }
        match inner {
            None => self.push_frame(&frame)?,
            Some(cpl) => {
                let (ss, pointer) = self.switch_stack(cpl, &frame)?;
                *self.cpu.segment_mut(SegmentRegister::Ss) = ss;
                set_pointer(self.cpu, pointer_size(Mode::Protected32, &ss), pointer);
            }
        }
        if virtual_8086 {
            use SegmentRegister::{Ds, Es, Fs, Gs};
            for register in [Gs, Fs, Ds, Es] {
                *self.cpu.segment_mut(register) = null(0, 0);
            }
        }
        cs.selector = (cs.selector & !3) | u16::from(new_cpl);
        *self.cpu.segment_mut(SegmentRegister::Cs) = cs;
        self.cpu.rip = target;
        self.enter_handler(kind & 1 == 0);
        Ok(())
    }

    /// Through a task gate: the error code goes on the new task's stack.
    fn enter_task(&mut self, selector: u16, entrance: Entrance) -> Result<(), Exception> {
        let flags = Rflags::from_bits_retain(self.flags_image(entrance));
        let size = self.switch_task(selector, Switch::Nest, entrance.rip, flags)?;
        match entrance.error_code {
            Some(code) => self.push(size, code.into()),
            None => Ok(()),
        }
    }

    /// Writes a frame to the stack that the TSS names for an inner ring; answers SS and stack pointer there,
    /// which the caller commits.
    pub(crate) fn switch_stack(&mut self, cpl: u8, frame: &Frame) -> Result<(Segment, u64), Exception> {
        let (selector, pointer) = self.inner_stack(cpl)?;
        let ss = self.stack_segment(selector, cpl, false, invalid_tss)?;
        let size = pointer_size(Mode::Protected32, &ss);
        let bytes = frame.bytes();
        let top = pointer.wrapping_sub(bytes.len() as u64) & mask(size);
        let code = without_rpl(selector);
        let linear = linear_in(Mode::Protected32, &ss, SegmentRegister::Ss, top, bytes.len(), Access::Write)
            .map_err(|_| Exception::ss(code))?;
        self.write_bytes(linear, bytes, Level::of(cpl))?;
        Ok((ss, top))
    }
}

/// #TS with a selector.
pub(crate) fn invalid_tss(code: u32) -> Exception {
    Exception::with_code(Vector::InvalidTss, code)
}
