//! Saved state: a file nobody vouches for, first as a file, then as a section of each kind with a good checksum.
//!
//! What passes a unit's check is committed, and the unit is then used: a state that makes a chip panic must not
//! have passed.
#![no_main]

use std::sync::{Arc, Mutex};

use devices::acpi_pm::AcpiPm;
use devices::apic::{ApicBus, IoApic, LocalApic, LocalApicWiring, TscTime, Wake};
use devices::legacy::fw_cfg::FwCfg;
use devices::legacy::i8042::I8042;
use devices::legacy::pic::Pic;
use devices::legacy::pit::Pit;
use devices::legacy::rtc::Rtc;
use devices::legacy::test_device::{LINES, MEMORY_LEN, TestDevice};
use devices::legacy::uart::Uart;
use devices::pci::{HostBridge, PciDevice, PciRoot};
use devices::wiring::{IrqInputs, IrqLine, MmioDevice, PortDevice, SerialSink, Timer, VmClock, WallClock};
use libfuzzer_sys::fuzz_target;
use popf_fuzz::forge::{self, Forge};
use popf_fuzz::input::Input;
use popf_fuzz::{arms, program::Bench};
use savestate::{Persist, Sections, Unit};
use vcpu::CpuState;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, body)) = data.split_first() else { return };
    match choice % 16 {
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
        11 => {
            let mut pm =
                AcpiPm::new(Arc::new(Still), Box::new(Still), IrqLine::unconnected(), Arc::new(|| {}));
            chip(body, &mut pm, 16);
            pm.fire();
        }
        12 => chip(body, &mut FwCfg::new(1 << 30, 1), 2),
        13 => {
            let lines = std::array::from_fn(|_| IrqLine::unconnected());
            let mut device = TestDevice::new(lines);
            chip(body, &mut device, TestDevice::LINE + LINES as u16);
            MmioDevice::read(&mut device, MEMORY_LEN as u64 - 8, &mut [0; 8]);
        }
        _ => virtio(body),
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
fn chip<P: Persist + PortDevice + 'static>(body: &[u8], chip: &mut P, registers: u16) {
    if !restore(body, chip) {
        return;
    }
    for offset in 0..registers {
        chip.read(offset, 1);
        chip.write(offset, 1, u32::from(body.first().copied().unwrap_or_default()));
        chip.read(offset, 1);
    }
}

/// Restores one unit from this body.
fn restore(body: &[u8], unit: &mut dyn Forge) -> bool {
    forge::restore(vec![(body, unit)])
}

/// A virtio device that works and its transport, each from its own state with changes or from anything; and then a
/// driver and a host go on with what was accepted.
fn virtio(body: &[u8]) {
    let mut input = Input::new(body);
    let mut bench = Bench::new(input.choose(arms::ALL), input.byte());
    let choice = input.byte();
    if choice & 1 != 0 {
        bench.driver.set_up_by(&mut input);
        bench.arm.host.request(&mut bench.driver, &mut input);
    }
    bench.arm.host.settle();
    let mut transport = bench.driver.transport.encode().expect("a state that can be written");
    if choice & 2 != 0 {
        forge::damage(&mut transport, &mut input);
    }
    let mut device = Vec::new();
    if let Some(state) = &bench.arm.state {
        device = state.encode().expect("a state that can be written");
        match choice & 12 {
            0 => {}
            4 => device = input.bytes(32).to_vec(),
            _ => forge::damage(&mut device, &mut input),
        }
    }
    let mut units: Vec<(&[u8], &mut dyn Forge)> = vec![(&transport, &mut bench.driver.transport)];
    units.extend(bench.arm.state.as_mut().map(|state| (&*device, &mut **state as _)));
    if forge::restore(units) {
        bench.driver.transport.resume();
        bench.follow(&mut input);
    }
    bench.finish();
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
