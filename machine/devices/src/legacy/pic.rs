//! The interrupt controllers of the PC/AT: two Intel 8259A (datasheet of December 1988), the second cascaded
//! into input 2 of the first, with the edge/level control registers (ELCR) of the EISA specification.
//!
//! Not modelled: MCS-80/85 mode (ICW1's ADI and ICW4's µPM have no effect, vectors are always the 8086's),
//! buffered mode, and other cascades than the PC's: of ICW3 only the master's bit for input 2 counts, and a
//! vector from the slave is given whatever identification it was programmed with.

use crate::wiring::{IrqInputs, IrqLine, PortDevice};

/// The master's input that the slave drives.
const CASCADE: u8 = 2;

/// What a control word means.
mod word {
    pub const ICW1: u8 = 0x10;
    pub const ICW1_IC4: u8 = 0x01;
    pub const ICW1_SNGL: u8 = 0x02;
    pub const ICW1_LTIM: u8 = 0x08;
    pub const ICW4_AEOI: u8 = 0x02;
    pub const ICW4_SFNM: u8 = 0x10;
    pub const OCW3: u8 = 0x08;
    pub const OCW3_RIS: u8 = 0x01;
    pub const OCW3_RR: u8 = 0x02;
    pub const OCW3_P: u8 = 0x04;
    pub const OCW3_SMM: u8 = 0x20;
    pub const OCW3_ESMM: u8 = 0x40;
}

/// Which control word a write to the odd address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Icw2,
    Icw3,
    Icw4,
    Ocw1,
}

/// One 8259A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct I8259 {
    /// IR inputs as they are driven.
    inputs: u8,
    /// Interrupt request register: for an edge, until acknowledged or withdrawn.
    irr: u8,
    /// In-service register.
    isr: u8,
    /// Interrupt mask register.
    imr: u8,
    /// Edge/level control register; 1 is level.
    elcr: u8,
    /// Bits of `elcr` that can be set.
    elcr_mask: u8,
    /// Where in the initialisation sequence it stands.
    expected: Expected,
    ltim: bool,
    single: bool,
    icw4_follows: bool,
    /// T7-T3 of ICW2.
    base: u8,
    icw3: u8,
    aeoi: bool,
    sfnm: bool,
    /// Rotation in automatic EOI mode.
    rotate_on_aeoi: bool,
    smm: bool,
    /// The next read is a poll.
    poll: bool,
    /// A read of the even address shows ISR, not IRR.
    ris: bool,
    /// The input of lowest priority.
    lowest: u8,
}

impl I8259 {
    fn new(elcr_mask: u8) -> Self {
        Self {
            inputs: 0,
            irr: 0,
            isr: 0,
            // Until it is initialised it must not interrupt.
            imr: 0xff,
            elcr: 0,
            elcr_mask,
            expected: Expected::Ocw1,
            ltim: false,
            single: false,
            icw4_follows: false,
            base: 0,
            icw3: 0,
            aeoi: false,
            sfnm: false,
            rotate_on_aeoi: false,
            smm: false,
            poll: false,
            ris: false,
            lowest: 7,
        }
    }

    /// Inputs that are level-triggered.
    fn level(&self) -> u8 {
        if self.ltim { 0xff } else { self.elcr }
    }

    fn set_input(&mut self, ir: u8, asserted: bool) {
        let bit = 1 << (ir & 7);
        if asserted {
            // A request is a low-to-high transition, or a level.
            self.irr |= bit & (!self.inputs | self.level());
            self.inputs |= bit;
        } else {
            // An input must stay high until acknowledged.
            self.irr &= !bit;
            self.inputs &= !bit;
        }
    }

    /// The first of `bits` in order of priority.
    fn first(&self, bits: u8) -> Option<u8> {
        (1..=8).map(|i| self.lowest.wrapping_add(i) & 7).find(|ir| bits & (1 << ir) != 0)
    }

    /// The input to be served now: it beats all in service.
    fn request(&self) -> Option<u8> {
        let mut in_service = self.isr;
        if self.smm {
            in_service &= !self.imr;
        }
        let requested = self.first(self.irr & !self.imr)?;
        let Some(serving) = self.first(in_service) else {
            return Some(requested);
        };
        let rank = |ir: u8| ir.wrapping_sub(self.lowest).wrapping_sub(1) & 7;
        // In special fully nested mode the slave's own order decides among its requests.
        let nested = self.sfnm && requested == serving && self.cascades(requested);
        (rank(requested) < rank(serving) || nested).then_some(requested)
    }

    fn cascades(&self, ir: u8) -> bool {
        !self.single && self.icw3 & (1 << ir) != 0
    }

    /// INTA: takes the request into service.
    fn serve(&mut self) -> Option<u8> {
        let ir = self.request()?;
        let bit = 1 << ir;
        if self.level() & bit == 0 {
            self.irr &= !bit;
        }
        if !self.aeoi {
            self.isr |= bit;
        } else if self.rotate_on_aeoi {
            self.lowest = ir;
        }
        Some(ir)
    }

