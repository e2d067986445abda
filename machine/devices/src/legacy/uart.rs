//! A serial port: National Semiconductor PC16550D (datasheet of June 1995).
//!
//! Not modelled: the line's speed (a character is sent and received at once; the divisor is kept and not
//! looked at, and the receive FIFO's time-out has passed as soon as a character waits below the trigger
//! level), parity and framing errors, DMA mode. The PC's use of OUT2 as a gate of the interrupt is left out
//! on purpose: guests that were only ever tried on emulators do not set it.

use super::fifo::Fifo;
use crate::wiring::{IrqLine, Notify, PortDevice, SerialSink};

/// Interrupt enable register.
mod ier {
    pub const ERBFI: u8 = 0x01;
    pub const ETBEI: u8 = 0x02;
    pub const ELSI: u8 = 0x04;
    pub const EDSSI: u8 = 0x08;
    pub const ALL: u8 = 0x0f;
}

/// Interrupt identification register, by priority.
mod iir {
    pub const LINE_STATUS: u8 = 0x06;
    pub const DATA_AVAILABLE: u8 = 0x04;
    pub const CHARACTER_TIMEOUT: u8 = 0x0c;
    pub const THR_EMPTY: u8 = 0x02;
    pub const MODEM_STATUS: u8 = 0x00;
    pub const NONE: u8 = 0x01;
    pub const FIFOS_ENABLED: u8 = 0xc0;
}

/// FIFO control register.
mod fcr {
    pub const ENABLE: u8 = 0x01;
    pub const RESET_RECEIVER: u8 = 0x02;
    pub const RESET_TRANSMITTER: u8 = 0x04;
    pub const DMA_MODE: u8 = 0x08;
    pub const TRIGGER: u8 = 0xc0;
    /// What stays after a write.
    pub const KEPT: u8 = ENABLE | DMA_MODE | TRIGGER;
}

/// Line control register.
mod lcr {
    pub const DLAB: u8 = 0x80;
}

/// Modem control register.
mod mcr {
    pub const DTR: u8 = 0x01;
    pub const RTS: u8 = 0x02;
    pub const OUT1: u8 = 0x04;
    pub const OUT2: u8 = 0x08;
    pub const LOOP: u8 = 0x10;
    pub const ALL: u8 = 0x1f;
}

/// Line status register.
mod lsr {
    pub const DR: u8 = 0x01;
    pub const OE: u8 = 0x02;
    pub const BI: u8 = 0x10;
    pub const THRE: u8 = 0x20;
    pub const TEMT: u8 = 0x40;
    pub const ERROR_IN_FIFO: u8 = 0x80;
}

/// Modem status register.
mod msr {
    pub const DCTS: u8 = 0x01;
    pub const DDSR: u8 = 0x02;
    pub const TERI: u8 = 0x04;
    pub const DDCD: u8 = 0x08;
    pub const DELTAS: u8 = 0x0f;
    pub const CTS: u8 = 0x10;
    pub const DSR: u8 = 0x20;
    pub const RI: u8 = 0x40;
    pub const DCD: u8 = 0x80;
    /// What the other end of the cable asserts, always.
    pub const CONNECTED: u8 = CTS | DSR | DCD;
}

/// A received character in the low byte, its bits of the line status register in the high one.
type Received = u16;

/// What the guest can change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registers {
    /// Receiver FIFO; of one place while FIFOs are disabled (the receiver buffer register).
    rx: Fifo<Received>,
    /// Transmitter FIFO; of one place while FIFOs are disabled (the transmitter holding register).
    tx: Fifo<u8>,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    /// Modem status, deltas included.
    msr: u8,
    scr: u8,
    dll: u8,
    dlm: u8,
    /// Errors of LSR that have shown and were not read yet.
    line_errors: u8,
    /// Transmitter holding register empty is to be indicated: latched when it empties or when the interrupt
    /// is enabled, cleared when IIR shows it or THR is written.
    thr_interrupt: bool,
    /// [`Uart::receive`] had to leave something.
    starved: bool,
}

/// The chip.
pub struct Uart {
    // Wiring.
    intr: IrqLine,
    sout: Box<dyn SerialSink>,
    room: Notify,
    // Volatile state.
    regs: Registers,
}

