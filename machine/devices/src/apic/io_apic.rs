//! The I/O APIC: Intel 82093AA (datasheet of May 1996), with the EOI register of its successors in I/O
//! controller hubs, which its version 0x20 announces.
//!
//! Not modelled: pin polarity (a line is asserted or not, see [`IrqLine`](crate::wiring::IrqLine)), the
//! serial APIC bus with its arbitration, the IRQ pin assertion register.

use std::sync::Arc;

use super::{ApicBus, DeliveryMode, Destination, Message};
use crate::wiring::{IrqInputs, MmioDevice};

/// Input pins.
pub const PINS: usize = 24;

/// Direct registers, by offset.
mod direct {
    pub const IOREGSEL: u64 = 0x00;
    pub const IOWIN: u64 = 0x10;
    pub const EOIR: u64 = 0x40;
}

/// Indirect registers, by IOREGSEL.
mod indirect {
    pub const IOAPICID: u8 = 0x00;
    pub const IOAPICVER: u8 = 0x01;
    pub const IOAPICARB: u8 = 0x02;
    pub const IOREDTBL: u8 = 0x10;
    pub const IOREDTBL_LAST: u8 = IOREDTBL + 2 * super::PINS as u8 - 1;
}

/// Bits of a redirection entry's low half.
mod entry {
    pub const VECTOR: u32 = 0xff;
    pub const DESTMOD_LOGICAL: u32 = 1 << 11;
    pub const REMOTE_IRR: u32 = 1 << 14;
    pub const TRIGGER_LEVEL: u32 = 1 << 15;
    pub const MASK: u32 = 1 << 16;
    /// What a write changes: all but delivery status and remote IRR.
    pub const WRITABLE: u32 = 0x1_afff;
    /// The same of the high half: the destination.
    pub const WRITABLE_HIGH: u32 = 0xff00_0000;
}

const VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;
const ID_MASK: u32 = 0x0f00_0000;

/// One entry of the redirection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Redirection {
    low: u32,
    high: u32,
}

impl Redirection {
    const RESET: Self = Self { low: entry::MASK, high: 0 };

    fn has(self, bit: u32) -> bool {
        self.low & bit != 0
    }

    /// Level-triggered; the modes that are not interrupts by vector are edges whatever they are set to.
    fn is_level(self) -> bool {
        self.has(entry::TRIGGER_LEVEL)
            && matches!(DeliveryMode::of(self.low), DeliveryMode::Fixed | DeliveryMode::LowestPriority)
    }

    fn message(self) -> Message {
        Message {
            destination: Destination::from_byte(self.has(entry::DESTMOD_LOGICAL), (self.high >> 24) as u8),
            mode: DeliveryMode::of(self.low),
            vector: (self.low & entry::VECTOR) as u8,
            level: self.is_level(),
        }
    }
}

/// The chip. It is an [`MmioDevice`] of one page, and its pins are the lines of `Mutex<IoApic>`.
pub struct IoApic {
    // Wiring.
    bus: Arc<ApicBus>,
    // Volatile state.
    ioregsel: u8,
    ioapicid: u32,
    ioredtbl: [Redirection; PINS],
    /// Pins as they are driven.
    inputs: u32,
}

impl IoApic {
    /// The chip after reset, with an APIC ID as firmware would give it.
    pub fn new(id: u8, bus: Arc<ApicBus>) -> Self {
        Self {
            bus,
            ioregsel: 0,
            ioapicid: u32::from(id) << 24 & ID_MASK,
            ioredtbl: [Redirection::RESET; PINS],
            inputs: 0,
        }
    }

    /// Back to the state after power-on; the devices go on driving their lines, and the ID stays.
    pub fn reset(&mut self) {
        self.ioregsel = 0;
        self.ioredtbl = [Redirection::RESET; PINS];
    }

