//! Destinations, delivery modes and shorthands.

use super::*;

#[test]
fn physical() {
    let mut bench = Bench::new(3);
    bench.command(0, 0x0200_0000, 0x4041);
    bench.command(1, 0x0500_0000, 0x4042);
    bench.command(2, 0xff00_0000, 0x4043);
    assert_eq!(bench.drain_all(), [vec![0x43], vec![0x43], vec![0x43, 0x41]]);
    assert_eq!(bench.wakes(), [1, 1, 1]);
}

#[test]
fn logical_flat_and_cluster() {
    let mut bench = Bench::new(4);
    for cpu in 0..4 {
        bench.write(cpu, 0xd0, 0x0100_0000 << cpu);
    }
    bench.command(0, 0x0600_0000, 0x4841);
    assert_eq!(bench.drain_all(), [vec![], vec![0x41], vec![0x41], vec![]]);
    for cpu in 0..4 {
        bench.write(cpu, 0xe0, 0x0fff_ffff);
        let (cluster, member) = (cpu as u32 / 2, cpu as u32 % 2);
        bench.write(cpu, 0xd0, cluster << 28 | 0x0100_0000 << member);
    }
    bench.command(0, 0x1300_0000, 0x4842);
    bench.command(0, 0xf100_0000, 0x4843);
    bench.command(0, 0x0200_0000, 0x4844);
    bench.command(0, 0x2f00_0000, 0x4845);
    assert_eq!(bench.drain_all(), [vec![0x43], vec![0x44], vec![0x43, 0x42], vec![0x42]]);
}

#[test]
fn shorthands() {
    let mut bench = Bench::new(3);
    bench.command(1, 0, 0x4_4041);
    bench.command(1, 0, 0x8_4042);
    bench.command(1, 0, 0xc_4043);
    assert_eq!(bench.drain_all(), [vec![0x43, 0x42], vec![0x42, 0x41], vec![0x43, 0x42]]);
    assert_eq!(bench.read(1, 0x300), 0xc_4043);
}

#[test]
fn lowest_priority_goes_where_least_is_done_and_takes_turns() {
    let mut bench = Bench::new(3);
    bench.cpus[0].set_task_priority(3);
    for _ in 0..4 {
        bench.bus.send_msi(0xfeef_f000, 0x141);
        let taken = bench.drain_all();
        assert!(taken[0].is_empty() && taken[1].len() + taken[2].len() == 1);
    }
    bench.cpus[1].set_task_priority(3);
    bench.cpus[2].set_task_priority(3);
    let mut seen = [0; 3];
    for _ in 0..6 {
        bench.bus.send_msi(0xfeef_f000, 0x141);
        for (count, taken) in seen.iter_mut().zip(bench.drain_all()) {
            *count += taken.len();
        }
    }
    assert_eq!(seen, [2, 2, 2]);
    // One that is disabled is no candidate, however little it does.
    bench.write(1, 0xf0, 0xff);
    bench.write(2, 0xf0, 0xff);
    assert!(bench.bus.send_msi(0xfeef_f000, 0x141));
    assert_eq!(bench.drain(0), [0x41]);
    bench.write(0, 0xf0, 0xff);
    assert!(!bench.bus.send_msi(0xfeef_f000, 0x141));
}

#[test]
fn starting_an_application_processor() {
    let mut bench = Bench::cold(2);
    bench.command(0, 0x0100_0000, 0xc500);
    assert_eq!(bench.wakes(), [0, 1]);
    bench.command(0, 0x0100_0000, 0x8500);
    bench.command(0, 0x0100_0000, 0x4608);
    bench.command(0, 0x0100_0000, 0x4609);
    assert_eq!(bench.cpus[1].take_signal(), Some(ApicSignal::Init));
    assert_eq!(bench.cpus[1].take_signal(), Some(ApicSignal::StartUp(9)));
    assert_eq!(bench.cpus[1].take_signal(), None);
    // A start-up from before an INIT is forgotten.
    bench.command(0, 0x0100_0000, 0x4608);
    bench.command(0, 0x0100_0000, 0xc500);
    assert_eq!(bench.cpus[1].take_signal(), Some(ApicSignal::Init));
    assert_eq!(bench.cpus[1].take_signal(), None);
    assert_eq!(bench.cpus[0].take_signal(), None);
}

#[test]
fn init_clears_the_local_apic() {
    let mut bench = Bench::new(2);
    bench.write(1, 0xd0, 0x0200_0000);
    bench.write(1, 0x80, 0x20);
    bench.write(1, 0x380, 1000);
    bench.bus.port(1).interrupt(0x99, true);
    bench.command(0, 0x0100_0000, 0xc500);
    assert_eq!(bench.cpus[1].take_signal(), Some(ApicSignal::Init));
    let fresh = Bench::cold(2).cpus.remove(1);
    assert_eq!(bench.cpus[1].regs, fresh.regs);
    assert_eq!(bench.timers[1].deadline(), None);
    assert_eq!((bench.read(1, 0x240), bench.read(1, 0xd0)), (0, 0));
    assert!(!bench.cpus[1].interrupt_waits());
}

#[test]
fn external_interrupt_by_message() {
    let mut bench = Bench::new(2);
    for (register, value) in [(0, 0x11), (1, 0x30), (1, 4), (1, 1)] {
        lock(&bench.pic).write(register, 1, value);
    }
    bench.pic.set_irq(0, true);
    bench.redirect(0, 0x0100_0000, 0x700);
    bench.pin(0, true);
    assert_eq!(bench.cpus[1].acknowledge(), Some(0x30));
    assert_eq!(bench.cpus[1].acknowledge(), None);
}

#[test]
fn deliveries_from_other_threads_are_all_seen() {
    let mut bench = Bench::new(1);
    let port = bench.bus.port(0);
    let sent: usize = 20_000;
    std::thread::scope(|scope| {
        for vector in [0x41, 0x52, 0x63] {
            let port = port.clone();
            scope.spawn(move || {
                for _ in 0..sent {
                    // The next only after the last was taken, so that each counts.
                    while port.irr[usize::from(vector / 32)].load(std::sync::atomic::Ordering::Acquire)
                        & 1 << (vector % 32)
                        != 0
                    {
                        std::thread::yield_now();
                    }
                    port.interrupt(vector, false);
                }
            });
        }
        let mut taken = 0;
        while taken < 3 * sent {
            if bench.cpus[0].interrupt_waits() {
                let vector = bench.cpus[0].acknowledge();
                assert!(matches!(vector, Some(0x41 | 0x52 | 0x63)));
                bench.write(0, 0xb0, 0);
                taken += 1;
            } else {
                std::thread::yield_now();
            }
        }
    });
    assert!(!bench.cpus[0].interrupt_waits());
}

#[test]
fn two_nmis_are_two_and_more_are_not() {
    let mut bench = Bench::new(2);
    for count in 1..=4_usize {
        for _ in 0..count {
            bench.command(0, 0x0100_0000, 0x4400);
        }
        let cpu = &mut bench.cpus[1];
        let taken = std::iter::from_fn(|| cpu.take_signal()).take(9).collect::<Vec<_>>();
        assert_eq!(taken, vec![ApicSignal::Nmi; count.min(2)], "of {count}");
    }
    assert_eq!(bench.wakes()[1], 1 + 2 + 2 + 2, "each that is news wakes");
}
