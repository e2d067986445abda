//! The 8259A pair by its datasheet's modes.

use super::*;
use crate::testing::Probe;

struct Bench {
    pic: Pic,
    intr: Probe,
}

impl Bench {
    /// Initialised as a PC's firmware does, all unmasked.
    fn new() -> Self {
        Self::with_icw4(0x01)
    }

    fn with_icw4(icw4: u8) -> Self {
        let intr = Probe::default();
        let mut bench = Self { pic: Pic::new(intr.line()), intr };
        for (register, value) in
            [(0, 0x11), (1, 0x20), (1, 0x04), (1, icw4), (2, 0x11), (3, 0x28), (3, 0x02), (3, icw4 & !0x10)]
        {
            bench.write(register, value);
        }
        bench
    }

    fn read(&mut self, register: u16) -> u8 {
        self.pic.read(register, 1) as u8
    }

    fn write(&mut self, register: u16, value: u8) {
        self.pic.write(register, 1, value.into());
    }

    fn raise(&mut self, lines: &[u32]) {
        for line in lines {
            self.pic.set_input(*line, true);
        }
    }

    fn lower(&mut self, line: u32) {
        self.pic.set_input(line, false);
    }

    /// IRR, ISR and IMR of master and slave.
    fn registers(&mut self) -> [u8; 6] {
        let mut all = [0; 6];
        for (chip, port) in [(0, 0), (3, 2)] {
            self.write(port, 0x0a);
            all[chip] = self.read(port);
            self.write(port, 0x0b);
            all[chip + 1] = self.read(port);
            all[chip + 2] = self.read(port + 1);
        }
        all
    }
}

#[test]
fn silent_until_initialised() {
    let intr = Probe::default();
    let mut pic = Pic::new(intr.line());
    pic.set_input(0, true);
    assert!(!intr.level());
    // The edge came before ICW1: it does not count.
    for (register, value) in [(0, 0x13), (1, 0x08), (1, 0x01)] {
        pic.write(register, 1, value);
    }
    assert!(!intr.level());
    pic.set_input(0, false);
    pic.set_input(0, true);
    assert_eq!((intr.level(), pic.acknowledge()), (true, 0x08));
}

#[test]
fn initialisation_without_icw4_and_with_masks() {
    let mut bench = Bench::new();
    bench.write(1, 0xfb);
    bench.write(3, 0x7f);
    assert_eq!(bench.registers(), [0, 0, 0xfb, 0, 0, 0x7f]);
    bench.write(0, 0x10);
    bench.write(1, 0x47);
    bench.write(1, 0x04);
    bench.write(1, 0xaa);
    assert_eq!(bench.registers(), [0, 0, 0xaa, 0, 0, 0x7f]);
    bench.raise(&[2, 4, 6]);
    assert_eq!(bench.pic.acknowledge(), 0x44);
}

#[test]
fn fully_nested_through_the_cascade() {
    let mut bench = Bench::new();
    bench.raise(&[4, 12, 8]);
    assert_eq!(bench.registers(), [0x14, 0, 0, 0x11, 0, 0]);
    assert_eq!(bench.pic.acknowledge(), 0x28);
    assert_eq!(bench.registers(), [0x10, 0x04, 0, 0x10, 0x01, 0]);
    assert!(!bench.intr.level(), "12 and 4 are below 8");
    bench.raise(&[1]);
    assert_eq!((bench.intr.level(), bench.pic.acknowledge()), (true, 0x21));
    bench.write(0, 0x20);
    bench.write(2, 0x20);
    bench.write(0, 0x20);
    assert_eq!(bench.registers(), [0x14, 0, 0, 0x10, 0, 0]);
    assert_eq!(bench.pic.acknowledge(), 0x2c);
    bench.write(2, 0x64);
    bench.write(0, 0x62);
    assert_eq!((bench.pic.acknowledge(), bench.intr.level()), (0x24, false));
    assert_eq!(bench.registers(), [0, 0x10, 0, 0, 0, 0]);
}

#[test]
fn slave_request_above_the_one_in_service_waits_for_the_master() {
    for (icw4, nested) in [(0x01, false), (0x11, true)] {
        let mut bench = Bench::with_icw4(icw4);
        bench.raise(&[12]);
        assert_eq!(bench.pic.acknowledge(), 0x2c);
        bench.raise(&[8]);
        assert_eq!(bench.intr.level(), nested, "special fully nested mode");
    }
}