impl Uart {
    /// A UART after master reset. `room` is called when input that [`Uart::receive`] did not take may be
    /// offered again.
    pub fn new(intr: IrqLine, sout: Box<dyn SerialSink>, room: Notify) -> Self {
        Self {
            intr,
            sout,
            room,
            regs: Registers {
                rx: Fifo::default(),
                tx: Fifo::default(),
                ier: 0,
                fcr: 0,
                lcr: 0,
                mcr: 0,
                msr: msr::CONNECTED,
                scr: 0,
                dll: 0,
                dlm: 0,
                line_errors: 0,
                thr_interrupt: false,
                starved: false,
            },
        }
    }

    /// Back to the state after master reset, as by the board's reset line.
    pub fn reset(&mut self) {
        let fresh = Self::new(IrqLine::unconnected(), Box::new(Nowhere), self.room.clone());
        let starved = self.regs.starved;
        self.regs = fresh.regs;
        self.intr.set(false);
        if starved {
            (self.room)();
        }
    }

    /// How many characters [`Uart::receive`] takes now. None in loop-back: the line is disconnected inside.
    pub fn room(&self) -> usize {
        if self.regs.mcr & mcr::LOOP != 0 {
            return 0;
        }
        self.regs.capacity().saturating_sub(self.regs.rx.len())
    }

    /// Characters arrive; says how many of them. Of the rest `room` will be told.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        for &byte in &bytes[..taken] {
            self.regs.shift_in(byte.into());
        }
        self.regs.starved |= taken < bytes.len();
        self.drive();
        taken
    }

    /// The other end holds the line in break; false if there is no room to note it.
    pub fn receive_break(&mut self) -> bool {
        let taken = self.room() > 0;
        if taken {
            self.regs.shift_in(Received::from(lsr::BI) << 8);
            self.drive();
        }
        taken
    }

    /// The sink has room again.
    pub fn drain(&mut self) {
        self.transmit();
        self.drive();
    }

    /// Hands the sink what it will take.
    fn transmit(&mut self) {
        let regs = &mut self.regs;
        if regs.tx.is_empty() {
            return;
        }
        while !regs.tx.is_empty() {
            let taken = self.sout.write(regs.tx.front());
            if taken == 0 {
                return;
            }
            regs.tx.discard(taken);
        }
        regs.thr_interrupt = true;
    }

    /// Sets the interrupt line by the registers.
    fn drive(&self) {
        self.intr.set(self.regs.interrupt() != iir::NONE);
    }

    /// Tells the owner of the input, if it waits for that, that the receiver is empty and listens.
    fn offer_room(&mut self) {
        if self.regs.starved && self.regs.rx.is_empty() && self.room() > 0 {
            self.regs.starved = false;
            (self.room)();
        }
    }
}

struct Nowhere;

impl SerialSink for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }
}

impl Registers {
    fn fifos_enabled(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifos_enabled() { Fifo::<u8>::CAPACITY } else { 1 }
    }

