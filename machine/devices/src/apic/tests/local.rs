//! One local APIC's registers, priorities and pins.

use super::*;

/// Every register of the xAPIC's page, by offset / 16; what does not exist reads as zero.
fn page(bench: &mut Bench, cpu: usize) -> Vec<(u64, u32)> {
    (0..0x40).map(|number| (number, bench.read(cpu, number * 16))).filter(|(_, value)| *value != 0).collect()
}

#[test]
fn after_power_on() {
    let mut bench = Bench::cold(2);
    let expected = |id: u32| {
        let mut all = vec![(0x03, 0x0005_0014), (0x0e, u32::MAX), (0x0f, 0xff)];
        all.extend((0x32..=0x37).map(|number| (number, 0x1_0000)));
        if id != 0 {
            all.insert(0, (2, id << 24));
        }
        all
    };
    assert_eq!(page(&mut bench, 0), expected(0));
    assert_eq!(page(&mut bench, 1), expected(1));
    assert_eq!(bench.cpus[0].read_msr(MSR_APIC_BASE), Some(0xfee0_0900));
    assert_eq!(bench.cpus[1].read_msr(MSR_APIC_BASE), Some(0xfee0_0800));
    assert_eq!(bench.cpus[0].page(), Some(0xfee0_0000));
    assert_eq!((bench.cpus[0].interrupt_waits(), bench.wakes()), (false, vec![0, 0]));
}

#[test]
fn registers_keep_their_writable_bits() {
    let mut bench = Bench::new(1);
    for number in (0..0x40).filter(|number| ![0x0b, 0x28, 0x30].contains(number)) {
        bench.write(0, number * 16, u32::MAX);
    }
    let expected = [
        (0x03, 0x0005_0014),
        (0x08, 0xff),
        (0x0a, 0xff),
        (0x0d, 0xff00_0000),
        (0x0e, u32::MAX),
        (0x0f, 0x3ff),
        (0x31, 0xff00_0000),
        (0x32, 0x7_00ff),
        (0x33, 0x1_07ff),
        (0x34, 0x1_07ff),
        (0x35, 0x1_a7ff),
        (0x36, 0x1_a7ff),
        (0x37, 0x1_00ff),
        // Timer mode 3 is reserved: the count did not start.
        (0x3e, 0xb),
    ];
    assert_eq!(page(&mut bench, 0), expected);
    // Reading what does not exist was an error, as was writing it.
    bench.write(0, 0x280, 0);
    assert_eq!(bench.read(0, 0x280), 0x80);
    bench.write(0, 0xf0, 0xff);
    assert_eq!(bench.read(0, 0x320), 0x7_00ff);
    bench.write(0, 0x350, 0x700);
    assert_eq!(bench.read(0, 0x350), 0x1_0700, "masked while disabled");
}

#[test]
fn partial_accesses() {
    let mut bench = Bench::cold(2);
    let mut data = [0; 2];
    bench.cpus[1].read(0x32, &mut data);
    assert_eq!(data, [0x05, 0x00]);
    let mut data = [1; 8];
    bench.cpus[1].read(0x20, &mut data);
    assert_eq!(data, [0, 0, 0, 1, 0, 0, 0, 0]);
    bench.cpus[1].read(0x2c, &mut data);
    assert_eq!(data, [0; 8]);
    bench.cpus[0].write(0x80, &[0x20]);
    bench.cpus[0].write(0x84, &[0x20, 0, 0, 0]);
    assert_eq!(bench.read(0, 0x80), 0);
}

#[test]
fn priorities_nest() {
    let mut bench = Bench::new(1);
    let port = bench.bus.port(0);
    for vector in [0x31, 0x35, 0x42] {
        assert!(port.interrupt(vector, false));
    }
    assert_eq!(bench.read(0, 0x210), 0x0022_0000);
    assert_eq!(bench.read(0, 0x220), 0x0000_0004);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x42));
    assert_eq!((bench.read(0, 0xa0), bench.read(0, 0x120)), (0x40, 4));
    assert!(!bench.cpus[0].interrupt_waits());
    port.interrupt(0x4f, false);
    assert!(!bench.cpus[0].interrupt_waits(), "the same class waits");
    port.interrupt(0x50, false);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x50));
    bench.write(0, 0xb0, 0);
    bench.write(0, 0xb0, 0);
    bench.cpus[0].set_task_priority(4);
    assert_eq!(bench.read(0, 0x80), 0x40);
    assert_eq!(bench.cpus[0].acknowledge(), None);
    bench.write(0, 0x80, 0x3f);
    assert_eq!(bench.read(0, 0xa0), 0x3f);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x4f));
    bench.write(0, 0xb0, 0);
    assert_eq!(bench.cpus[0].acknowledge(), None);
    bench.write(0, 0x80, 0);
    assert_eq!(bench.drain(0), [0x35, 0x31]);
    bench.write(0, 0xb0, 0);
    assert_eq!((bench.read(0, 0xa0), bench.cpus[0].task_priority()), (0, 0));
}

