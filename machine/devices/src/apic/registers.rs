//! The local APIC's registers, by number: offset in the xAPIC's page divided by 16, which is also what is
//! added to 0x800 for the x2APIC's MSR.

use std::sync::atomic::Ordering;

use super::local::{lvt, svr};
use super::port::{LINT0, error};
use super::{ApicBus, DeliveryMode, Destination, LocalApic, Message};
use crate::wiring::MmioDevice;

/// Register numbers.
pub(super) mod number {
    pub const ID: u8 = 0x02;
    pub const VERSION: u8 = 0x03;
    pub const TPR: u8 = 0x08;
    pub const APR: u8 = 0x09;
    pub const PPR: u8 = 0x0a;
    pub const EOI: u8 = 0x0b;
    pub const RRD: u8 = 0x0c;
    pub const LDR: u8 = 0x0d;
    pub const DFR: u8 = 0x0e;
    pub const SVR: u8 = 0x0f;
    pub const ISR: u8 = 0x10;
    pub const ISR_LAST: u8 = 0x17;
    pub const TMR: u8 = 0x18;
    pub const TMR_LAST: u8 = 0x1f;
    pub const IRR: u8 = 0x20;
    pub const IRR_LAST: u8 = 0x27;
    pub const ESR: u8 = 0x28;
    pub const ICR: u8 = 0x30;
    pub const ICR_HIGH: u8 = 0x31;
    pub const LVT: u8 = 0x32;
    pub const LVT_LAST: u8 = 0x37;
    pub const INITIAL_COUNT: u8 = 0x38;
    pub const CURRENT_COUNT: u8 = 0x39;
    pub const DIVIDE: u8 = 0x3e;
    pub const SELF_IPI: u8 = 0x3f;
}

/// Interrupt command register.
pub(super) mod icr {
    pub const LOGICAL: u64 = 1 << 11;
    pub const ASSERT: u64 = 1 << 14;
    pub const TRIGGER_LEVEL: u64 = 1 << 15;
    /// What a write to the low half changes: all but delivery status and reserved bits.
    pub const WRITABLE: u64 = 0x000c_cfff;
    /// Delivery status: never busy.
    pub const READ_ONLY: u64 = 1 << 12;
}

/// Integrated APIC, six local vectors.
const VERSION: u32 = 0x14 | (lvt::COUNT as u32 - 1) << 16;

impl LocalApic {
    /// Reads a register; `None` if there is none of this number.
    pub(super) fn read_register(&mut self, register: u8) -> Option<u32> {
        use number::*;
        let id = self.port.id();
        let x2apic = self.is_x2apic();
        Some(match register {
            ID if x2apic => id,
            ID => id << 24,
            VERSION => self::VERSION,
            TPR => self.regs.tpr.into(),
            PPR => self.ppr().into(),
            APR | RRD if !x2apic => 0,
            EOI if !x2apic => 0,
            LDR => self.port.ldr.load(Ordering::Relaxed),
            DFR if !x2apic => self.port.dfr.load(Ordering::Relaxed),
            SVR => self.regs.svr,
            ISR..=ISR_LAST => self.regs.isr[usize::from(register - ISR)],
            TMR..=TMR_LAST => self.port.tmr[usize::from(register - TMR)].load(Ordering::Acquire),
            IRR..=IRR_LAST => self.port.irr[usize::from(register - IRR)].load(Ordering::Acquire),
            ESR => self.regs.esr,
            ICR => self.regs.icr as u32,
            ICR_HIGH if !x2apic => (self.regs.icr >> 32) as u32,
            LVT..=LVT_LAST => self.regs.lvt[usize::from(register - LVT)],
            INITIAL_COUNT => self.regs.timer.initial,
            CURRENT_COUNT => self.current_count(),
            DIVIDE => self.regs.timer.divide,
            _ => return None,
        })
    }

