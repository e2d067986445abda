//! Saved state: a file nobody vouches for, first as a file, then as a section of each kind with a good checksum.
//!
//! What passes a unit's check is committed, and the unit is then used: a state that makes a chip panic must not
//! have passed.
#![no_main]

use std::sync::{Arc, Mutex};

use devices::acpi_pm::AcpiPm;
use devices::apic::{ApicBus, IoApic, LocalApic, LocalApicWiring, TscTime, Wake};
use devices::legacy::i8042::I8042;
use devices::legacy::pic::Pic;
use devices::legacy::pit::Pit;
use devices::legacy::rtc::Rtc;
use devices::legacy::uart::Uart;
use devices::pci::{HostBridge, PciDevice, PciRoot};
use devices::wiring::{IrqInputs, IrqLine, MmioDevice, PortDevice, SerialSink, Timer, VmClock, WallClock};
use libfuzzer_sys::fuzz_target;
use savestate::{Invalid, NoOlder, Persist, Saved, Sections, Writer};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Serialize, Serializer};
use vcpu::CpuState;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, body)) = data.split_first() else { return };
    match choice % 12 {
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
        7 => {
            let mut pci = PciRoot::new();
            pci.add(0, 0, Arc::new(Mutex::new(HostBridge::new()))).expect("an empty slot");
            chip(body, &mut pci, 8);
        }
        8 => {
            let mut bridge = HostBridge::new();
            if restore(body, &mut bridge) {
                for offset in 0..=255 {
                    bridge.read_config(offset, 1);
                    bridge.write_config(offset, 1, 0xff);
                }
            }
        }
        9 => io_apic(body),
        10 => local_apic(body),
        _ => {
            let mut pm =
                AcpiPm::new(Arc::new(Still), Box::new(Still), IrqLine::unconnected(), Arc::new(|| {}));
            chip(body, &mut pm, 16);
            pm.fire();
        }
    }
});

/// The I/O APIC, its pins driven afterwards.
fn io_apic(body: &[u8]) {
    let io_apic = Arc::new(Mutex::new(IoApic::new(0, ApicBus::new(vec![Arc::new(Still)]))));
    let mut io_apic = io_apic.lock().expect("nobody else has it");
    if !restore(body, &mut *io_apic) {
        return;
    }
    for pin in 0..=24 {
        io_apic.set_input(pin, pin & 1 == 0);
        io_apic.write(0, &[0x10 + 2 * pin as u8, 0, 0, 0]);
        io_apic.read(0x10, &mut [0; 4]);
        io_apic.set_input(pin, pin & 1 != 0);
    }
    for vector in 0..=255 {
        io_apic.eoi(vector);
    }
}

/// A local APIC, whatever waits in it taken afterwards.
fn local_apic(body: &[u8]) {
    let wiring = LocalApicWiring {
        clock: Arc::new(Still),
        tsc: Arc::new(Still),
        timer: Box::new(Still),
        pic: Some(Arc::new(Mutex::new(Pic::new(IrqLine::unconnected())))),
    };
    let mut apic = LocalApic::new(0, 40, ApicBus::new(vec![Arc::new(Still)]), wiring);
    if !restore(body, &mut apic) {
        return;
    }
    while apic.take_signal().is_some() {}
    for _ in 0..=256 {
        apic.interrupt_waits();
        apic.acknowledge();
        apic.write(0xb0, &[0; 4]);
    }
    for register in (0..0x1000).step_by(16) {
        apic.read(register, &mut [0; 4]);
        apic.write(register, &[0x5a; 4]);
    }
    for msr in (0x800..0x840).chain([0x1b, 0x6e0]) {
        apic.read_msr(msr);
        apic.write_msr(msr, 0x1234_5678, 0);
    }
    apic.set_task_priority(15);
}

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

impl TscTime for Still {
    fn deadline(&self, tsc: u64) -> u64 {
        tsc
    }
}

impl Wake for Still {
    fn wake(&self) {}
}

impl SerialSink for Still {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len() / 2
    }
}
