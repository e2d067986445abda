//! The transport as a driver goes through it (3.1.1, 4.1), with an entropy device behind it.

use savestate::Persist;

use super::*;
use crate::testing::{Messages, Probe, refuses, transplant};
use crate::virtio::rng::{Entropy, Rng};
use crate::virtio::testing::Driver;

struct Sevens;

impl Entropy for Sevens {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        bytes.fill(7);
        true
    }
}

struct Bench {
    driver: Driver,
    line: Probe,
    messages: Messages,
    function: VirtioPci,
}

impl Bench {
    fn new() -> Self {
        Self::with(Driver::new(16))
    }

    /// Over the memory of a driver that there has been before.
    fn with(driver: Driver) -> Self {
        let (line, messages) = (Probe::default(), Messages::default());
        let device = Arc::new(Mutex::new(Rng::new(Box::new(Sevens))));
        let wiring = PciWiring {
            ram: driver.ram().clone(),
            line: line.line(),
            messages: Arc::new(messages.clone()),
            doorbell: device.clone(),
        };
        let function = VirtioPci::new(device, wiring);
        Self { driver, line, messages, function }
    }

    fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0xaa; N];
        self.function.read(offset, &mut data);
        data
    }

    fn word(&mut self, offset: u64) -> u16 {
        u16::from_le_bytes(self.read(offset))
    }

    fn status(&mut self) -> u8 {
        self.read::<1>(0x14)[0]
    }

    fn write_word(&mut self, offset: u64, value: u16) {
        self.function.write(offset, &value.to_le_bytes());
    }

    fn write_doubleword(&mut self, offset: u64, value: u32) {
        self.function.write(offset, &value.to_le_bytes());
    }

    fn negotiate(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.function.write(0x14, &[status]);
        }
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write_doubleword(8, select);
            self.write_doubleword(0xc, half);
        }
        self.function.write(0x14, &[3 | status::FEATURES_OK]);
    }

    fn start(&mut self) {
        self.negotiate(feature::VERSION_1);
        self.set_up_queue();
        self.function.write(0x14, &[0xf]);
    }

    fn set_up_queue(&mut self) {
        let setup = self.driver.setup(0);
        self.write_word(0x16, 0);
        self.write_word(0x18, setup.size);
        for (at, address) in [(0x20, setup.desc), (0x28, setup.driver), (0x30, setup.device)] {
            self.write_doubleword(at, address as u32);
            self.write_doubleword(at + 4, (address >> 32) as u32);
        }
        self.write_word(0x1c, 1);
    }

    fn enable_msix(&mut self) {
        let control = self.function.message_control;
        self.function.write_config(control, 2, 0x8000);
        for (at, value) in [(0, 0xfee0_0000), (4, 0), (8, 0x55), (12, 0)] {
            self.write_doubleword(block::MSIX_TABLE + at, value);
        }
        self.write_word(0x1a, 0);
    }
}

#[test]
fn a_driver_finds_its_blocks() {
    let mut bench = Bench::new();
    let mut byte = |at: u8| bench.function.read_config(at, 1) as u8;
    assert_eq!((byte(0), byte(1), byte(2), byte(3)), (0xf4, 0x1a, 0x44, 0x10));
    let (mut at, mut kinds) = (byte(0x34), Vec::new());
    while at != 0 {
        kinds.push((byte(at), byte(at + 3)));
        at = byte(at + 1);
    }
    let kinds: Vec<_> = kinds.into_iter().map(|(id, kind)| if id == 9 { kind } else { id }).collect();
    assert_eq!(kinds, [1, 3, 4, 2, 5, 0x11]);
}