#[test]
fn only_news_wake() {
    let mut bench = Bench::new(1);
    let port = bench.bus.port(0);
    port.interrupt(0x31, false);
    port.interrupt(0x31, false);
    port.interrupt(0x41, false);
    assert_eq!((bench.wakes(), port.attention()), (vec![1], true));
    assert!(bench.cpus[0].interrupt_waits());
    assert!(!port.attention(), "seen");
    assert!(bench.cpus[0].interrupt_waits(), "and still there");
    port.interrupt(0x51, false);
    assert_eq!(bench.wakes(), [1]);
    assert_eq!(bench.drain(0), [0x51, 0x41, 0x31]);
}

#[test]
fn disabled_by_software_it_takes_signals_only() {
    let mut bench = Bench::new(1);
    let port = bench.bus.port(0);
    assert!(port.interrupt(0x31, false));
    bench.write(0, 0xf0, 0xff);
    assert!(!port.interrupt(0x41, false));
    bench.bus.send_msi(0xfee0_0000, 0x400);
    assert_eq!(bench.cpus[0].take_signal(), Some(ApicSignal::Nmi));
    assert_eq!(bench.cpus[0].take_signal(), None);
    assert_eq!(bench.drain(0), [0x31], "what was there is kept");
}

#[test]
fn eight_two_five_nine_through_lint0() {
    let mut bench = Bench::cold(2);
    bench.cpus[0].firmware_setup();
    bench.cpus[1].firmware_setup();
    assert_eq!((bench.read(0, 0x350), bench.read(0, 0x360)), (0x700, 0x400));
    assert_eq!(bench.read(1, 0x350), 0x1_0000);
    for (register, value) in [(0, 0x11), (1, 0x30), (1, 4), (1, 1)] {
        lock(&bench.pic).write(register, 1, value);
    }
    bench.cpus[0].set_task_priority(15);
    bench.pic.set_irq(4, true);
    assert_eq!(bench.wakes(), [1, 0]);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x34), "TPR does not matter");
    assert_eq!(bench.cpus[0].acknowledge(), None);
    assert_eq!(bench.read(0, 0x110), 0, "not the local APIC's to end");
    lock(&bench.pic).write(0, 1, 0x20);
    // Masked here, it waits there.
    bench.write(0, 0x350, 0x1_0700);
    bench.pic.set_irq(3, true);
    assert!(!bench.cpus[0].interrupt_waits());
    bench.write(0, 0x350, 0x0_0700);
    assert!(bench.cpus[0].interrupt_waits());
    bench.pic.set_irq(3, false);
    assert!(!bench.cpus[0].interrupt_waits(), "withdrawn");
    // With the APIC off, LINT0 is INTR.
    bench.cpus[0].write_msr(MSR_APIC_BASE, 0xfee0_0000, 0).unwrap();
    bench.pic.set_irq(3, true);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x33));
}

#[test]
fn pins_by_their_vectors() {
    let mut bench = Bench::new(1);
    let port = bench.bus.port(0);
    bench.write(0, 0x360, 0x400);
    port.set_irq(LINT1, true);
    port.set_irq(LINT1, true);
    assert_eq!(bench.cpus[0].take_signal(), Some(ApicSignal::Nmi));
    assert_eq!(bench.cpus[0].take_signal(), None);
    port.set_irq(LINT1, false);
    // A fixed edge.
    bench.write(0, 0x360, 0x61);
    port.set_irq(LINT1, true);
    assert_eq!(bench.drain(0), [0x61]);
    // A level comes until it goes.
    bench.write(0, 0x350, 0x8062);
    port.set_irq(LINT0, true);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x62));
    assert_eq!((bench.read(0, 0x350), bench.read(0, 0x1b0)), (0xc062, 4));
    bench.write(0, 0xb0, 0);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x62));
    port.set_irq(LINT0, false);
    bench.write(0, 0xb0, 0);
    assert_eq!((bench.read(0, 0x350), bench.drain(0)), (0x8062, vec![]));
    port.set_irq(7, true);
    assert!(!port.attention());
}

#[test]
fn errors_are_told() {
    let mut bench = Bench::new(2);
    bench.write(0, 0x370, 0x55);
    bench.command(0, 0x0100_0000, 0x0000_000f);
    assert_eq!(bench.drain(0), [0x55]);
    assert_eq!(bench.read(0, 0x280), 0, "not before it is written");
    bench.write(0, 0x280, 0);
    assert_eq!(bench.read(0, 0x280), 0x20);
    bench.write(0, 0x280, 0);
    assert_eq!(bench.read(0, 0x280), 0);
    bench.bus.send_msi(0xfee0_1000, 0x0e);
    bench.bus.send_msi(0xfee0_1000, 0x0d);
    bench.write(1, 0x280, 0);
    assert_eq!((bench.read(1, 0x280), bench.drain_all()), (0x40, vec![vec![], vec![]]));
    // An error vector that is itself in error.
    bench.write(0, 0x370, 0x05);
    bench.write(0, 0x3c0, 1);
    assert!(!bench.cpus[0].interrupt_waits());
    bench.write(0, 0x280, 0);
    assert_eq!(bench.read(0, 0x280), 0xc0);
}