    /// Sends what a level-triggered pin asks for.
    fn service(&mut self, pin: usize) {
        let redirection = &mut self.ioredtbl[pin];
        let asserted = self.inputs & 1 << pin != 0;
        if redirection.is_level()
            && asserted
            && !redirection.has(entry::MASK | entry::REMOTE_IRR)
            && self.bus.deliver(redirection.message())
        {
            redirection.low |= entry::REMOTE_IRR;
        }
    }

    /// Offers again what no local APIC accepted.
    pub(super) fn retry(&mut self) {
        for pin in 0..PINS {
            self.service(pin);
        }
    }

    /// A local APIC, or the guest by the EOI register, says that a level-triggered vector has ended.
    pub fn eoi(&mut self, vector: u8) {
        for pin in 0..PINS {
            let redirection = &mut self.ioredtbl[pin];
            if redirection.has(entry::REMOTE_IRR) && redirection.low & entry::VECTOR == u32::from(vector) {
                redirection.low &= !entry::REMOTE_IRR;
                self.service(pin);
            }
        }
    }

    fn read_indirect(&self) -> u32 {
        match self.ioregsel {
            // The arbitration ID follows the ID.
            indirect::IOAPICID | indirect::IOAPICARB => self.ioapicid,
            indirect::IOAPICVER => VERSION,
            index @ indirect::IOREDTBL..=indirect::IOREDTBL_LAST => {
                let index = usize::from(index - indirect::IOREDTBL);
                let redirection = self.ioredtbl[index / 2];
                if index % 2 == 0 { redirection.low } else { redirection.high }
            }
            _ => 0,
        }
    }

    fn write_indirect(&mut self, value: u32) {
        match self.ioregsel {
            indirect::IOAPICID => self.ioapicid = value & ID_MASK,
            index @ indirect::IOREDTBL..=indirect::IOREDTBL_LAST => {
                let index = usize::from(index - indirect::IOREDTBL);
                let redirection = &mut self.ioredtbl[index / 2];
                if index % 2 == 0 {
                    let kept = redirection.low & !entry::WRITABLE;
                    redirection.low = kept | value & entry::WRITABLE;
                    if !redirection.is_level() {
                        // Remote IRR has no meaning for edges; kernels clear it by this detour.
                        redirection.low &= !entry::REMOTE_IRR;
                    }
                } else {
                    redirection.high = value & entry::WRITABLE_HIGH;
                }
                self.service(index / 2);
            }
            _ => {}
        }
    }
}

impl IrqInputs for IoApic {
    fn set_input(&mut self, line: u32, asserted: bool) {
        let pin = line as usize;
        if pin >= PINS {
            return;
        }
        let bit = 1 << pin;
        let rises = asserted && self.inputs & bit == 0;
        self.inputs = if asserted { self.inputs | bit } else { self.inputs & !bit };
        let redirection = self.ioredtbl[pin];
        if redirection.is_level() {
            self.service(pin);
        } else if rises && !redirection.has(entry::MASK) {
            // An edge at a masked pin is lost, as the datasheet says.
            self.bus.deliver(redirection.message());
        }
    }
}

impl MmioDevice for IoApic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset & !3 {
            direct::IOREGSEL => self.ioregsel.into(),
            direct::IOWIN => self.read_indirect(),
            _ => 0,
        };
        let bytes = value.to_le_bytes();
        let skip = (offset & 3) as usize;
        data.fill(0);
        for (to, from) in data.iter_mut().zip(&bytes[skip..]) {
            *to = *from;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // Registers are accessed as doublewords; IOREGSEL and EOIR are a byte in one.
        let Some(&low) = data.first() else { return };
        match (offset, data) {
            (direct::IOREGSEL, _) => self.ioregsel = low,
            (direct::IOWIN, &[a, b, c, d, ..]) => {
                self.write_indirect(u32::from_le_bytes([a, b, c, d]));
            }
            (direct::EOIR, _) => self.eoi(low),
            _ => {}
        }
    }
}

mod saved;