    fn write_even(&mut self, value: u8) {
        if value & word::ICW1 != 0 {
            self.initialise(value);
        } else if value & word::OCW3 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    fn initialise(&mut self, icw1: u8) {
        self.expected = Expected::Icw2;
        self.ltim = icw1 & word::ICW1_LTIM != 0;
        self.single = icw1 & word::ICW1_SNGL != 0;
        self.icw4_follows = icw1 & word::ICW1_IC4 != 0;
        // The edge sense circuit is reset: an edge must come anew.
        self.irr = self.inputs & self.level();
        self.isr = 0;
        self.imr = 0;
        self.lowest = 7;
        self.smm = false;
        self.poll = false;
        self.ris = false;
        self.aeoi = false;
        self.sfnm = false;
        self.rotate_on_aeoi = false;
    }

    fn write_ocw2(&mut self, value: u8) {
        let named = value & 7;
        let unmasked = if self.smm { !self.imr } else { 0xff };
        let highest = self.first(self.isr & unmasked);
        match value >> 5 {
            0b000 => self.rotate_on_aeoi = false,
            0b100 => self.rotate_on_aeoi = true,
            0b001 => self.end(highest),
            0b101 => {
                self.end(highest);
                self.lowest = highest.unwrap_or(self.lowest);
            }
            0b011 => self.end(Some(named)),
            0b111 => {
                self.end(Some(named));
                self.lowest = named;
            }
            0b110 => self.lowest = named,
            _ => {}
        }
    }

    /// End of interrupt.
    fn end(&mut self, ir: Option<u8>) {
        if let Some(ir) = ir {
            self.isr &= !(1 << ir);
        }
    }

    fn write_ocw3(&mut self, value: u8) {
        self.poll = value & word::OCW3_P != 0;
        if value & word::OCW3_RR != 0 {
            self.ris = value & word::OCW3_RIS != 0;
        }
        if value & word::OCW3_ESMM != 0 {
            self.smm = value & word::OCW3_SMM != 0;
        }
    }

    fn write_odd(&mut self, value: u8) {
        self.expected = match self.expected {
            Expected::Icw2 => {
                self.base = value & 0xf8;
                if self.single { self.after_icw3() } else { Expected::Icw3 }
            }
            Expected::Icw3 => {
                self.icw3 = value;
                self.after_icw3()
            }
            Expected::Icw4 => {
                self.aeoi = value & word::ICW4_AEOI != 0;
                self.sfnm = value & word::ICW4_SFNM != 0;
                Expected::Ocw1
            }
            Expected::Ocw1 => {
                self.imr = value;
                Expected::Ocw1
            }
        };
    }

    fn after_icw3(&self) -> Expected {
        if self.icw4_follows { Expected::Icw4 } else { Expected::Ocw1 }
    }

    fn read(&mut self, odd: bool) -> u8 {
        if std::mem::take(&mut self.poll) {
            return self.serve().map_or(0, |ir| 0x80 | ir);
        }
        match (odd, self.ris) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }

    fn write_elcr(&mut self, value: u8) {
        self.elcr = value & self.elcr_mask;
        self.irr |= self.inputs & self.level();
    }
}

/// The pair. Its registers: 0 and 1 the master's, 2 and 3 the slave's, 4 and 5 their ELCRs.
pub struct Pic {
    // Wiring.
    intr: IrqLine,
    // Volatile state.
    master: I8259,
    slave: I8259,
}

impl Pic {
    /// The pair before initialisation, everything masked. `intr` leads to the processor.
    pub fn new(intr: IrqLine) -> Self {
        Self {
            intr,
            // Timer, keyboard, cascade; real-time clock and coprocessor are edges whatever one writes.
            master: I8259::new(0xf8),
            slave: I8259::new(0xde),
        }
    }

    /// Back to the state after power-on; the devices go on driving their lines.
    pub fn reset(&mut self) {
        for chip in [&mut self.master, &mut self.slave] {
            let inputs = chip.inputs;
            *chip = I8259::new(chip.elcr_mask);
            chip.inputs = inputs;
        }
        self.drive();
    }

    /// The processor acknowledges: the vector. Without a request (any more) it is that of input 7, as the
    /// datasheet has it, and nothing is in service.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.master.serve() {
            Some(CASCADE) if self.master.cascades(CASCADE) => {
                let vector = self.slave.base | self.slave.serve().unwrap_or(7);
                // INT goes low with the acknowledge, so that a further request makes an edge.
                self.master.set_input(CASCADE, false);
                vector
            }
            Some(ir) => self.master.base | ir,
            None => self.master.base | 7,
        };
        self.drive();
        vector
    }

    /// Carries the slave's output to the master, and the master's to the processor.
    fn drive(&mut self) {
        self.master.set_input(CASCADE, self.slave.request().is_some());
        self.intr.set(self.master.request().is_some());
    }
}

impl IrqInputs for Pic {
    fn set_input(&mut self, line: u32, asserted: bool) {
        match line {
            // Nothing but the slave reaches input 2.
            0 | 1 | 3..=7 => self.master.set_input(line as u8, asserted),
            8..=15 => self.slave.set_input(line as u8 - 8, asserted),
            _ => return,
        }
        self.drive();
    }
}

impl PortDevice for Pic {
    fn width(&self) -> u8 {
        1
    }

    fn read(&mut self, offset: u16, _size: u8) -> u32 {
        let value = match offset {
            0 | 1 => self.master.read(offset == 1),
            2 | 3 => self.slave.read(offset == 3),
            4 => self.master.elcr,
            5 => self.slave.elcr,
            _ => 0xff,
        };
        // A poll acknowledges.
        self.drive();
        value.into()
    }

    fn write(&mut self, offset: u16, _size: u8, value: u32) {
        let value = value as u8;
        match offset {
            0 => self.master.write_even(value),
            1 => self.master.write_odd(value),
            2 => self.slave.write_even(value),
            3 => self.slave.write_odd(value),
            4 => self.master.write_elcr(value),
            5 => self.slave.write_elcr(value),
            _ => {}
        }
        self.drive();
    }
}

mod saved;
#[cfg(test)]
mod tests;
