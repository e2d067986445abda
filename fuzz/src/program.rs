//! The input as a program for driver and host: registers written in any order and width, rings and descriptors of any
//! content anywhere, resets in the midst of requests, back-ends that answer late, out of order or not at all, and saved
//! states taken half-way.
//!
//! Among its steps are to do everything right up to DRIVER_OK, to offer chains that are well-formed but for their
//! buffers, and to make requests as a sound driver does; without them hardly an input would get further than the
//! transport.

use devices::pci::PciDevice;
use devices::virtio::VirtioPci;
use devices::wiring::MmioDevice;
use memory::GuestRam;
use savestate::{Sections, Unit, Writer};

use crate::arms::{Arm, Make};
use crate::driver::{BUFFERS, Driver, MOST_QUEUES, RAM, RINGS, STRIDE};
use crate::input::Input;

/// What a program may take: enough to fill queues several times.
const MOST_STEPS: usize = 512;
/// DEVICE_NEEDS_RESET.
const NEEDS_RESET: u8 = 0x40;

/// Registers of the common configuration that can be written (4.1.4.3), with their width; the status has the most to
/// tell.
#[rustfmt::skip]
const REGISTERS: &[(u64, usize)] = &[
    (0x00, 4), // device_feature_select
    (0x08, 4), // driver_feature_select
    (0x0c, 4), // driver_feature
    (0x10, 2), // config_msix_vector
    (0x14, 1), // device_status
    (0x14, 1),
    (0x14, 1),
    (0x14, 1),
    (0x16, 2), // queue_select
    (0x18, 2), // queue_size
    (0x1a, 2), // queue_msix_vector
    (0x1c, 2), // queue_enable
];

/// Runs a program against one of these devices, which its first byte chooses if there are several.
pub fn run(data: &[u8], devices: &[Make]) {
    let mut input = Input::new(data);
    let make = match devices {
        [make] => *make,
        several => input.choose(several),
    };
    let mut bench = Bench::new(make, input.byte());
    if input.byte() & 7 != 0 {
        bench.driver.set_up_by(&mut input);
    }
    bench.follow(&mut input);
    bench.finish();
}

/// A device between its driver and its host.
pub struct Bench {
    make: Make,
    choice: u8,
    /// The guest's side.
    pub driver: Driver,
    /// The device and the host's side.
    pub arm: Arm,
}

impl Bench {
    /// A device of this kind, as `choice` has it configured, which no driver has set up.
    pub fn new(make: Make, choice: u8) -> Self {
        let ram = GuestRam::allocate(RAM).expect("a megabyte");
        let arm = make(&ram, choice);
        let driver = Driver::new(&ram, arm.device.clone(), arm.doorbell.clone());
        Self { make, choice, driver, arm }
    }

    /// Takes steps until the input is at its end.
    pub fn follow(&mut self, input: &mut Input) {
        for _ in 0..MOST_STEPS {
            if input.is_empty() {
                break;
            }
            self.step(input);
        }
    }

    fn step(&mut self, input: &mut Input) {
        let driver = &mut self.driver;
        match input.byte() % 22 {
            0 => {
                let (offset, size) = (input.byte(), 1 << (input.byte() % 3));
                driver.transport.write_config(offset, size, input.word() as u32);
                driver.transport.read_config(offset, size);
            }
            1 => {
                // The blocks of the base address register are 1000h long.
                let offset = u64::from(input.byte() % 8) << 12 | u64::from(input.byte());
                let mut data = input.array::<8>();
                let size = 1 << (input.byte() % 4);
                driver.transport.write(offset, &data[..size]);
                driver.transport.read(offset, &mut data[..size]);
            }
            2 => {
                // Past the end nothing is written.
                let _ = driver.ram.write(number(input), input.bytes(16));
            }
            3 => driver.set_up_by(input),
            4 => offer(driver, input),
            5 => driver.notify(input.byte().into()),
            6 => {
                let (offset, size) = input.choose(REGISTERS);
                let value = if input.flag() { input.word() } else { input.byte().into() };
                driver.common(offset, value, size);
            }
            7 => self.save_and_restore(input),
            8 => set_up_queue(driver, input),
            9 => driver.offer_more(
                input.half() % MOST_QUEUES,
                input.byte().into(),
                u16::from(input.byte() % 20),
            ),
            10 => {
                // A descriptor that leads to somewhere likely.
                let (queue, index) = (input.byte().into(), input.byte().into());
                let buffer = (input.half().into(), input.half().into());
                driver.describe_in(queue, index, buffer, input.byte(), u16::from(input.byte() % 20));
            }
            11 => {
                let length = input.choose(&[1, 2, 4]);
                // Fields are aligned.
                let offset = if input.flag() { input.byte() % 16 * 4 } else { input.byte() % 64 };
                driver.write_device(offset.into(), &input.array::<4>()[..length]);
            }
            12 => {
                let offset = u32::from(input.byte() % 8) << 12 | u32::from(input.byte());
                driver.through_window(offset, u32::from(input.byte() % 5), input.half().into());
            }
            13..=15 => self.arm.host.act(input),
            _ => {
                self.arm.host.request(driver, input);
            }
        }
    }