    /// Writes a register of the xAPIC, or one that both have in common; says whether there is one of this
    /// number. What is read-only swallows the value.
    pub(super) fn write_register(&mut self, register: u8, value: u32) -> bool {
        use number::*;
        match register {
            ID | VERSION | APR | PPR | RRD | ISR..=IRR_LAST | CURRENT_COUNT => {}
            TPR => self.set_tpr(value as u8),
            EOI => self.eoi(),
            LDR => self.port.ldr.store(value & 0xff00_0000, Ordering::Relaxed),
            DFR => self.port.dfr.store(value | 0x0fff_ffff, Ordering::Relaxed),
            SVR => self.write_svr(value),
            // The errors since the last write come to light, whatever is written.
            ESR => self.regs.esr = self.port.errors.swap(0, Ordering::AcqRel),
            ICR => {
                let high = self.regs.icr & 0xffff_ffff_0000_0000;
                self.regs.icr = high | u64::from(value) & icr::WRITABLE;
                let destination = (high >> 56) as u8;
                let logical = self.regs.icr & icr::LOGICAL != 0;
                self.send(Destination::from_byte(logical, destination));
            }
            ICR_HIGH => {
                let low = self.regs.icr & 0xffff_ffff;
                self.regs.icr = u64::from(value & 0xff00_0000) << 32 | low;
            }
            LVT..=LVT_LAST => self.write_lvt(usize::from(register - LVT), value),
            INITIAL_COUNT => self.write_initial_count(value),
            DIVIDE => self.write_divide(value),
            _ => return false,
        }
        true
    }

    fn write_svr(&mut self, value: u32) {
        let was = self.regs.svr & svr::ENABLE != 0;
        self.regs.svr = value & svr::WRITABLE;
        if self.regs.svr & svr::ENABLE == 0 {
            for entry in &mut self.regs.lvt {
                *entry |= lvt::MASK;
            }
        }
        self.show_modes();
        if !was {
            // What nobody accepted so far is offered again, as the bus would have done all the time.
            self.bus.retry();
        }
        self.update();
    }

    fn write_lvt(&mut self, index: usize, value: u32) {
        let mut entry = value & lvt::WRITABLE[index];
        if self.regs.svr & svr::ENABLE == 0 {
            entry |= lvt::MASK;
        }
        if index == lvt::TIMER {
            self.write_timer_entry(entry);
        } else {
            let remote_irr = self.regs.lvt[index] & lvt::REMOTE_IRR;
            // Remote IRR has no meaning for an edge.
            let level = entry & lvt::TRIGGER_LEVEL != 0;
            self.regs.lvt[index] = entry | if level { remote_irr } else { 0 };
            self.check_pin(LINT0, false);
        }
        self.update();
    }

    /// Sends what the interrupt command register says, to `destination` unless a shorthand overrides it.
    pub(super) fn send(&mut self, destination: Destination) {
        let command = self.regs.icr;
        let mode = DeliveryMode::of(command as u32);
        let vector = command as u8;
        let by_vector = matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if by_vector && vector < 16 {
            self.error(error::SEND_ILLEGAL_VECTOR);
            return;
        }
        let deassert = command & icr::TRIGGER_LEVEL != 0 && command & icr::ASSERT == 0;
        if mode == DeliveryMode::Init && deassert {
            // It once synchronised arbitration IDs; there are none.
            return;
        }
        let message = |destination| Message {
            destination,
            mode,
            vector,
            // There is nobody to tell the end of an inter-processor interrupt.
            level: false,
        };
        let bus: &ApicBus = &self.bus;
        match command >> 18 & 3 {
            0 => bus.deliver(message(destination)),
            1 => bus.deliver(message(Destination::Physical(self.port.id()))),
            2 => bus.deliver(message(Destination::Broadcast)),
            _ => bus.deliver_except(message(Destination::Broadcast), Some(self.port.id())),
        };
    }

    /// Sends a fixed interrupt to itself.
    pub(super) fn send_self(&mut self, vector: u8) {
        if vector < 16 {
            self.error(error::SEND_ILLEGAL_VECTOR);
            return;
        }
        self.port.interrupt(vector, false);
    }
}

/// The xAPIC's page: doublewords at multiples of 16.
impl MmioDevice for LocalApic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let within = (offset & 0xf) as usize;
        let number = (offset >> 4) as u8;
        if within >= 4 {
            return;
        }
        match self.read_register(number) {
            Some(value) => {
                let bytes = value.to_le_bytes();
                for (to, from) in data.iter_mut().zip(&bytes[within..]) {
                    *to = *from;
                }
            }
            None => self.error(error::ILLEGAL_REGISTER),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // Anything but an aligned doubleword is undefined, and does nothing here.
        let (true, &[a, b, c, d, ..]) = (offset & 0xf == 0, data) else {
            return;
        };
        let value = u32::from_le_bytes([a, b, c, d]);
        if !self.write_register((offset >> 4) as u8, value) {
            self.error(error::ILLEGAL_REGISTER);
        }
    }
}
