//! A guest that writes anything anywhere: no chip may panic, and whatever state it gets into must be one that
//! the chip accepts back from a file and goes on from alike.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use savestate::Persist;

use crate::acpi_pm::AcpiPm;
use crate::apic::{ApicBus, IoApic, LocalApic, LocalApicWiring, TscTime, Wake};
use crate::legacy::i8042::I8042;
use crate::legacy::pic::Pic;
use crate::legacy::pit::Pit;
use crate::legacy::rtc::Rtc;
use crate::legacy::uart::Uart;
use crate::pci::{HostBridge, PciRoot};
use crate::testing::{Calls, FakeClock, FakeTimer, Probe};
use crate::wiring::{IrqInputs, IrqSink, MmioDevice, PortDevice, SerialSink, VmClock, lock};

/// One thing that happens to a chip.
#[derive(Clone, Copy, Debug)]
enum Step {
    Read(u16),
    Write(u16, u32),
    /// Something from outside: input, an interrupt line, a button.
    Outside(u32),
    /// Time passes, by 2 to the power of this many nanoseconds, and the alarm goes off if due.
    Time(u32),
}

fn steps(registers: u16) -> impl Strategy<Value = Vec<Step>> {
    let register = 0..registers;
    // Bytes with few bits set or clear reach more than random ones.
    let value = prop_oneof![
        any::<u32>(),
        (0..32_u32).prop_map(|bit| 1 << bit),
        (0..256_u32),
        Just(0),
        Just(u32::MAX)
    ];
    let step = prop_oneof![
        3 => register.clone().prop_map(Step::Read),
        6 => (register, value).prop_map(|(register, value)| Step::Write(register, value)),
        2 => any::<u32>().prop_map(Step::Outside),
        2 => (0..58_u32).prop_map(Step::Time),
    ];
    prop::collection::vec(step, 1..200)
}

/// A chip with all it stands on.
struct Bench<C> {
    clock: Arc<FakeClock>,
    timer: FakeTimer,
    irq: Probe,
    calls: Calls,
    chip: C,
}

impl<C> Bench<C> {
    fn new(make: impl FnOnce(&Arc<FakeClock>, &FakeTimer, &Probe, &Calls) -> C) -> Self {
        let (clock, timer) = (FakeClock::new(), FakeTimer::default());
        let (irq, calls) = (Probe::default(), Calls::default());
        let chip = make(&clock, &timer, &irq, &calls);
        Self { clock, timer, irq, calls, chip }
    }

    fn pass(&self, power: u32) -> bool {
        // The sum of all stays below 2^63.
        if self.clock.now() < 1 << 60 {
            self.clock.advance(1 << power);
        }
        self.timer.take_due(self.clock.now())
    }
}

/// Takes a chip through the steps. After each, its state is one it accepts; and at the end it goes on from it
/// as if nothing had been.
fn abuse<C: Persist<State: PartialEq + std::fmt::Debug>>(
    bench: &mut Bench<C>,
    steps: &[Step],
    access: impl Fn(&mut C, Step),
    fire: impl Fn(&mut C),
) {
    for step in steps {
        match *step {
            Step::Time(power) if bench.pass(power) => fire(&mut bench.chip),
            Step::Time(_) => {}
            step => access(&mut bench.chip, step),
        }
        let state = bench.chip.save();
        bench.chip.check(&state).unwrap_or_else(|why| panic!("{why} after {step:?}: {state:x?}"));
    }
    // What happens by itself, such as an interrupt that is due, has happened after one restore.
    let state = bench.chip.save();
    bench.chip.commit(state);
    let (state, level) = (bench.chip.save(), bench.irq.level());
    bench.chip.commit(bench.chip.save());
    assert_eq!((bench.chip.save(), bench.irq.level()), (state, level));
    bench.calls.take();
}

/// How a chip in the port space takes a step, by bytes.
fn port<C: PortDevice>(outside: impl Fn(&mut C, u32)) -> impl Fn(&mut C, Step) {
    move |chip, step| match step {
        Step::Read(register) => drop(chip.read(register, 1)),
        Step::Write(register, value) => chip.write(register, 1, value & 0xff),
        Step::Outside(value) => outside(chip, value),
        Step::Time(_) => {}
    }
}