#[test]
fn features_must_be_sensible() {
    let mut bench = Bench::new();
    for (features, agreed) in [
        (0, false),
        (feature::EVENT_IDX, false),
        (feature::VERSION_1 | 1, false),
        (feature::VERSION_1 | 1 << 40, false),
        (feature::COMMON, true),
    ] {
        bench.negotiate(features);
        assert_eq!(bench.status() & status::FEATURES_OK != 0, agreed, "{features:#x}");
    }
    bench.write_doubleword(0, 1);
    assert_eq!(bench.read::<4>(4), [1, 0, 0, 0]);
    bench.write_doubleword(0, 2);
    assert_eq!(bench.read::<4>(4), [0; 4]);
}

#[test]
fn features_stay_as_they_were_agreed_on() {
    let mut bench = Bench::new();
    bench.negotiate(feature::VERSION_1);
    bench.write_doubleword(8, 0);
    bench.write_doubleword(0xc, u32::MAX);
    assert_eq!(bench.read::<4>(0xc), [0; 4]);
    // Queues are set up after that.
    bench.set_up_queue();
    let head = bench.driver.offer(&[], &[(0x8000, 4)]);
    bench.function.write(0x14, &[0xf]);
    assert_eq!(bench.driver.used(), [(head, 4)]);
}

#[test]
fn a_driver_that_is_ready_too_early_is_heard_later() {
    let mut bench = Bench::new();
    bench.negotiate(0);
    bench.write_doubleword(8, 1);
    bench.write_doubleword(0xc, (feature::VERSION_1 >> 32) as u32);
    bench.set_up_queue();
    let early = status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK;
    bench.function.write(0x14, &[early]);
    let head = bench.driver.offer(&[], &[(0x8000, 4)]);
    bench.write_word(block::NOTIFY, 0);
    assert_eq!(bench.driver.used(), []);
    // Nor does it begin by being saved and restored.
    let state = bench.function.save();
    assert_eq!((state.status, &state.positions[..]), (early, &[][..]));
    bench.function.commit(state.clone());
    bench.function.resume();
    assert_eq!((bench.function.save(), bench.driver.used()), (state, vec![]));
    bench.function.write(0x14, &[0xf]);
    assert_eq!(bench.driver.used(), [(head, 4)]);
}

#[test]
fn a_request_goes_through_and_interrupts_by_the_pin() {
    let mut bench = Bench::new();
    bench.start();
    let head = bench.driver.offer(&[], &[(0x8000, 4)]);
    bench.write_word(block::NOTIFY, 0);
    assert_eq!(bench.driver.used(), [(head, 4)]);
    assert_eq!(bench.driver.ram().read_u32(0x8000), Ok(0x0707_0707));
    assert!(bench.line.level());
    assert_eq!(bench.function.read_config(6, 2) & 8, 8);
    // Held back, and let go again.
    bench.function.write_config(4, 2, 0x400);
    assert!(!bench.line.level());
    bench.function.write_config(4, 2, 0);
    assert!(bench.line.level());
    assert_eq!(bench.read::<1>(block::ISR), [1]);
    assert!(!bench.line.level());
    assert_eq!(bench.read::<1>(block::ISR), [0]);
}

#[test]
fn a_request_interrupts_by_message() {
    let mut bench = Bench::new();
    bench.start();
    bench.enable_msix();
    bench.driver.offer(&[], &[(0x8000, 4)]);
    bench.write_word(block::NOTIFY, 0);
    assert_eq!(bench.messages.take(), [(0xfee0_0000, 0x55)]);
    assert!(!bench.line.level());
    // A vector that does not exist cannot be had.
    bench.write_word(0x1a, 2);
    assert_eq!(bench.word(0x1a), 0xffff);
    bench.write_word(0x10, 1);
    assert_eq!(bench.word(0x10), 1);
}

#[test]
fn what_was_offered_before_the_start_is_served() {
    let mut bench = Bench::new();
    let head = bench.driver.offer(&[], &[(0x8000, 4)]);
    bench.start();
    assert_eq!(bench.driver.used(), [(head, 4)]);
}