    fn trigger_level(&self) -> usize {
        if !self.fifos_enabled() {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.fcr >> 6)]
    }

    /// The receiver's shift register is full. When nobody has read, a FIFO keeps what it has and the single
    /// buffer register is overwritten.
    fn shift_in(&mut self, received: Received) {
        if self.rx.len() >= self.capacity() {
            self.line_errors |= lsr::OE;
            if self.fifos_enabled() {
                return;
            }
            self.rx.clear();
        }
        let uncovered = self.rx.is_empty();
        self.rx.push(received);
        if uncovered {
            self.line_errors |= (received >> 8) as u8;
        }
    }

    fn read_rbr(&mut self) -> u8 {
        let received = self.rx.pop().unwrap_or(0);
        // The errors of a character show when it has become the next to be read.
        self.line_errors |= self.rx.first().map_or(0, |next| (next >> 8) as u8);
        received as u8
    }

    fn interrupt(&self) -> u8 {
        if self.ier & ier::ELSI != 0 && self.line_errors != 0 {
            iir::LINE_STATUS
        } else if self.ier & ier::ERBFI != 0 && self.rx.len() >= self.trigger_level() {
            iir::DATA_AVAILABLE
        } else if self.ier & ier::ERBFI != 0 && !self.rx.is_empty() {
            iir::CHARACTER_TIMEOUT
        } else if self.ier & ier::ETBEI != 0 && self.thr_interrupt {
            iir::THR_EMPTY
        } else if self.ier & ier::EDSSI != 0 && self.msr & msr::DELTAS != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    fn read_iir(&mut self) -> u8 {
        let interrupt = self.interrupt();
        if interrupt == iir::THR_EMPTY {
            self.thr_interrupt = false;
        }
        if self.fifos_enabled() { interrupt | iir::FIFOS_ENABLED } else { interrupt }
    }

    fn read_lsr(&mut self) -> u8 {
        let mut value = self.line_errors;
        if !self.rx.is_empty() {
            value |= lsr::DR;
        }
        if self.tx.is_empty() {
            value |= lsr::THRE | lsr::TEMT;
        }
        if self.fifos_enabled() && self.rx.iter().any(|received| received >> 8 != 0) {
            value |= lsr::ERROR_IN_FIFO;
        }
        self.line_errors = 0;
        value
    }

    fn read_msr(&mut self) -> u8 {
        let value = self.msr;
        self.msr &= !msr::DELTAS;
        value
    }

    fn write_ier(&mut self, value: u8) {
        if value & !self.ier & ier::ETBEI != 0 && self.tx.is_empty() {
            self.thr_interrupt = true;
        }
        self.ier = value & ier::ALL;
    }

    fn write_fcr(&mut self, value: u8) {
        let toggled = (value ^ self.fcr) & fcr::ENABLE != 0;
        if toggled || value & fcr::RESET_RECEIVER != 0 {
            self.rx.clear();
        }
        if toggled || value & fcr::RESET_TRANSMITTER != 0 {
            self.tx.clear();
            self.thr_interrupt = true;
        }
        // The other bits are programmed only while the first is set.
        self.fcr = if value & fcr::ENABLE != 0 { value & fcr::KEPT } else { 0 };
    }

    fn write_mcr(&mut self, value: u8) {
        self.mcr = value & mcr::ALL;
        let lines = modem_lines(self.mcr);
        let changed = self.msr ^ lines;
        let mut deltas = self.msr & msr::DELTAS;
        if changed & msr::CTS != 0 {
            deltas |= msr::DCTS;
        }
        if changed & msr::DSR != 0 {
            deltas |= msr::DDSR;
        }
        // Of the ring indicator only the trailing edge counts.
        if changed & self.msr & msr::RI != 0 {
            deltas |= msr::TERI;
        }
        if changed & msr::DCD != 0 {
            deltas |= msr::DDCD;
        }
        self.msr = lines | deltas;
    }
}

/// The upper half of the modem status register: the other end's lines, or our own in loop-back.
fn modem_lines(mcr: u8) -> u8 {
    if mcr & mcr::LOOP == 0 {
        return msr::CONNECTED;
    }
    [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)]
        .iter()
        .filter(|(output, _)| mcr & output != 0)
        .fold(0, |lines, (_, input)| lines | input)
}

impl PortDevice for Uart {
    fn width(&self) -> u8 {
        1
    }

    fn read(&mut self, offset: u16, _size: u8) -> u32 {
        let dlab = self.regs.lcr & lcr::DLAB != 0;
        let value = match offset {
            0 if dlab => self.regs.dll,
            0 => self.regs.read_rbr(),
            1 if dlab => self.regs.dlm,
            1 => self.regs.ier,
            2 => self.regs.read_iir(),
            3 => self.regs.lcr,
            4 => self.regs.mcr,
            5 => self.regs.read_lsr(),
            6 => self.regs.read_msr(),
            7 => self.regs.scr,
            _ => 0xff,
        };
        self.drive();
        self.offer_room();
        value.into()
    }

    fn write(&mut self, offset: u16, _size: u8, value: u32) {
        let value = value as u8;
        let dlab = self.regs.lcr & lcr::DLAB != 0;
        match offset {
            0 if dlab => self.regs.dll = value,
            0 if self.regs.mcr & mcr::LOOP != 0 => {
                self.regs.shift_in(value.into());
                self.regs.thr_interrupt = true;
            }
            0 => {
                self.regs.thr_interrupt = false;
                // A guest that does not wait for THRE loses what finds no place.
                if self.regs.tx.len() < self.regs.capacity() {
                    self.regs.tx.push(value);
                }
                self.transmit();
            }
            1 if dlab => self.regs.dlm = value,
            1 => self.regs.write_ier(value),
            2 => self.regs.write_fcr(value),
            3 => self.regs.lcr = value,
            4 => self.regs.write_mcr(value),
            7 => self.regs.scr = value,
            // LSR is for factory testing; MSR is read-only.
            _ => {}
        }
        self.drive();
        self.offer_room();
    }
}

mod saved;
#[cfg(test)]
mod tests;
