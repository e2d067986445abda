//! The I/O APIC against local APICs.

use super::*;

#[test]
fn after_reset() {
    let mut bench = Bench::new(1);
    let mut expected = vec![0x0100_0000, 0x0017_0020, 0x0100_0000];
    expected.extend([0; 13]);
    expected.extend([0x1_0000, 0].repeat(24));
    expected.extend([0; 8]);
    let all: Vec<u32> = (0..0x48).map(|register| bench.read_io(register)).collect();
    assert_eq!(all, expected);
}

#[test]
fn registers_keep_their_writable_bits() {
    let mut bench = Bench::cold(1);
    for register in 0..=255 {
        bench.write_io(register, u32::MAX);
    }
    let mut expected = vec![0x0f00_0000, 0x0017_0020, 0x0f00_0000];
    expected.extend([0; 13]);
    expected.extend([0x1_afff, 0xff00_0000].repeat(24));
    let all: Vec<u32> = (0..0x40).map(|register| bench.read_io(register)).collect();
    assert_eq!(all, expected);
    let mut data = [0xaa; 3];
    bench.write_io(0x17, 0xff00_0000);
    lock(&bench.io_apic).read(0x13, &mut data);
    assert_eq!(data, [0xff, 0, 0]);
    lock(&bench.io_apic).read(0x20, &mut data);
    assert_eq!(data, [0; 3]);
}

#[test]
fn edges() {
    let mut bench = Bench::new(2);
    bench.pin(4, true);
    bench.redirect(4, 0x0100_0000, 0x44);
    assert!(bench.drain(1).is_empty(), "an edge at a masked pin is lost");
    bench.pin(4, true);
    assert!(bench.drain(1).is_empty(), "no edge");
    bench.pin(4, false);
    bench.pin(4, true);
    assert_eq!((bench.drain_all(), bench.read_io(0x18)), (vec![vec![], vec![0x44]], 0x44));
    bench.pin(24, true);
    bench.pin(u32::MAX, true);
    assert_eq!(bench.drain_all(), [vec![], vec![]]);
}

#[test]
fn level_until_it_goes() {
    let mut bench = Bench::new(1);
    bench.redirect(9, 0, 0xa059);
    bench.pin(9, true);
    assert_eq!(bench.read_io(0x22), 0xe059);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x59));
    bench.pin(9, false);
    bench.pin(9, true);
    assert!(!bench.cpus[0].interrupt_waits(), "not before its end");
    bench.write(0, 0xb0, 0);
    assert_eq!((bench.read_io(0x22), bench.cpus[0].acknowledge()), (0xe059, Some(0x59)));
    bench.pin(9, false);
    bench.write(0, 0xb0, 0);
    assert_eq!((bench.read_io(0x22), bench.drain(0)), (0xa059, vec![]));
}

#[test]
fn masked_level_waits() {
    let mut bench = Bench::new(1);
    bench.redirect(16, 0, 0x1_a051);
    bench.pin(16, true);
    assert!(!bench.cpus[0].interrupt_waits());
    bench.write_io(0x30, 0xa051);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x51));
    // Masked while in service, as kernels do for threaded handlers.
    bench.write_io(0x30, 0x1_a051);
    bench.write(0, 0xb0, 0);
    assert_eq!((bench.read_io(0x30), bench.cpus[0].acknowledge()), (0x1_a051, None));
    bench.write_io(0x30, 0xa051);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x51));
}

#[test]
fn end_by_register_and_by_detour() {
    let mut bench = Bench::new(1);
    for pin in [16, 17] {
        bench.redirect(pin, 0, 0xa051);
        bench.pin(pin.into(), true);
        bench.pin(pin.into(), false);
    }
    lock(&bench.io_apic).write(0x40, &[0x52, 0, 0, 0]);
    assert_eq!((bench.read_io(0x30), bench.read_io(0x32)), (0xe051, 0xe051));
    bench.write_io(0x30, 0x1_2051);
    bench.write_io(0x30, 0xa051);
    assert_eq!((bench.read_io(0x30), bench.read_io(0x32)), (0xa051, 0xe051));
    lock(&bench.io_apic).write(0x40, &[0x51, 0, 0, 0]);
    assert_eq!((bench.read_io(0x30), bench.read_io(0x32)), (0xa051, 0xa051));
}

#[test]
fn refused_level_is_offered_again() {
    let mut bench = Bench::cold(1);
    bench.redirect(9, 0, 0x8059);
    bench.pin(9, true);
    assert_eq!(bench.read_io(0x22), 0x8059);
    bench.write(0, 0xf0, 0x1ff);
    assert_eq!((bench.read_io(0x22), bench.cpus[0].acknowledge()), (0xc059, Some(0x59)));
}

#[test]
fn other_modes() {
    let mut bench = Bench::new(2);
    bench.write(0, 0xd0, 0x0100_0000);
    bench.write(1, 0xd0, 0x0200_0000);
    // Logical, lowest priority; the second is the idler.
    bench.cpus[0].set_task_priority(1);
    bench.redirect(3, 0x0300_0000, 0x943);
    bench.pin(3, true);
    assert_eq!(bench.drain_all(), [vec![], vec![0x43]]);
    // NMI is an edge, whatever the trigger mode says.
    bench.redirect(5, 0x0100_0000, 0x8400);
    bench.pin(5, true);
    assert_eq!(bench.cpus[1].take_signal(), Some(ApicSignal::Nmi));
    assert_eq!((bench.cpus[1].take_signal(), bench.read_io(0x1a)), (None, 0x8400));
    // System management and reserved modes go nowhere.
    for mode in [0x200, 0x300] {
        bench.redirect(6, 0xff00_0000, mode);
        bench.pin(6, true);
        bench.pin(6, false);
    }
    assert_eq!((bench.drain_all(), bench.cpus[1].take_signal()), (vec![vec![], vec![]], None));
}

#[test]
fn reset_masks_everything() {
    let mut bench = Bench::new(1);
    bench.redirect(9, 0, 0x8059);
    lock(&bench.io_apic).reset();
    bench.pin(9, true);
    assert!(!bench.cpus[0].interrupt_waits());
    bench.redirect(9, 0, 0x8059);
    assert!(bench.cpus[0].interrupt_waits());
}
