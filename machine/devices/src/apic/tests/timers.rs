//! The local APIC's timer in its three modes.

use super::*;

#[test]
fn one_shot_counts_down_once() {
    let mut bench = Bench::new(1);
    bench.write(0, 0x320, 0x31);
    bench.write(0, 0x3e0, 0x3);
    bench.write(0, 0x380, 100);
    assert_eq!(bench.timers[0].deadline(), Some(1600));
    assert_eq!(bench.read(0, 0x390), 100);
    bench.advance(1);
    assert_eq!(bench.read(0, 0x390), 100);
    bench.advance(799);
    assert_eq!(bench.read(0, 0x390), 50);
    bench.advance(799);
    assert_eq!((bench.read(0, 0x390), bench.wakes()), (1, vec![0]));
    bench.advance(1);
    assert_eq!((bench.read(0, 0x390), bench.wakes()), (0, vec![1]));
    assert_eq!(bench.drain(0), [0x31]);
    bench.advance(10_000);
    assert_eq!((bench.drain(0), bench.timers[0].deadline()), (vec![], None));
}

#[test]
fn divide_settings() {
    let mut bench = Bench::new(1);
    for (setting, by) in [(0x0, 2), (0x1, 4), (0x2, 8), (0x3, 16), (0x8, 32), (0x9, 64), (0xa, 128), (0xb, 1)]
    {
        bench.write(0, 0x3e0, setting);
        bench.write(0, 0x380, 1000);
        assert_eq!(bench.timers[0].deadline(), Some(1000 * by));
    }
    // A change on the way keeps the count.
    bench.advance(400);
    bench.write(0, 0x3e0, 0x0);
    assert_eq!((bench.read(0, 0x390), bench.timers[0].deadline()), (600, Some(1600)));
    bench.write(0, 0x380, 0);
    assert_eq!((bench.read(0, 0x390), bench.timers[0].deadline()), (0, None));
}

#[test]
fn periodic_goes_on_and_what_was_missed_is_one() {
    let mut bench = Bench::new(1);
    bench.write(0, 0x320, 0x2_0031);
    bench.write(0, 0x3e0, 0xb);
    bench.write(0, 0x380, 1_000_000);
    bench.advance(1_000_000);
    assert_eq!(bench.read(0, 0x390), 1_000_000);
    assert_eq!(bench.drain(0), [0x31]);
    assert_eq!(bench.timers[0].deadline(), Some(2_000_000));
    bench.advance(3_300_000);
    assert_eq!(bench.read(0, 0x390), 700_000);
    assert_eq!(bench.drain(0), [0x31]);
    assert_eq!(bench.timers[0].deadline(), Some(5_000_000));
    // Masked, it still counts.
    bench.write(0, 0x320, 0x3_0031);
    bench.advance(700_000);
    assert_eq!((bench.drain(0), bench.timers[0].deadline()), (vec![], Some(6_000_000)));
    // Turned to one-shot on the way, it ends with this round.
    bench.write(0, 0x320, 0x31);
    bench.advance(1_000_000);
    assert_eq!((bench.drain(0), bench.timers[0].deadline()), (vec![0x31], None));
}

#[test]
fn a_short_period_does_not_busy_the_host() {
    let mut bench = Bench::new(1);
    bench.write(0, 0x320, 0x2_0031);
    bench.write(0, 0x3e0, 0xb);
    bench.write(0, 0x380, 1);
    bench.advance(1);
    assert_eq!(bench.drain(0), [0x31]);
    assert_eq!(bench.timers[0].deadline(), Some(100_001));
}

#[test]
fn tsc_deadline() {
    let mut bench = Bench::new(1);
    bench.cpus[0].write_msr(MSR_TSC_DEADLINE, 5000, 0).unwrap();
    assert_eq!(bench.cpus[0].read_msr(MSR_TSC_DEADLINE), Some(0), "not in this mode");
    bench.write(0, 0x320, 0x4_0031);
    bench.write(0, 0x380, 77);
    assert_eq!((bench.read(0, 0x380), bench.timers[0].deadline()), (0, None));
    // The guest's counter is 500 ahead of the VM's, which is 1000 ahead of its clock.
    bench.cpus[0].write_msr(MSR_TSC_DEADLINE, 5000, 500).unwrap();
    assert_eq!(bench.timers[0].deadline(), Some(3500));
    assert_eq!(bench.cpus[0].read_msr(MSR_TSC_DEADLINE), Some(5000));
    bench.advance(3499);
    assert!(!bench.cpus[0].interrupt_waits());
    bench.clock.advance(1);
    assert_eq!(bench.cpus[0].read_msr(MSR_TSC_DEADLINE), Some(0), "the alarm is late");
    assert_eq!(bench.drain(0), [0x31]);
    bench.advance(0);
    assert!(bench.drain(0).is_empty(), "and came to nothing");

    // In the past: at once, and without an alarm.
    bench.cpus[0].write_msr(MSR_TSC_DEADLINE, 1, 0).unwrap();
    assert_eq!(bench.drain(0), [0x31]);
    bench.cpus[0].write_msr(MSR_TSC_DEADLINE, 1, 2).unwrap();
    assert_eq!((bench.drain(0), bench.timers[0].deadline()), (vec![0x31], None));
    // The guest's counter is behind the VM's.
    bench.cpus[0].write_msr(MSR_TSC_DEADLINE, 10, 10_000_u64.wrapping_neg()).unwrap();
    assert_eq!((bench.drain(0), bench.timers[0].deadline()), (vec![], Some(9010)));
    bench.cpus[0].write_msr(MSR_TSC_DEADLINE, u64::MAX, 10_000_u64.wrapping_neg()).unwrap();
    assert_eq!((bench.drain(0), bench.timers[0].deadline()), (vec![], Some(u64::MAX)));
    bench.cpus[0].write_msr(MSR_TSC_DEADLINE, 0, 0).unwrap();
    assert_eq!(bench.timers[0].deadline(), None);
    // A change of mode disarms.
    bench.cpus[0].write_msr(MSR_TSC_DEADLINE, 50_000, 0).unwrap();
    bench.write(0, 0x320, 0x31);
    assert_eq!(bench.timers[0].deadline(), None);
    bench.write(0, 0x320, 0x4_0031);
    assert_eq!(bench.cpus[0].read_msr(MSR_TSC_DEADLINE), Some(0));
}

#[test]
fn a_count_that_is_over_stays_so_in_another_mode() {
    let mut bench = Bench::new(1);
    bench.write(0, 0x3e0, 0xb);
    bench.write(0, 0x320, 0x31);
    bench.write(0, 0x380, 1000);
    // Expired, and the alarm on its way.
    bench.clock.advance(1500);
    bench.write(0, 0x320, 0x2_0031);
    assert_eq!(bench.read(0, 0x390), 0);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x31));
}
