//! IRET in every mode and direction (SDM vol. 2; APM vol. 3).

use iced_x86::Instruction;
use vcpu::{Environment, Shadow};
use x86::{Cr4, Exception, Mode, Rflags, Segment, SegmentRegister, Vector};

use crate::descriptors::{VIRTUAL_8086, is_null, rpl, without_rpl};
use crate::segment_check::long_mode;
use crate::stack::{pointer_size, set_pointer};
use crate::{Context, Outcome, Routed};

impl<E: Environment + ?Sized> Context<'_, E> {
    /// IRET, IRETD (`size` 4) or IRETQ (8).
    pub(crate) fn iret(&mut self, insn: &Instruction, size: usize) -> Routed {
        let outcome = match self.mode() {
            Mode::Real => self.iret_real(size),
            Mode::Virtual8086 => self.iret_virtual(size),
            _ if self.cpu.rflags.contains(Rflags::NT) && long_mode(self.cpu) => Err(Exception::gp(0)),
            _ if self.cpu.rflags.contains(Rflags::NT) => {
                let next = self.next_rip(insn);
                self.return_to_task(next).map(|()| Outcome::Done)
            }
            _ => self.iret_protected(size),
        };
        if outcome.is_ok() {
            self.cpu.shadow = Shadow::None;
        }
        // Faulting or not (SDM vol. 3 ch. 6.7.1).
        self.cpu.nmi_blocked = false;
        outcome
    }

    /// Loads flags from a return frame. RF comes back as saved, so that a breakpoint is passed once.
    fn return_flags(&mut self, image: Rflags, mut writable: Rflags, size: usize) {
        if size > 2 {
            writable.insert(Rflags::RF);
        } else {
            self.cpu.rflags.remove(Rflags::RF);
        }
        self.cpu.rflags = (self.cpu.rflags - writable) | (image & writable);
    }

    fn iret_real(&mut self, size: usize) -> Routed {
        let step = size as u64;
        let mut frame = [0; 3];
        self.peek_frame(size, &mut frame)?;
        let [rip, selector, image] = frame;
        let (selector, image) = (selector as u16, Rflags::from_bits_truncate(image));
        let cs = *self.cpu.segment(SegmentRegister::Cs);
        let cs = Segment { base: u64::from(selector) << 4, selector, ..cs };
        self.check_target(&cs, rip)?;
        let writable = self.writable_flags(size);
        self.return_flags(image, writable, size);
        *self.cpu.segment_mut(SegmentRegister::Cs) = cs;
        self.cpu.rip = rip;
        self.release(3 * step);
        Ok(Outcome::Done)
    }

    fn iret_virtual(&mut self, size: usize) -> Routed {
        if self.cpu.rflags.iopl() == 3 {
            return self.iret_real(size);
        }
        if size != 2 || !self.cpu.cr4.contains(Cr4::VME) {
            return Err(Exception::gp(0));
        }
        let rip = self.peek(0, 2)?;
        let selector = self.peek(2, 2)? as u16;
        let image = Rflags::from_bits_truncate(self.peek(4, 2)?);
        self.set_virtual_flags(image)?;
        let cs = self.cpu.segment_mut(SegmentRegister::Cs);
        cs.selector = selector;
        cs.base = u64::from(selector) << 4;
        self.release(6);
        self.go(rip)
    }

    fn iret_protected(&mut self, size: usize) -> Routed {
        let step = size as u64;
        let mode = self.mode();
        let cpl = self.cpu.cpl();
        // 64-bit code always finds a stack pointer in the frame.
        let mut frame = [0; 5];
        let whole = mode == Mode::Long64;
        self.peek_frame(size, if whole { &mut frame } else { &mut frame[..3] })?;
        let [rip, selector, image, mut pointer, mut stack] = frame;
        let (selector, image) = (selector as u16, Rflags::from_bits_truncate(image));
        if image.contains(Rflags::VM) && size == 4 && cpl == 0 && !long_mode(self.cpu) {
            return self.iret_to_virtual(rip, selector, image);
        }
        let cs = self.return_segment(selector, cpl)?;
        self.check_target(&cs, rip)?;
        let new_cpl = rpl(selector);
        let mut writable = self.writable_flags(size);
        if cpl == 0 && size > 2 {
            writable.insert(Rflags::VIF | Rflags::VIP);
        }
        if new_cpl == cpl && !whole {
            self.release(3 * step);
        } else {
            if !whole {
                pointer = self.peek(3 * step, size)?;
                stack = self.peek(4 * step, size)?;
            }
            self.return_stack(stack as u16, pointer, &cs, new_cpl, 0)?;
        }
        self.return_flags(image, writable, size);
        *self.cpu.segment_mut(SegmentRegister::Cs) = cs;
        self.cpu.rip = rip;
        if new_cpl > cpl {
            self.drop_inner_segments(new_cpl);
        }
        Ok(Outcome::Done)
    }

    /// The code segment that a far return or IRET goes to.
    pub(crate) fn return_segment(&mut self, selector: u16, cpl: u8) -> Result<Segment, Exception> {
        if is_null(selector) {
            return Err(Exception::gp(0));
        }
        let code = without_rpl(selector);
        let mut descriptor = self.descriptor(selector, Exception::gp)?;
        let (rpl, dpl) = (rpl(selector), descriptor.dpl());
        let privilege_ok = if descriptor.conforming() { dpl <= rpl } else { dpl == rpl };
        if !descriptor.is_code() || rpl < cpl || !privilege_ok {
            return Err(Exception::gp(code));
        }
        self.check_code_width(descriptor, selector)?;
        if !descriptor.present() {
            return Err(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// Loads the stack that a return to `cs` at `cpl` names, and drops `extra` bytes of parameters from it. Its
    /// commit is the first, so every other check comes before.
    pub(crate) fn return_stack(
        &mut self,
        selector: u16,
        pointer: u64,
        cs: &Segment,
        cpl: u8,
        extra: u64,
    ) -> Result<(), Exception> {
        let to_long = long_mode(self.cpu) && cs.has(Segment::LONG);
        let ss = self.stack_segment(selector, cpl, to_long, Exception::gp)?;
        let target = if to_long { Mode::Long64 } else { Mode::Protected32 };
        *self.cpu.segment_mut(SegmentRegister::Ss) = ss;
        set_pointer(self.cpu, pointer_size(target, &ss), pointer.wrapping_add(extra));
        Ok(())
    }

    fn iret_to_virtual(&mut self, rip: u64, cs: u16, image: Rflags) -> Routed {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
        if rip > 0xffff {
            return Err(Exception::gp(0));
        }
        let mut frame = [0; 9];
        self.peek_frame(4, &mut frame)?;
        let [_, _, _, pointer, selectors @ ..] = frame;
        let selectors = selectors.map(|selector| selector as u16);
        let loads = [Ss, Es, Ds, Fs, Gs].into_iter().zip(selectors).chain([(Cs, cs)]);
        for (register, selector) in loads {
            *self.cpu.segment_mut(register) =
                Segment { base: u64::from(selector) << 4, limit: 0xffff, selector, attributes: VIRTUAL_8086 };
        }
        self.cpu.rflags = image | Rflags::FIXED;
        self.cpu.gpr[x86::register::gpr::RSP] = pointer;
        self.cpu.rip = rip;
        Ok(Outcome::Done)
    }
}