#[test]
fn a_reset_forgets() {
    let mut bench = Bench::new();
    bench.start();
    bench.driver.offer(&[], &[(0x8000, 4)]);
    bench.write_word(block::NOTIFY, 0);
    bench.function.write(0x14, &[0]);
    assert_eq!((bench.status(), bench.word(0x1c), bench.word(0x18)), (0, 0, 64));
    assert!(!bench.line.level());
    bench.driver.used();
    bench.driver.offer(&[], &[(0x8000, 4)]);
    bench.write_word(block::NOTIFY, 0);
    assert_eq!(bench.driver.used(), []);
}

#[test]
fn rings_outside_of_ram_are_no_rings() {
    let mut bench = Bench::new();
    bench.negotiate(feature::VERSION_1);
    bench.write_doubleword(0x24, 0x8000);
    bench.write_word(0x1c, 1);
    bench.function.write(0x14, &[0xf]);
    assert_eq!(bench.status(), 0xf | status::NEEDS_RESET);
    bench.write_word(block::NOTIFY, 0);
    bench.function.write(0x14, &[0]);
    assert_eq!(bench.status(), 0);
}

#[test]
fn an_enabled_queue_keeps_its_shape() {
    let mut bench = Bench::new();
    bench.start();
    bench.write_word(0x18, 8);
    bench.write_doubleword(0x20, 0);
    bench.write_word(0x1c, 0);
    assert_eq!((bench.word(0x18), bench.word(0x1c)), (16, 1));
    assert_eq!(u64::from_le_bytes(bench.read(0x20)), bench.driver.setup(0).desc);
    // Sizes that cannot be are not taken.
    bench.function.write(0x14, &[0]);
    for size in [0, 3, 128, u16::MAX] {
        bench.write_word(0x18, size);
        assert_eq!(bench.word(0x18), 64);
    }
    bench.write_word(0x16, 1);
    assert_eq!((bench.word(0x18), bench.word(0x1a)), (0, 0));
}

#[test]
fn the_window_reaches_the_registers() {
    let mut bench = Bench::new();
    let window = bench.function.window;
    for (at, value) in [(8, 0x12), (12, 2)] {
        bench.function.write_config(window + at, 4, value);
    }
    assert_eq!(bench.function.read_config(window + 16, 4), 1);
    for (at, value) in [(8, 0x14), (12, 1)] {
        bench.function.write_config(window + at, 4, value);
    }
    bench.function.write_config(window + 16, 1, 1);
    assert_eq!(bench.status(), 1);
    // Beyond the registers, and of no length.
    for (offset, length) in [(0x8000, 4), (u32::MAX - 3, 4), (1, 4), (0, 3), (0, 0)] {
        bench.function.write_config(window + 8, 4, offset);
        bench.function.write_config(window + 12, 4, length);
        bench.function.read_config(window + 16, 4);
        bench.function.write_config(window + 16, 4, 0);
    }
    assert_eq!(bench.status(), 1);
}

#[test]
fn a_saved_device_goes_on() {
    let mut from = Bench::new();
    from.start();
    from.enable_msix();
    from.driver.offer(&[], &[(0x8000, 4)]);
    from.write_word(block::NOTIFY, 0);
    assert_eq!(from.messages.take().len(), 1);
    from.driver.used();
    let Bench { driver, function, .. } = from;
    // One that came while the machine stood still.
    let mut to = Bench::with(driver);
    let head = to.driver.offer(&[], &[(0x8000, 6)]);
    transplant(&function, &mut to.function);
    assert_eq!(to.driver.used(), []);
    to.function.resume();
    assert_eq!(to.driver.used(), [(head, 6)]);
    assert_eq!(to.messages.take(), [(0xfee0_0000, 0x55)]);
    assert_eq!(to.status(), 0xf);
    assert!(refuses(
        &to.function,
        &[
            |state| state.status = 0x40,
            |state| state.isr = 4,
            |state| state.queues[0].setup.size = 3,
            |state| state.queues.clear(),
            |state| state.config_vector = 2,
            |state| state.positions = vec![None; 2],
        ]
    ));
    assert_eq!(to.function.save().positions.len(), 1);
}