#[test]
fn withdrawn_request_is_spurious() {
    let mut bench = Bench::new();
    bench.raise(&[3]);
    bench.lower(3);
    assert_eq!((bench.intr.level(), bench.pic.acknowledge()), (false, 0x27));
    assert_eq!(bench.registers(), [0; 6]);
}

#[test]
fn edge_once_level_again() {
    let mut bench = Bench::new();
    bench.write(4, 0xff);
    bench.write(5, 0xff);
    assert_eq!((bench.read(4), bench.read(5)), (0xf8, 0xde));
    bench.write(4, 0x20);
    bench.write(5, 0x00);
    bench.raise(&[1, 5]);
    assert_eq!(bench.pic.acknowledge(), 0x21);
    bench.write(0, 0x20);
    bench.raise(&[1]);
    assert_eq!(bench.pic.acknowledge(), 0x25);
    bench.write(0, 0x20);
    assert_eq!((bench.intr.level(), bench.pic.acknowledge()), (true, 0x25));
    bench.lower(5);
    bench.write(0, 0x20);
    assert_eq!((bench.intr.level(), bench.registers()), (false, [0; 6]));
    bench.lower(1);
    bench.raise(&[1]);
    assert_eq!(bench.pic.acknowledge(), 0x21);
}

#[test]
fn rotation() {
    let mut bench = Bench::new();
    bench.raise(&[0, 3, 4]);
    assert_eq!(bench.pic.acknowledge(), 0x20);
    bench.write(0, 0xa0);
    bench.write(0, 0xc3);
    // 3 is lowest now, so 4 comes first.
    assert_eq!(bench.pic.acknowledge(), 0x24);
    bench.write(0, 0xe4);
    // 4 is lowest now.
    bench.raise(&[5]);
    assert_eq!(bench.pic.acknowledge(), 0x25);
    bench.write(0, 0x20);
    assert_eq!(bench.pic.acknowledge(), 0x23);
    bench.write(0, 0x63);
    assert_eq!(bench.registers(), [0; 6]);
}

#[test]
fn automatic_end_of_interrupt_with_rotation() {
    let mut bench = Bench::with_icw4(0x03);
    bench.write(0, 0x80);
    bench.raise(&[0, 1]);
    assert_eq!(bench.pic.acknowledge(), 0x20);
    bench.lower(0);
    bench.raise(&[0]);
    assert_eq!(bench.pic.acknowledge(), 0x21, "0 has become the lowest");
    assert_eq!(bench.pic.acknowledge(), 0x20);
    bench.write(0, 0x00);
    bench.lower(1);
    bench.raise(&[1]);
    assert_eq!((bench.pic.acknowledge(), bench.registers()), (0x21, [0; 6]));
}

#[test]
fn special_mask_lets_lower_levels_in() {
    let mut bench = Bench::new();
    bench.raise(&[3, 6]);
    assert_eq!(bench.pic.acknowledge(), 0x23);
    bench.write(1, 0x08);
    assert!(!bench.intr.level());
    bench.write(0, 0x68);
    assert_eq!((bench.intr.level(), bench.pic.acknowledge()), (true, 0x26));
    bench.write(0, 0x20);
    assert_eq!(bench.registers(), [0, 0x08, 0x08, 0, 0, 0], "3 is masked");
    bench.write(0, 0x48);
    bench.write(0, 0x20);
    assert_eq!(bench.registers(), [0, 0, 0x08, 0, 0, 0]);
}

#[test]
fn polling_acknowledges() {
    let mut bench = Bench::new();
    bench.write(0, 0x0c);
    assert_eq!(bench.read(0), 0);
    bench.raise(&[6, 9]);
    bench.write(0, 0x0c);
    assert_eq!(bench.read(0), 0x82);
    bench.write(2, 0x0c);
    assert_eq!(bench.read(3), 0x81);
    assert_eq!(bench.read(3), 0x00, "one poll per command");
    assert_eq!(bench.registers(), [0x40, 0x04, 0, 0, 0x02, 0]);
}

#[test]
fn reset_keeps_what_devices_drive() {
    let mut bench = Bench::new();
    bench.raise(&[4]);
    bench.pic.reset();
    assert_eq!((bench.intr.level(), bench.read(1)), (false, 0xff));
    bench.write(0, 0x19);
    bench.write(1, 0x20);
    bench.write(1, 0x04);
    bench.write(1, 0x01);
    assert_eq!((bench.intr.level(), bench.pic.acknowledge()), (true, 0x24));
}
