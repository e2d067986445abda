//! Interrupts and exceptions through the guest's tables (SDM vol. 3 ch. 6, ch. 20.3; APM vol. 2 ch. 8).
//!
//! [`deliver`] also settles what becomes of a fault in the middle of a delivery: taken in its turn, a double
//! fault, or shutdown (SDM vol. 3 ch. 6.15).

use thiserror::Error;
use vcpu::{Activity, CpuState, Environment, Event, Shadow};
use x86::{Exception, Mode, Rflags, Segment, SegmentRegister, Vector};

use crate::control::DR7_GD;
use crate::descriptors::{is_null, null, without_rpl};
use crate::memory::{Access, Level};
use crate::operand::mask;
use crate::segment_check::{canonical, linear_in, long_mode};
use crate::stack::{Frame, pointer_size, set_pointer};
use crate::{Context, Effects};

/// Why an event could not be delivered. A triple fault is none of these: it leaves the vCPU in
/// [`Activity::Shutdown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DeliveryError {
    /// The guest's table asks for something that popf does not support.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

/// One try at taking a vector.
#[derive(Clone, Copy)]
pub(crate) struct Entrance {
    pub vector: u8,
    pub error_code: Option<u32>,
    /// By INT n, INT3 or INTO: the gate's DPL is checked, and EXT stays clear in the error code of a fault.
    pub software: bool,
    /// The return address.
    pub rip: u64,
    /// The flags image carries RF, so that the faulting instruction's breakpoint is not hit again.
    pub resume: bool,
}