    /// What is saved can be restored, into the same device or into another of its kind, and it goes on.
    fn save_and_restore(&mut self, input: &mut Input) {
        let choice = input.byte();
        let settled = choice & 1 != 0;
        if settled {
            for queue in 0..self.driver.queues() {
                self.driver.notify(queue);
            }
            self.arm.host.settle();
        }
        let status = self.driver.status();
        let before = transport_state(&mut self.driver.transport);
        let file = self.save();
        if choice & 2 != 0 {
            self.arm = (self.make)(&self.driver.ram, self.choice);
            self.driver.replace(self.arm.device.clone(), self.arm.doorbell.clone());
        }
        let sections = Sections::parse(&file).expect("a file that was just written");
        sections.check(self.units()).expect("a state that was just saved").commit();
        if settled && status & NEEDS_RESET == 0 {
            let after = transport_state(&mut self.driver.transport);
            assert_eq!(before, after, "restored in another state");
        }
        self.driver.transport.resume();
        assert_eq!(self.driver.status() & !NEEDS_RESET, status & !NEEDS_RESET);
    }

    fn save(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.add(0, &self.driver.transport).expect("a state that can be written");
        if let Some(state) = &self.arm.state {
            writer.add(0, &**state).expect("a state that can be written");
        }
        writer.finish()
    }

    /// What is saved, in the order in which it is restored.
    fn units(&mut self) -> Vec<(u32, &mut dyn Unit)> {
        let mut units = vec![(0, &mut self.driver.transport as &mut dyn Unit)];
        units.extend(self.arm.state.as_mut().map(|state| (0, &mut **state as &mut dyn Unit)));
        units
    }

    /// Whatever was done: the state is one that is accepted back, and a reset makes it a device again (2.4), which
    /// answers.
    pub fn finish(&mut self) {
        self.arm.host.settle();
        let file = self.save();
        let sections = Sections::parse(&file).expect("a file that was just written");
        drop(sections.check(self.units()).expect("a device's own state"));
        self.driver.set_up(u64::MAX);
        assert_eq!(self.driver.status() & 0x4f, 0xf, "a device that was reset can be set up");
        let queue = self.arm.host.request(&mut self.driver, &mut Input::default());
        self.arm.host.settle();
        assert_ne!(self.driver.used(queue), 0, "a device that was set up answers");
        assert_eq!(self.driver.status() & NEEDS_RESET, 0, "a sound request is no reason for a reset");
    }
}

/// An address or length: mostly near something, or near an end of everything.
fn number(input: &mut Input) -> u64 {
    let low = u64::from(input.byte());
    match input.byte() % 8 {
        0 => low,
        1 => RINGS + low * 0x40,
        2 => RINGS + 4 * STRIDE + low * 0x40,
        3 => BUFFERS + low * 0x100,
        4 => RAM.wrapping_sub(low),
        5 => u64::MAX - low,
        6 => (1 << 32) - low,
        _ => input.word(),
    }
}

/// A chain whose links are right.
fn offer(driver: &mut Driver, input: &mut Input) {
    let queue = u16::from(input.byte()) % MOST_QUEUES;
    let mut buffers = [(0, 0); 4];
    let length = usize::from(input.byte()) % (buffers.len() + 1);
    let readable = usize::from(input.byte()) % (length + 1);
    for buffer in &mut buffers[..length] {
        *buffer = (number(input), number(input) as u32);
    }
    // Devices look at the first bytes above all.
    let _ = driver.ram.write(buffers[0].0, input.bytes(16));
    driver.offer(queue, &buffers[..readable], &buffers[readable..length]);
}

/// One queue of the driver's, any way.
fn set_up_queue(driver: &mut Driver, input: &mut Input) {
    driver.common(0x16, u64::from(input.byte() % 4), 2);
    for register in [0x20, 0x28, 0x30] {
        driver.common(register, number(input), 8);
    }
    driver.common(0x18, number(input), 2);
    driver.common(0x1c, 1, 2);
    if input.flag() {
        driver.common(0x14, 15, 1);
    }
}

/// The transport's state but for what a look at it changes.
fn transport_state(transport: &mut VirtioPci) -> Vec<u8> {
    // The interrupt's bit in the status register is found when it is read.
    transport.read_config(6, 2);
    transport.encode().expect("a state that can be written")
}
