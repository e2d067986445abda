//! Interrupts and exceptions through the guest's tables (SDM vol. 3 ch. 6, ch. 20.3; APM vol. 2 ch. 8).
//!
//! [`deliver`] also settles what becomes of a fault in the middle of a delivery: taken in its turn, a double
//! fault, or shutdown (SDM vol. 3 ch. 6.15).

use vcpu::{Activity, CpuState, Environment, Event, Shadow};
use x86::debug::{dr6, dr7};
use x86::{Exception, Mode, Rflags, SegmentRegister, Vector};

use crate::memory::Level;
use crate::segment_check::long_mode;
use crate::stack::Frame;
use crate::{Context, Effects};

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
        V::DivideError | V::InvalidTss | V::SegmentNotPresent | V::StackSegment | V::GeneralProtection => {
            Class::Contributory
        }
        V::PageFault => Class::PageFault,
        V::DoubleFault => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// Whether the return address is that of the instruction at fault, and RF therefore set.
fn is_fault(vector: Vector) -> bool {
    use Vector as V;
    !matches!(vector, V::Debug | V::Nmi | V::Breakpoint | V::Overflow | V::DoubleFault | V::MachineCheck)
}

/// Takes an event through the interrupt table of the guest's present mode; `cpu.rip` is where its handler
/// returns to. A halted vCPU runs again; one whose guest cannot be told of a double fault is in
/// [`Activity::Shutdown`].
pub fn deliver<E: Environment + ?Sized>(
    cpu: &mut CpuState,
    event: Event,
    env: &mut E,
    effects: &mut Effects,
) {
    let mut context = Context { cpu, env, effects };
    let rip = context.cpu.rip;
    let hardware = |vector| Entrance { vector, error_code: None, software: false, rip, resume: false };
    let (mut entrance, mut first) = match event {
        Event::Interrupt(vector) => (hardware(vector), Class::Benign),
        Event::Nmi => (hardware(Vector::Nmi as u8), Class::Benign),
        Event::Software { vector, next_rip } => {
            (Entrance { software: true, rip: next_rip, ..hardware(vector) }, Class::Benign)
        }
        Event::Exception(exception) => (context.announce(exception), class(exception.vector)),
    };
    loop {
        match context.enter(entrance) {
            Ok(()) => break,
            Err(fault) => {
                let second = class(fault.vector);
                let next = match (first, second) {
                    (_, Class::Benign) | (Class::Benign, _) => fault,
                    (Class::Contributory, Class::PageFault) => fault,
                    (Class::DoubleFault, _) => {
                        context.cpu.activity = Activity::Shutdown;
                        return;
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
}

impl<E: Environment + ?Sized> Context<'_, E> {
    /// Writes what an exception leaves in CR2 or DR6, and makes its entrance.
    fn announce(&mut self, exception: Exception) -> Entrance {
        match exception.vector {
            Vector::PageFault => self.cpu.cr2 = exception.detail,
            Vector::Debug => {
                // B0 to B3 tell of the latest event only; the others stick.
                self.cpu.dr[6] = (self.cpu.dr[6] & !dr6::BREAKPOINTS) | exception.detail;
                self.cpu.dr[7] &= !dr7::GD;
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

    /// One try at taking a vector; on failure nothing has changed, unless it is one of a new task.
    pub(crate) fn enter(&mut self, entrance: Entrance) -> Result<(), Exception> {
        let result = if self.mode() == Mode::Real {
            self.enter_real(entrance)
        } else if long_mode(self.cpu) {
            self.enter_long(entrance)
        } else {
            self.enter_protected(entrance)
        };
        match result {
            Ok(()) => {
                self.cpu.shadow = Shadow::None;
                Ok(())
            }
            Err(mut fault) => {
                if !entrance.software && fault.vector != Vector::PageFault {
                    // EXT: the program did not ask for this.
                    fault.error_code = fault.error_code.map(|code| code | 1);
                }
                Err(fault)
            }
        }
    }

    /// The flags as the handler's frame shows them.
    pub(crate) fn flags_image(&self, entrance: Entrance) -> u64 {
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
        self.cpu.rflags.remove(Rflags::IF | Rflags::TF | Rflags::AC | Rflags::RF);
        Ok(())
    }
}
