//! The UART's saved state.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::{Registers, Uart, fcr, ier, lsr, mcr, modem_lines, msr};

/// See [`Registers`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UartStateV1 {
    rx: Vec<u16>,
    tx: Vec<u8>,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    msr: u8,
    scr: u8,
    dll: u8,
    dlm: u8,
    line_errors: u8,
    thr_interrupt: bool,
    starved: bool,
}

impl Saved for UartStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for Uart {
    const KIND: &'static str = "pc16550d";
    type State = UartStateV1;

    fn save(&self) -> UartStateV1 {
        let Self { intr: _, sout: _, room: _, regs } = self;
        let &Registers {
            ref rx,
            ref tx,
            ier,
            fcr,
            lcr,
            mcr,
            msr,
            scr,
            dll,
            dlm,
            line_errors,
            thr_interrupt,
            starved,
        } = regs;
        let (rx, tx) = (rx.iter().collect(), tx.iter().collect());
        UartStateV1 { rx, tx, ier, fcr, lcr, mcr, msr, scr, dll, dlm, line_errors, thr_interrupt, starved }
    }

    fn check(&self, state: &UartStateV1) -> Result<(), Invalid> {
        const ERRORS: u8 = lsr::OE | lsr::BI;
        let enabled = state.fcr & fcr::ENABLE != 0;
        let capacity = if enabled { 16 } else { 1 };
        require(state.rx.len() <= capacity && state.tx.len() <= capacity, "a FIFO is too full")?;
        let errors = |received: &u16| (received >> 8) as u8 & !lsr::BI;
        require(state.rx.iter().all(|received| errors(received) == 0), "rx has unknown errors")?;
        require(state.ier & !ier::ALL == 0, "ier has reserved bits")?;
        require(state.fcr & !fcr::KEPT == 0 && (enabled || state.fcr == 0), "fcr has reserved bits")?;
        require(state.mcr & !mcr::ALL == 0, "mcr has reserved bits")?;
        require(state.msr & !msr::DELTAS == modem_lines(state.mcr), "msr contradicts mcr")?;
        require(state.line_errors & !ERRORS == 0, "line_errors has unknown errors")
    }

    fn commit(&mut self, state: UartStateV1) {
        let UartStateV1 {
            rx,
            tx,
            ier,
            fcr,
            lcr,
            mcr,
            msr,
            scr,
            dll,
            dlm,
            line_errors,
            thr_interrupt,
            starved,
        } = state;
        self.regs = Registers {
            rx: rx.into_iter().collect(),
            tx: tx.into_iter().collect(),
            ier,
            fcr,
            lcr,
            mcr,
            msr,
            scr,
            dll,
            dlm,
            line_errors,
            thr_interrupt,
            starved,
        };
        // What waited for the sink of then, the sink of now may have room for.
        self.drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::uart::tests::Bench;
    use crate::testing::{refuses, transplant};

    #[test]
    fn saved_in_mid_flight() {
        let mut bench = Bench::new();
        bench.write(3, 0x83);
        bench.write(0, 1);
        bench.write(3, 0x03);
        bench.write(2, 0x81);
        bench.write(1, 0x0f);
        bench.write(7, 0x77);
        bench.set_line_room(0);
        for byte in b"out" {
            bench.write(0, *byte);
        }
        // So that the queues have gone round.
        bench.uart.receive(b"0123456789");
        let read: Vec<u8> = (0..10).map(|_| bench.read(0)).collect();
        assert_eq!(read, b"0123456789");
        bench.uart.receive(b"input");
        bench.uart.receive_break();
        bench.uart.receive(&[b'x'; 16]);

        let mut other = Bench::new();
        other.set_line_room(0);
        transplant(&bench.uart, &mut other.uart);
        assert_eq!(other.uart.save(), bench.uart.save());
        assert!(other.intr.level());
        assert_eq!(other.dump(), bench.dump());
        other.set_line_room(3);
        other.uart.drain();
        assert_eq!(other.sent(), b"out");
        // A sink with room gets it at once.
        let mut third = Bench::new();
        transplant(&bench.uart, &mut third.uart);
        assert_eq!((third.sent(), third.uart.regs.thr_interrupt), (b"out".to_vec(), true));
    }

    #[test]
    fn hostile_states_are_refused() {
        let uart = Bench::new().uart;
        assert!(refuses(
            &uart,
            &[
                |state| state.rx = vec![0; 2],
                |state| state.tx = vec![0; 2],
                |state| (state.fcr, state.rx) = (1, vec![0; 17]),
                |state| (state.fcr, state.tx) = (1, vec![0; 17]),
                |state| state.rx = vec![0x0100],
                |state| state.ier = 0x10,
                |state| state.fcr = 0x02,
                |state| state.fcr = 0x80,
                |state| state.mcr = 0x20,
                |state| state.mcr = 0x10,
                |state| state.msr = 0,
                |state| state.line_errors = 0x20,
            ]
        ));
    }
}
