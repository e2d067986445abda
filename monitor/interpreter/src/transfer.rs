//! Far jumps, calls and returns, through call gates, too (SDM vol. 3 ch. 5.8; APM vol. 2 ch. 4.9).

use iced_x86::{Instruction, MemorySize, OpKind};
use vcpu::Environment;
use x86::register::gpr;
use x86::{Exception, Mode, Rflags, Segment, SegmentRegister, Vector};

use crate::descriptors::{Descriptor, is_null, null, paragraph, rpl, without_rpl};
use crate::memory::Level;
use crate::segment_check::long_mode;
use crate::stack::{Frame, pointer_size, set_pointer};
use crate::task::Switch;
use crate::{Context, Outcome, Routed};

/// A far pointer and the operand size it came with.
struct Target {
    selector: u16,
    offset: u64,
    size: usize,
}

impl<E: Environment + ?Sized> Context<'_, E> {
    fn far_target(&mut self, insn: &Instruction) -> Result<Target, Exception> {
        let selector = insn.far_branch_selector();
        Ok(match insn.op0_kind() {
            OpKind::FarBranch16 => Target { selector, offset: insn.far_branch16().into(), size: 2 },
            OpKind::FarBranch32 => Target { selector, offset: insn.far_branch32().into(), size: 4 },
            _ => {
                let size = match insn.memory_size() {
                    MemorySize::SegPtr16 => 2,
                    MemorySize::SegPtr32 => 4,
                    _ => 8,
                };
                let (offset, selector) = self.far_pointer(insn, size)?;
                Target { selector, offset, size }
            }
        })
    }

    pub(crate) fn far_jump(&mut self, insn: &Instruction) -> Routed {
        let target = self.far_target(insn)?;
        let mode = self.mode();
        if mode.is_real_style() {
            return self.enter_paragraph(mode, &target);
        }
        let cpl = self.cpu.cpl();
        let descriptor = self.transfer_descriptor(target.selector)?;
        if descriptor.code_or_data() {
            let cs = self.direct_segment(descriptor, target.selector, cpl)?;
            self.check_target(&cs, target.offset)?;
            return self.enter_segment(cs, target.offset);
        }
        let gate = match self.way(descriptor, target.selector, cpl)? {
            Way::Gate(gate) => gate,
            Way::Task(selector) => return self.leave_task(insn, selector, Switch::Jump),
        };
        let (cs, dpl, conforming) = self.gate_segment(&gate, cpl)?;
        if !conforming && dpl != cpl {
            return Err(Exception::gp(without_rpl(gate.selector)));
        }
        self.check_target(&cs, gate.offset)?;
        self.enter_segment(cs, gate.offset)
    }

    pub(crate) fn far_call(&mut self, insn: &Instruction) -> Routed {
        let target = self.far_target(insn)?;
        let mode = self.mode();
        if mode.is_real_style() {
            let cs = *self.cpu.segment(SegmentRegister::Cs);
            self.check_target(&cs, target.offset)?;
            let frame = self.return_frame(insn, target.size);
            self.push_frame(&frame)?;
            return self.enter_paragraph(mode, &target);
        }
        let cpl = self.cpu.cpl();
        let descriptor = self.transfer_descriptor(target.selector)?;
        if descriptor.code_or_data() {
            let cs = self.direct_segment(descriptor, target.selector, cpl)?;
            self.check_target(&cs, target.offset)?;
            let frame = self.return_frame(insn, target.size);
            self.push_frame(&frame)?;
            return self.enter_segment(cs, target.offset);
        }
        let gate = match self.way(descriptor, target.selector, cpl)? {
            Way::Gate(gate) => gate,
            Way::Task(selector) => return self.leave_task(insn, selector, Switch::Nest),
        };
        let (mut cs, dpl, conforming) = self.gate_segment(&gate, cpl)?;
        self.check_target(&cs, gate.offset)?;
        if conforming || dpl == cpl {
            let frame = self.return_frame(insn, gate.size);
            self.push_frame(&frame)?;
            return self.enter_segment(cs, gate.offset);
        }
        self.call_inner(insn, &gate, dpl)?;
        cs.selector = (cs.selector & !3) | u16::from(dpl);
        *self.cpu.segment_mut(SegmentRegister::Cs) = cs;
        self.go(gate.offset)
    }

    /// Switches to the stack of an inner ring for a call through a gate.
    fn call_inner(&mut self, insn: &Instruction, gate: &Gate, dpl: u8) -> Result<(), Exception> {
        let mut frame = Frame::new();
        frame.push(gate.size, self.cpu.segment(SegmentRegister::Ss).selector.into());
        frame.push(gate.size, self.cpu.gpr[gpr::RSP]);
        for index in (0..gate.parameters).rev() {
            let value = self.peek(u64::from(index) * gate.size as u64, gate.size)?;
            frame.push(gate.size, value);
        }
        frame.push(gate.size, self.cpu.segment(SegmentRegister::Cs).selector.into());
        frame.push(gate.size, self.next_rip(insn));
        if gate.size == 8 {
            let top = self.long_stack(4 + u64::from(dpl) * 8)?;
            let rsp = top.wrapping_sub(frame.bytes().len() as u64);
            if !self.canonical(rsp) {
                return Err(Exception::ss(0));
            }
            self.write_bytes(rsp, frame.bytes(), Level::of(dpl))?;
            self.cpu.gpr[gpr::RSP] = rsp;
            *self.cpu.segment_mut(SegmentRegister::Ss) = null(dpl.into(), dpl);
            return Ok(());
        }
        let (ss, pointer) = self.switch_stack(dpl, &frame)?;
        *self.cpu.segment_mut(SegmentRegister::Ss) = ss;
        set_pointer(self.cpu, pointer_size(Mode::Protected32, &ss), pointer);
        Ok(())
    }

    /// Goes to another task.
    fn leave_task(&mut self, insn: &Instruction, selector: u16, switch: Switch) -> Routed {
        let next = self.next_rip(insn);
        self.switch_task(selector, switch, next, self.cpu.rflags - Rflags::RF)?;
        Ok(Outcome::Done)
    }

    /// The return address as a frame.
    fn return_frame(&self, insn: &Instruction, size: usize) -> Frame {
        let mut frame = Frame::new();
        frame.push(size, self.cpu.segment(SegmentRegister::Cs).selector.into());
        frame.push(size, self.next_rip(insn));
        frame
    }

    /// Ends a transfer of real or virtual-8086 mode.
    fn enter_paragraph(&mut self, mode: Mode, target: &Target) -> Routed {
        let cs = paragraph(self.cpu, mode, SegmentRegister::Cs, target.selector);
        self.check_target(&cs, target.offset)?;
        *self.cpu.segment_mut(SegmentRegister::Cs) = cs;
        self.go(target.offset)
    }

    /// Ends a transfer that stays at its privilege level.
    fn enter_segment(&mut self, mut cs: Segment, rip: u64) -> Routed {
        cs.selector = (cs.selector & !3) | u16::from(self.cpu.cpl());
        *self.cpu.segment_mut(SegmentRegister::Cs) = cs;
        self.go(rip)
    }

    fn transfer_descriptor(&mut self, selector: u16) -> Result<Descriptor, Exception> {
        if is_null(selector) {
            return Err(Exception::gp(0));
        }
        self.descriptor(selector, Exception::gp)
    }

    /// A code segment named directly by a far jump or call.
    fn direct_segment(
        &mut self,
        mut descriptor: Descriptor,
        selector: u16,
        cpl: u8,
    ) -> Result<Segment, Exception> {
        let code = without_rpl(selector);
        let permitted = if descriptor.conforming() {
            descriptor.dpl() <= cpl
        } else {
            rpl(selector) <= cpl && descriptor.dpl() == cpl
        };
        if !descriptor.is_code() || !permitted {
            return Err(Exception::gp(code));
        }
        self.check_code_width(descriptor, selector)?;
        if !descriptor.present() {
            return Err(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// Where a system descriptor leads.
    fn way(&mut self, descriptor: Descriptor, selector: u16, cpl: u8) -> Result<Way, Exception> {
        let code = without_rpl(selector);
        let long = long_mode(self.cpu);
        let kind = descriptor.kind();
        let task = matches!(kind, 1 | 5 | 9) && !long;
        let gate = kind == 12 || (kind == 4 && !long);
        if !(task || gate) || descriptor.dpl() < cpl.max(rpl(selector)) {
            return Err(Exception::gp(code));
        }
        let raw = descriptor.raw;
        let low = (raw & 0xffff) | (raw >> 32 & 0xffff_0000);
        let mut gate = Gate {
            selector: (raw >> 16) as u16,
            offset: if kind == 4 { low & 0xffff } else { low },
            size: if kind == 4 { 2 } else { 4 },
            parameters: (raw >> 32) as u8 & 31,
        };
        if long {
            let high = self.descriptor_high(selector, Exception::gp)?;
            // The type field of the upper half is zero, lest it be taken for a descriptor of its own.
            if high >> 40 & 0x1f != 0 {
                return Err(Exception::gp(code));
            }
            gate.offset |= high << 32;
            gate.size = 8;
            gate.parameters = 0;
        }
        if !descriptor.present() {
            return Err(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        Ok(match kind {
            5 => Way::Task(gate.selector),
            1 | 9 => Way::Task(selector),
            _ => Way::Gate(gate),
        })
    }

    /// The code segment behind a call gate, its DPL, and whether it is conforming.
    fn gate_segment(&mut self, gate: &Gate, cpl: u8) -> Result<(Segment, u8, bool), Exception> {
        let code = without_rpl(gate.selector);
        let mut descriptor = self.transfer_descriptor(gate.selector)?;
        if !descriptor.is_code() || descriptor.dpl() > cpl {
            return Err(Exception::gp(code));
        }
        if long_mode(self.cpu) && (!descriptor.is_long() || descriptor.long_and_big()) {
            return Err(Exception::gp(code));
        }
        if !descriptor.present() {
            return Err(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok((descriptor.segment(gate.selector), descriptor.dpl(), descriptor.conforming()))
    }

    /// RETF: `size` is the operand size, `extra` the bytes of parameters to drop.
    pub(crate) fn far_return(&mut self, size: usize, extra: u64) -> Routed {
        let step = size as u64;
        let mode = self.mode();
        let mut frame = [0; 2];
        self.peek_frame(size, &mut frame)?;
        let (rip, selector) = (frame[0], frame[1] as u16);
        if mode.is_real_style() {
            let cs = paragraph(self.cpu, mode, SegmentRegister::Cs, selector);
            self.check_target(&cs, rip)?;
            *self.cpu.segment_mut(SegmentRegister::Cs) = cs;
            self.release(2 * step + extra);
            return self.go(rip);
        }
        let cpl = self.cpu.cpl();
        let cs = self.return_segment(selector, cpl)?;
        self.check_target(&cs, rip)?;
        let new_cpl = rpl(selector);
        if new_cpl == cpl {
            self.release(2 * step + extra);
        } else {
            let pointer = self.peek(2 * step + extra, size)?;
            let stack = self.peek(3 * step + extra, size)? as u16;
            self.return_stack(stack, pointer, &cs, new_cpl, extra)?;
        }
        *self.cpu.segment_mut(SegmentRegister::Cs) = cs;
        if new_cpl > cpl {
            self.drop_inner_segments(new_cpl);
        }
        self.go(rip)
    }
}

/// What a far jump or call may find that is no code segment.
enum Way {
    Gate(Gate),
    /// The selector of a task state segment.
    Task(u16),
}

/// A call gate.
struct Gate {
    selector: u16,
    offset: u64,
    size: usize,
    parameters: u8,
}