/// What became of it.
pub(crate) enum Failure {
    Fault(Exception),
    Unsupported(&'static str),
}

impl From<Exception> for Failure {
    fn from(exception: Exception) -> Self {
        Self::Fault(exception)
    }
}

/// How a vector weighs when another fault meets it (SDM vol. 3 table 6-4).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(vector: Vector) -> Class {
    use Vector as V;
    match vector {
        V::DivideError
        | V::InvalidTss
        | V::SegmentNotPresent
        | V::StackSegment
        | V::GeneralProtection => Class::Contributory,
        V::PageFault => Class::PageFault,
        V::DoubleFault => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// Whether the return address is that of the instruction at fault, and RF therefore set.
fn is_fault(vector: Vector) -> bool {
    use Vector as V;
    !matches!(
        vector,
        V::Debug | V::Nmi | V::Breakpoint | V::Overflow | V::DoubleFault | V::MachineCheck
    )
}

/// Takes an event through the interrupt table of the guest's present mode; `cpu.rip` is where its handler
/// returns to. A halted vCPU runs again.
///
/// # Errors
/// The guest's table asks for what popf does not support.
pub fn deliver<E: Environment + ?Sized>(
    cpu: &mut CpuState,
    event: Event,
    env: &mut E,
    effects: &mut Effects,
) -> Result<(), DeliveryError> {
    let mut context = Context { cpu, env, effects };
    let rip = context.cpu.rip;
    let hardware = |vector| Entrance {
        vector,
        error_code: None,
        software: false,
        rip,
        resume: false,
    };
    let (mut entrance, mut first) = match event {
        Event::Interrupt(vector) => (hardware(vector), Class::Benign),
        Event::Nmi => (hardware(Vector::Nmi as u8), Class::Benign),
        Event::Software { vector, next_rip } => (
            Entrance {
                software: true,
                rip: next_rip,
                ..hardware(vector)
            },
            Class::Benign,
        ),
        Event::Exception(exception) => (context.announce(exception), class(exception.vector)),
    };
    loop {
        match context.enter(entrance) {
            Ok(()) => break,
            Err(Failure::Unsupported(what)) => return Err(DeliveryError::Unsupported(what)),
            Err(Failure::Fault(fault)) => {
                let second = class(fault.vector);
                let next = match (first, second) {
                    (_, Class::Benign) | (Class::Benign, _) => fault,
                    (Class::Contributory, Class::PageFault) => fault,
                    (Class::DoubleFault, _) => {
                        context.cpu.activity = Activity::Shutdown;
                        return Ok(());
                    }
                    _ => {
                        // CR2 tells of the second page fault even so.
                        context.announce(fault);
                        Exception::with_code(Vector::DoubleFault, 0)
                    }
                };
                first = class(next.vector);
                entrance = context.announce(next);
            }
        }
    }
    if event == Event::Nmi {
        context.cpu.nmi_blocked = true;
    }
    context.cpu.activity = Activity::Running;
    Ok(())
}

impl<E: Environment + ?Sized> Context<'_, E> {
    /// Writes what an exception leaves in CR2 or DR6, and makes its entrance.
    fn announce(&mut self, exception: Exception) -> Entrance {
        match exception.vector {
            Vector::PageFault => self.cpu.cr2 = exception.detail,
            Vector::Debug => {
                // B0 to B3 tell of the latest event only; the others stick.
                self.cpu.dr[6] = (self.cpu.dr[6] & !0xf) | exception.detail;
                self.cpu.dr[7] &= !DR7_GD;
            }
            _ => {}
        }
        Entrance {
            vector: exception.vector as u8,
            error_code: exception.error_code,
            software: false,
            rip: self.cpu.rip,
            resume: is_fault(exception.vector),
        }
    }

    /// One try at taking a vector; on failure nothing has changed.
    pub(crate) fn enter(&mut self, entrance: Entrance) -> Result<(), Failure> {
        let result = if self.mode() == Mode::Real {
            self.enter_real(entrance).map_err(Failure::from)
        } else if long_mode(self.cpu) {
            self.enter_long(entrance).map_err(Failure::from)
        } else {
            self.enter_protected(entrance)
        };
        match result {
            Ok(()) => {
                self.cpu.shadow = Shadow::None;
                Ok(())
            }
            Err(Failure::Fault(mut fault)) => {
                if !entrance.software && fault.vector != Vector::PageFault {
                    // EXT: the program did not ask for this.
                    fault.error_code = fault.error_code.map(|code| code | 1);
                }
                Err(Failure::Fault(fault))
            }
            unsupported => unsupported,
        }
    }

    /// The flags as the handler's frame shows them.
    fn flags_image(&self, entrance: Entrance) -> u64 {
        let mut flags = self.cpu.rflags;
        if entrance.resume {
            flags.insert(Rflags::RF);
        }
        flags.bits()
    }

    /// Through the vector table of real mode.
    pub(crate) fn enter_real(&mut self, entrance: Entrance) -> Result<(), Exception> {
        let offset = u64::from(entrance.vector) * 4;
        if offset + 3 > u64::from(self.cpu.idtr.limit) {
            return Err(Exception::gp(u32::from(entrance.vector) * 8 + 2));
        }
        let linear = self.table_address(self.cpu.idtr.base, offset);
        let target = self.read_value(linear, 4, Level::SYSTEM)?;
        let mut frame = Frame::new();
        frame.push(2, self.cpu.rflags.bits());
        frame.push(2, self.cpu.segment(SegmentRegister::Cs).selector.into());
        frame.push(2, entrance.rip);
        self.push_frame(&frame)?;
        let cs = self.cpu.segment_mut(SegmentRegister::Cs);
        cs.selector = (target >> 16) as u16;
        cs.base = u64::from(cs.selector) << 4;
        self.cpu.rip = target & 0xffff;
        self.cpu
            .rflags
            .remove(Rflags::IF | Rflags::TF | Rflags::AC | Rflags::RF);
        Ok(())
    }

    /// Through a 16-byte gate.
    fn enter_long(&mut self, entrance: Entrance) -> Result<(), Exception> {
        let gate_code = u32::from(entrance.vector) * 8 + 2;
        let offset = u64::from(entrance.vector) * 16;
        if offset + 15 > u64::from(self.cpu.idtr.limit) {
            return Err(Exception::gp(gate_code));
        }
        let mut gate = [0; 16];
        self.read_bytes(
            self.cpu.idtr.base.wrapping_add(offset),
            &mut gate,
            Level::SYSTEM,
        )?;
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
        if !canonical(target) {
            return Err(Exception::gp(0));
        }
        let new_cpl = inner.unwrap_or(cpl);
        let ist = (gate >> 32) as u64 & 7;
        let old_rsp = self.cpu.gpr[x86::register::gpr::RSP];
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
        if !canonical(rsp) || !canonical(top.wrapping_sub(1)) {
            return Err(Exception::ss(0));
        }
        self.write_bytes(rsp, frame.bytes(), Level::of(new_cpl))?;

        self.cpu.gpr[x86::register::gpr::RSP] = rsp;
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
        self.cpu
            .rflags
            .remove(Rflags::TF | Rflags::NT | Rflags::RF | Rflags::VM);
        if interrupt_gate {
            self.cpu.rflags.remove(Rflags::IF);
        }
    }

    /// The code segment of a handler, and the inner ring it runs in if it is one.
    fn handler_segment(
        &mut self,
        selector: u16,
        cpl: u8,
    ) -> Result<(Segment, Option<u8>), Exception> {
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
        if canonical(rsp) {
            Ok(rsp)
        } else {
            Err(Exception::ss(0))
        }
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
    fn enter_protected(&mut self, entrance: Entrance) -> Result<(), Failure> {
        let gate_code = u32::from(entrance.vector) * 8 + 2;
        let offset = u64::from(entrance.vector) * 8;
        if offset + 7 > u64::from(self.cpu.idtr.limit) {
            return Err(Exception::gp(gate_code).into());
        }
        let linear = self.table_address(self.cpu.idtr.base, offset);
        let gate = self.read_value(linear, 8, Level::SYSTEM)?;
        let kind = (gate >> 40) as u8 & 0x1f;
        let gate_dpl = (gate >> 45) as u8 & 3;
        let cpl = self.cpu.cpl();
        if !matches!(kind, 5..=7 | 14..=15) || (entrance.software && gate_dpl < cpl) {
            return Err(Exception::gp(gate_code).into());
        }
        if gate >> 47 & 1 == 0 {
            return Err(Exception::with_code(Vector::SegmentNotPresent, gate_code).into());
        }
        if kind == 5 {
            return Err(Failure::Unsupported("an interrupt through a task gate"));
        }
        let size = if kind & 8 != 0 { 4 } else { 2 };
        let selector = (gate >> 16) as u16;
        let target = if size == 4 {
            (gate & 0xffff) | (gate >> 32 & 0xffff_0000)
        } else {
            gate & 0xffff
        };
        let (mut cs, inner) = self.handler_segment(selector, cpl)?;
        let virtual_8086 = self.cpu.rflags.contains(Rflags::VM);
        if virtual_8086 && inner != Some(0) {
            return Err(Exception::gp(without_rpl(selector)).into());
        }
        if target > u64::from(cs.limit) {
            return Err(Exception::gp(0).into());
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
            frame.push(size, self.cpu.gpr[x86::register::gpr::RSP]);
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

    /// Writes a frame to the stack that the TSS names for an inner ring; answers SS and stack pointer there,
    /// which the caller commits.
    pub(crate) fn switch_stack(
        &mut self,
        cpl: u8,
        frame: &Frame,
    ) -> Result<(Segment, u64), Exception> {
        let (selector, pointer) = self.inner_stack(cpl)?;
        let ss = self.stack_segment(selector, cpl, false, invalid_tss)?;
        let size = pointer_size(Mode::Protected32, &ss);
        let bytes = frame.bytes();
        let top = pointer.wrapping_sub(bytes.len() as u64) & mask(size);
        let code = without_rpl(selector);
        let linear = linear_in(
            Mode::Protected32,
            &ss,
            SegmentRegister::Ss,
            top,
            bytes.len(),
            Access::Write,
        )
        .map_err(|_| Exception::ss(code))?;
        self.write_bytes(linear, bytes, Level::of(cpl))?;
        Ok((ss, top))
    }
}

/// #TS with a selector.
pub(crate) fn invalid_tss(code: u32) -> Exception {
    Exception::with_code(Vector::InvalidTss, code)
}
