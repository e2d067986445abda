//! Saved state: a file nobody vouches for, first as a file, then as a section of each kind with a good checksum.
//!
//! What passes a unit's check is committed, and the unit is then used: a state that makes a chip panic must not
//! have passed.
#![no_main]

use std::sync::Arc;

use devices::acpi_pm::AcpiPm;
use devices::legacy::i8042::I8042;
use devices::legacy::pic::Pic;
use devices::legacy::pit::Pit;
use devices::legacy::rtc::Rtc;
use devices::legacy::uart::Uart;
use devices::wiring::{IrqLine, PortDevice, SerialSink, Timer, VmClock, WallClock};
use libfuzzer_sys::fuzz_target;
use savestate::{Invalid, NoOlder, Persist, Saved, Sections, Writer};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Serialize, Serializer};
use vcpu::CpuState;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, body)) = data.split_first() else { return };
    match choice & 7 {
        0 => {
            if let Ok(sections) = Sections::parse(body) {
                assert!(sections.list().map(|(_, _, _, length)| length).sum::<usize>() <= body.len());
            }
        }
        1 => {
            restore(body, &mut CpuState::reset());
        }
        2 => chip(body, &mut Pit::new(Arc::new(Still), Box::new(Still), IrqLine::unconnected()), 4),
        3 => {
            let mut rtc = Rtc::new(Arc::new(Still), Arc::new(Still), Box::new(Still), IrqLine::unconnected());
            chip(body, &mut rtc, 2);
        }
        4 => {
            let mut uart = Uart::new(IrqLine::unconnected(), Box::new(Still), Arc::new(|| {}));
            chip(body, &mut uart, 8);
        }
        5 => {
            let mut pic = Pic::new(IrqLine::unconnected());
            chip(body, &mut pic, 6);
            pic.acknowledge();
        }
        6 => {
            let line = IrqLine::unconnected;
            chip(body, &mut I8042::new(line(), line(), Arc::new(|| {})), 2);
        }
        _ => {
            let mut pm =
                AcpiPm::new(Arc::new(Still), Box::new(Still), IrqLine::unconnected(), Arc::new(|| {}));
            chip(body, &mut pm, 16);
            pm.fire();
        }
    }
});

/// Restores a chip and, if that was accepted, reads and writes its registers.
fn chip<P: Persist + PortDevice>(body: &[u8], chip: &mut P, registers: u16) {
    if !restore(body, chip) {
        return;
    }
    for offset in 0..registers {
        chip.read(offset, 1);
        chip.write(offset, 1, u32::from(body.first().copied().unwrap_or_default()));
        chip.read(offset, 1);
    }
}

/// Puts `body` into a well-formed file and that into the unit; `true` if the unit took it.
fn restore<P: Persist>(body: &[u8], unit: &mut P) -> bool {
    struct Forged<'a, P>(&'a [u8], std::marker::PhantomData<P>);

    impl<P: Persist> Persist for Forged<'_, P> {
        const KIND: &'static str = P::KIND;
        type State = Bytes;

        fn save(&self) -> Bytes {
            Bytes(self.0.to_vec())
        }

        fn check(&self, _: &Bytes) -> Result<(), Invalid> {
            Ok(())
        }

        fn commit(&mut self, _: Bytes) {}
    }

    let mut writer = Writer::new();
    let forged = Forged::<P>(body, std::marker::PhantomData);
    if writer.add(0, &forged).is_err() {
        return false;
    }
    let file = writer.finish();
    let sections = Sections::parse(&file).expect("a file that was just written");
    match sections.check([(0, unit as _)]) {
        Ok(checked) => {
            checked.commit();
            true
        }
        Err(_) => false,
    }
}

/// A section's body as it is: a sequence without the length that a `Vec` has in front.
#[derive(Deserialize)]
struct Bytes(#[serde(skip)] Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

impl Saved for Bytes {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

/// A world in which time stands still and nobody listens.
struct Still;

impl VmClock for Still {
    fn now(&self) -> u64 {
        1 << 40
    }
}

impl WallClock for Still {
    fn unix_ns(&self) -> i64 {
        1 << 60
    }
}

impl Timer for Still {
    fn arm(&self, _: u64) {}
    fn cancel(&self) {}
}

impl SerialSink for Still {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len() / 2
    }
}
