//! IA32_APIC_BASE and the x2APIC.

use super::*;

const XAPIC: u64 = 0xfee0_0900;
const X2APIC: u64 = 0xfee0_0d00;
const DISABLED: u64 = 0xfee0_0100;

fn base(bench: &mut Bench, value: u64) -> bool {
    bench.cpus[0].write_msr(MSR_APIC_BASE, value, 0).is_some()
}

fn x2(bench: &mut Bench, cpu: usize) {
    let base = bench.cpus[cpu].read_msr(MSR_APIC_BASE).unwrap();
    bench.cpus[cpu].write_msr(MSR_APIC_BASE, base | 0x400, 0).unwrap();
}

#[test]
fn changes_of_mode() {
    let invalid = 0xfee0_0500;
    // From a mode, whether it can be changed to: disabled, xAPIC, x2APIC, the invalid one.
    for (path, admitted) in [
        (vec![DISABLED], [true, true, false, false]),
        (vec![XAPIC], [true, true, true, false]),
        (vec![X2APIC], [true, false, true, false]),
        (vec![X2APIC, DISABLED], [true, true, false, false]),
    ] {
        for (to, admitted) in [DISABLED, XAPIC, X2APIC, invalid].into_iter().zip(admitted) {
            let mut bench = Bench::new(1);
            assert!(path.iter().all(|step| base(&mut bench, *step)));
            assert_eq!(base(&mut bench, to), admitted, "{path:x?} to {to:x}");
            let now = if admitted { to } else { path[path.len() - 1] };
            assert_eq!(bench.cpus[0].read_msr(MSR_APIC_BASE), Some(now));
            let page = (now == XAPIC).then_some(0xfee0_0000);
            assert_eq!(bench.cpus[0].page(), page);
        }
    }
}

#[test]
fn base_address_and_reserved_bits() {
    let mut bench = Bench::new(1);
    assert!(base(&mut bench, 0x7f_ffff_f800));
    assert_eq!(bench.cpus[0].page(), Some(0x7f_ffff_f000));
    assert_eq!(bench.cpus[0].read_msr(MSR_APIC_BASE), Some(0x7f_ffff_f900));
    assert!(!base(&mut bench, 0x80_0000_0900));
    assert!(!base(&mut bench, XAPIC | 0x200));
    assert!(!base(&mut bench, XAPIC | 1));
}

#[test]
fn disabling_forgets() {
    let mut bench = Bench::new(1);
    bench.bus.port(0).interrupt(0x31, false);
    bench.write(0, 0x380, 1000);
    assert!(base(&mut bench, DISABLED));
    assert!(!bench.bus.send_msi(0xfee0_0000, 0x31));
    assert!(!bench.bus.send_msi(0xfee0_0000, 0x400));
    assert!(base(&mut bench, XAPIC));
    assert_eq!(bench.cpus[0].regs, Bench::cold(1).cpus[0].regs);
    assert_eq!((bench.drain(0), bench.timers[0].deadline()), (vec![], None));
}

#[test]
fn registers_by_msr() {
    let mut bench = Bench::new(18);
    assert_eq!(bench.cpus[17].read_msr(0x802), None, "not in xAPIC mode");
    x2(&mut bench, 17);
    let all: Vec<(u32, Option<u64>)> = (0x800..0x900)
        .map(|msr| (msr, bench.cpus[17].read_msr(msr)))
        .filter(|(_, value)| value.is_some())
        .collect();
    let mut expected = vec![(0x802, 17), (0x803, 0x0005_0014), (0x808, 0), (0x80a, 0)];
    expected.extend([(0x80d, 0x0001_0002), (0x80f, 0x1ff)]);
    expected.extend((0x810..=0x828).map(|msr| (msr, 0)));
    expected.push((0x830, 0));
    expected.extend((0x832..=0x837).map(|msr| (msr, 0x1_0000)));
    expected.extend([(0x838, 0), (0x839, 0), (0x83e, 0)]);
    let expected: Vec<_> = expected.iter().map(|&(msr, value)| (msr, Some(value))).collect();
    assert_eq!(all, expected);
    assert_eq!(bench.cpus[17].read_msr(0x7ff), None);
    assert_eq!(bench.cpus[17].read_msr(0x900), None);
}

#[test]
fn writes_by_msr() {
    let mut bench = Bench::new(1);
    x2(&mut bench, 0);
    let cpu = &mut bench.cpus[0];
    let mut admits = |msr, value| cpu.write_msr(msr, value, 0).is_some();
    // The largest value admitted, and the smallest bit that is not.
    for (msr, most, bit) in [
        (0x808, 0xff, 0x100),
        (0x80b, 0, 1),
        (0x80f, 0x3ff, 0x1000),
        (0x828, 0, 1),
        (0x832, 0x7_10ff, 0x100),
        (0x835, 0x1_f7ff, 0x800),
        (0x837, 0x1_10ff, 0x200),
        (0x838, 0xffff_ffff, 0x1_0000_0000),
        (0x83e, 0xb, 4),
        (0x83f, 0xff, 0x100),
        (0x830, 0xffff_ffff_0000_0000, 1 << 13),
    ] {
        assert!(admits(msr, most), "{msr:x}");
        assert!(!admits(msr, bit), "{msr:x}");
    }
    for msr in [0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810, 0x820, 0x831, 0x839, 0x840] {
        assert!(!admits(msr, 0), "{msr:x}");
    }
}

#[test]
fn messages_among_x2apics() {
    let mut bench = Bench::new(18);
    for cpu in 0..18 {
        x2(&mut bench, cpu);
    }
    let mut send = |value| bench.cpus[0].write_msr(0x830, value, 0).unwrap();
    send(0x0000_0011_0000_0041);
    send(0x0001_0001_0000_0842);
    send(0x0000_8001_0000_0843);
    send(0x0000_0000_000c_0044);
    send(0x0000_0063_0000_0045);
    let taken: Vec<(usize, Vec<u8>)> = (0..18)
        .map(|cpu| {
            let mut vectors = Vec::new();
            while let Some(vector) = bench.cpus[cpu].acknowledge() {
                bench.cpus[cpu].write_msr(0x80b, 0, 0).unwrap();
                vectors.push(vector);
            }
            (cpu, vectors)
        })
        .filter(|(_, vectors)| *vectors != [0x44])
        .collect();
    assert_eq!(
        taken,
        [(0, vec![0x43]), (15, vec![0x44, 0x43]), (16, vec![0x44, 0x42]), (17, vec![0x44, 0x41]),]
    );
    // To all, from the wide field and from a byte.
    bench.cpus[3].write_msr(0x830, 0xffff_ffff_0000_0051, 0).unwrap();
    bench.bus.send_msi(0xfeef_f000, 0x52);
    for cpu in &mut bench.cpus {
        assert_eq!((cpu.acknowledge(), cpu.acknowledge()), (Some(0x52), None));
        cpu.write_msr(0x80b, 0, 0).unwrap();
        assert_eq!(cpu.acknowledge(), Some(0x51));
    }
}

#[test]
fn self_interrupt() {
    let mut bench = Bench::new(1);
    x2(&mut bench, 0);
    bench.cpus[0].write_msr(0x83f, 0x71, 0).unwrap();
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x71));
    bench.cpus[0].write_msr(0x83f, 0x01, 0).unwrap();
    bench.cpus[0].write_msr(0x828, 0, 0).unwrap();
    assert_eq!(bench.cpus[0].read_msr(0x828), Some(0x20));
}