/// Takes what the lowest bits of a counter say.
struct Choosy(u8);

impl SerialSink for Choosy {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0 = self.0.wrapping_mul(5).wrapping_add(3);
        bytes.len().min(usize::from(self.0 >> 6))
    }
}

struct NoTsc;

impl TscTime for NoTsc {
    fn deadline(&self, tsc: u64) -> u64 {
        tsc
    }
}

impl Wake for Calls {
    fn wake(&self) {
        (self.notify())();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn uart(steps in steps(9)) {
        let mut bench =
            Bench::new(|_, _, irq, calls| Uart::new(irq.line(), Box::new(Choosy(1)), calls.notify()));
        // Committing drains into the sink; it is asked until it takes no more.
        let access = port(|uart: &mut Uart, value| match value % 4 {
            0 => uart.drain(),
            1 => drop(uart.receive_break()),
            _ => drop(uart.receive(&value.to_le_bytes().repeat(5)[..(value % 20) as usize])),
        });
        for step in steps {
            access(&mut bench.chip, step);
            let state = bench.chip.save();
            prop_assert!(bench.chip.check(&state).is_ok(), "after {step:?}: {state:?}");
        }
    }

    #[test]
    fn pic(steps in steps(7)) {
        let mut bench = Bench::new(|_, _, irq, _| Pic::new(irq.line()));
        let access = port(|pic: &mut Pic, value| match value % 4 {
            0 => drop(pic.acknowledge()),
            _ => pic.set_input(value >> 2 & 0x1f, value & 1 != 0),
        });
        abuse(&mut bench, &steps, access, |_| {});
    }

    #[test]
    fn pit(steps in steps(6)) {
        let mut bench = Bench::new(|clock, timer, irq, _| Pit::new(clock.clone(), timer.boxed(), irq.line()));
        abuse(&mut bench, &steps, port(|pit: &mut Pit, _| pit.fire()), Pit::fire);
    }

    #[test]
    fn rtc(steps in steps(3), wall in any::<i64>()) {
        let mut bench = Bench::new(|clock, timer, irq, _| {
            Rtc::new(clock.clone(), clock.clone(), timer.boxed(), irq.line())
        });
        bench.clock.set_wall(wall / 4);
        // The index is set often, or nothing but the seconds would be met.
        let access = |rtc: &mut Rtc, step| match step {
            Step::Write(register, value) => {
                rtc.write(0, 1, u32::from(register) * 5 + value % 5);
                rtc.write(1, 1, value >> 3 & 0xff);
            }
            Step::Outside(value) => rtc.write(0, 1, value & 0x7f),
            step => port(|_: &mut Rtc, _| {})(rtc, step),
        };
        abuse(&mut bench, &steps, access, Rtc::fire);
    }

    #[test]
    fn i8042(steps in steps(6)) {
        let mut bench = Bench::new(|_, _, irq, calls| I8042::new(irq.line(), irq.line(), calls.notify()));
        abuse(&mut bench, &steps, port(|_: &mut I8042, _| {}), |_| {});
    }

    #[test]
    fn acpi_pm(steps in steps(0x12)) {
        let mut bench = Bench::new(|clock, timer, irq, calls| {
            AcpiPm::new(clock.clone(), timer.boxed(), irq.line(), calls.notify())
        });
        let access = |pm: &mut AcpiPm, step| match step {
            Step::Write(offset, value) => {
                let size = 1 << (value % 3).min(offset.trailing_zeros());
                pm.write(offset, size, value & (u32::MAX >> (32 - 8 * u32::from(size))));
            }
            Step::Read(offset) => drop(pm.read(offset, 1)),
            Step::Outside(value) if value & 1 == 0 => drop(pm.press_power_button()),
            Step::Outside(value) => pm.raise_gpe(value as u8),
            Step::Time(_) => {}
        };
        abuse(&mut bench, &steps, access, AcpiPm::fire);
    }

    #[test]
    fn pci(steps in steps(8)) {
        let bridge = Arc::new(Mutex::new(HostBridge::new()));
        let mut bench = Bench::new(|_, _, _, _| PciRoot::new());
        bench.chip.add(0, 0, bridge.clone()).unwrap();
        let access = |root: &mut PciRoot, step| match step {
            Step::Outside(value) => root.write(0, 4, 0x8000_0000 | value & 0xff),
            Step::Write(offset, value) => root.write(offset, 1 << offset.trailing_zeros().min(2), value),
            step => port(|_: &mut PciRoot, _| {})(root, step),
        };
        abuse(&mut bench, &steps, access, |_| {});
        let bridge = lock(&bridge);
        prop_assert!(bridge.check(&bridge.save()).is_ok());
    }

    /// Registers by number up to 0x3f; beyond, model-specific ones.
    #[test]
    fn local_apic(steps in steps(0x90)) {
        let mut bench = Bench::new(|clock, timer, _, calls| {
            let bus = ApicBus::new(vec![Arc::new(calls.clone())]);
            let wiring = LocalApicWiring {
                clock: clock.clone(),
                tsc: Arc::new(NoTsc),
                timer: timer.boxed(),
                pic: None,
            };
            let mut apic = LocalApic::new(0, 39, bus.clone(), wiring);
            apic.firmware_setup();
            (bus, apic)
        });
        let port = bench.chip.0.port(0);
        for step in &steps {
            let bus = &bench.chip.0;
            let apic = &mut bench.chip.1;
            match *step {
                Step::Read(number @ 0..0x40) => apic.read(u64::from(number) << 4, &mut [0; 4]),
                Step::Write(number @ 0..0x40, value) => {
                    apic.write(u64::from(number) << 4, &value.to_le_bytes());
                }
                Step::Read(number) => drop(apic.read_msr(0x800 + u32::from(number) - 0x40)),
                Step::Write(0x40..0x48, value) => {
                    let base = 0xfee0_0000 | u64::from(value & 0xfff);
                    let _ = apic.write_msr(0x1b, base, 0);
                }
                Step::Write(0x48..0x50, value) => {
                    let _ = apic.write_msr(0x6e0, u64::from(value) << (value & 31), u64::from(value) << 40);
                }
                Step::Write(number, value) => {
                    let _ = apic.write_msr(0x800 + u32::from(number) - 0x50, value.into(), 0);
                }
                Step::Outside(value) => match value % 8 {
                    0 => drop(bus.send_msi(0xfee0_0000 | u64::from(value >> 3 & 0xf_f004), value >> 8)),
                    1 => drop(apic.acknowledge()),
                    2 => drop(apic.take_signal()),
                    3 => port.timer_expired(),
                    _ => port.set_irq(value >> 3 & 3, value & 0x80 != 0),
                },
                Step::Time(power) => {
                    // On `bench`, but the chip is borrowed.
                    if bench.clock.now() < 1 << 60 {
                        bench.clock.advance(1 << power);
                    }
                    if bench.timer.take_due(bench.clock.now()) {
                        port.timer_expired();
                    }
                }
            }
            let state = apic.save();
            prop_assert!(apic.check(&state).is_ok(), "{:?} after {step:?}: {state:x?}", apic.check(&state));
            // Twice, for an error vector may turn out to be an error.
            apic.interrupt_waits();
            let waits = apic.interrupt_waits();
            let state = apic.save();
            apic.commit(state.clone());
            prop_assert_eq!((apic.interrupt_waits(), apic.save()), (waits, state));
        }
        bench.calls.take();
    }

    #[test]
    fn io_apic(steps in steps(0x50)) {
        let mut bench = Bench::new(|_, _, _, calls| {
            let bus = ApicBus::new(vec![Arc::new(calls.clone())]);
            IoApic::new(1, bus)
        });
        let access = |io_apic: &mut IoApic, step| match step {
            Step::Read(offset) => io_apic.read(offset.into(), &mut [0; 4]),
            Step::Write(register, value) => {
                io_apic.write(0, &[register as u8]);
                io_apic.write(0x10, &value.to_le_bytes());
            }
            Step::Outside(value) if value & 1 == 0 => io_apic.write(0x40, &[(value >> 1) as u8]),
            Step::Outside(value) => io_apic.set_input(value >> 2 & 0x1f, value & 2 != 0),
            Step::Time(_) => {}
        };
        abuse(&mut bench, &steps, access, |_| {});
    }
}
