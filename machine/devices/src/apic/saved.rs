//! The APICs' saved states. A local APIC's is both its sides.

use std::sync::atomic::{AtomicU32, Ordering};

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::local::{LocalApic, LocalApicWiring, Registers, base, lvt, svr};
use super::port::{ApicPort, attention, error};
use super::registers::icr;
use super::timer::LocalTimer;

/// See [`LocalApic`] and [`ApicPort`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalApicStateV1 {
    base: u64,
    tpr: u8,
    svr: u32,
    esr: u32,
    icr: u64,
    lvt: [u32; lvt::COUNT],
    isr: [u32; 8],
    timer: LocalTimerStateV1,
    ldr: u32,
    dfr: u32,
    irr: [u32; 8],
    tmr: [u32; 8],
    errors: u32,
    pins: u32,
    start_up: u8,
    attention: u32,
}

/// See [`LocalTimer`]. The deadline is on the VM's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalTimerStateV1 {
    initial: u32,
    divide: u32,
    tsc_deadline: u64,
    deadline: Option<u64>,
}

impl Saved for LocalApicStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

fn load(register: &AtomicU32) -> u32 {
    register.load(Ordering::Acquire)
}

impl LocalApic {
    /// Whether a value of IA32_APIC_BASE is one that this APIC can have.
    fn admits_base(&self, value: u64) -> bool {
        let known = base::BSP | base::EXTD | base::EN | base::ADDRESS;
        value & (!known | self.reserved_address) == 0
            && value & (base::EN | base::EXTD) != base::EXTD
            && (value ^ self.regs.base) & base::BSP == 0
    }
}

fn admits_lvt(entries: &[u32; lvt::COUNT], software_enabled: bool) -> bool {
    entries.iter().enumerate().all(|(index, entry)| {
        let level = entry & lvt::TRIGGER_LEVEL != 0 && index == lvt::LINT0;
        let readable = if level { lvt::REMOTE_IRR } else { 0 };
        let reserved = !(lvt::WRITABLE[index] | readable);
        entry & reserved == 0 && (software_enabled || entry & lvt::MASK != 0)
    })
}

impl Persist for LocalApic {
    const KIND: &'static str = "local-apic";
    type State = LocalApicStateV1;

    fn save(&self) -> LocalApicStateV1 {
        let Self {
            reserved_address: _,
            bus: _,
            port,
            wiring: LocalApicWiring { clock: _, tsc: _, timer: _, pic: _ },
            regs,
            waits: _,
        } = self;
        let &Registers { base, tpr, svr, esr, icr, lvt, isr, timer } = regs;
        let LocalTimer { initial, divide, tsc_deadline, deadline } = timer;
        let ApicPort {
            id: _,
            wake: _,
            modes: _,
            ldr,
            dfr,
            priority: _,
            irr,
            tmr,
            errors,
            pins,
            start_up,
            attention,
        } = &**port;
        LocalApicStateV1 {
            base,
            tpr,
            svr,
            esr,
            icr,
            lvt,
            isr,
            timer: LocalTimerStateV1 { initial, divide, tsc_deadline, deadline },
            ldr: load(ldr),
            dfr: load(dfr),
            irr: irr.each_ref().map(load),
            tmr: tmr.each_ref().map(load),
            errors: load(errors),
            pins: load(pins),
            start_up: load(start_up) as u8,
            attention: load(attention),
        }
    }

    fn check(&self, state: &LocalApicStateV1) -> Result<(), Invalid> {
        const ERRORS: u32 =
            error::SEND_ILLEGAL_VECTOR | error::RECEIVE_ILLEGAL_VECTOR | error::ILLEGAL_REGISTER;
        let x2apic = state.base & base::EXTD != 0;
        let commands = if x2apic {
            0xffff_ffff_0000_0000 | icr::WRITABLE
        } else {
            0xff00_0000_0000_0000 | icr::WRITABLE
        };
        require(self.admits_base(state.base), "base has reserved bits or an invalid mode")?;
        require(state.svr & !svr::WRITABLE == 0, "svr has reserved bits")?;
        require((state.esr | state.errors) & !ERRORS == 0, "esr has unknown errors")?;
        require(state.icr & !commands == 0, "icr has reserved bits")?;
        let software_enabled = state.svr & svr::ENABLE != 0;
        require(admits_lvt(&state.lvt, software_enabled), "lvt has reserved bits")?;
        let vectors = [state.isr[0], state.irr[0], state.tmr[0]];
        require(vectors.iter().all(|word| word & 0xffff == 0), "a vector below 16 is noted")?;
        require(state.timer.divide & !0xb == 0, "divide has reserved bits")?;
        require(x2apic || state.ldr & 0x00ff_ffff == 0, "ldr has reserved bits")?;
        require(state.dfr & 0x0fff_ffff == 0x0fff_ffff, "dfr has reserved bits")?;
        require(state.pins & !3 == 0, "there are two pins")?;
        let known = attention::WORK | attention::EXT_INT | attention::SIGNALS;
        require(state.attention & !known == 0, "attention has unknown bits")
    }

    fn commit(&mut self, state: LocalApicStateV1) {
        let LocalApicStateV1 {
            base,
            tpr,
            svr,
            esr,
            icr,
            lvt,
            isr,
            timer: LocalTimerStateV1 { initial, divide, tsc_deadline, deadline },
            ldr,
            dfr,
            irr,
            tmr,
            errors,
            pins,
            start_up,
            attention,
        } = state;
        let timer = LocalTimer { initial, divide, tsc_deadline, deadline };
        self.regs = Registers { base, tpr, svr, esr, icr, lvt, isr, timer };
        let put = |register: &AtomicU32, value| register.store(value, Ordering::Release);
        let port = &self.port;
        put(&port.ldr, ldr);
        put(&port.dfr, dfr);
        for (register, value) in port.irr.iter().chain(&port.tmr).zip(irr.into_iter().chain(tmr)) {
            put(register, value);
        }
        put(&port.errors, errors);
        put(&port.pins, pins);
        put(&port.start_up, start_up.into());
        put(&port.attention, attention);
        self.show_modes();
        self.arm();
        self.update();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Bench;
    use super::*;
    use crate::apic::{ApicSignal, LINT0, LINT1, MSR_APIC_BASE, MSR_TSC_DEADLINE};
    use crate::testing::{refuses, transplant};
    use crate::wiring::{IrqSink, MmioDevice};

    /// A local APIC with something of everything going on.
    fn busy() -> Bench {
        let mut bench = Bench::new(2);
        bench.write(1, 0x350, 0x8062);
        bench.write(1, 0x360, 0x0400);
        bench.write(1, 0x370, 0x00fe);
        bench.write(1, 0xd0, 0x0200_0000);
        bench.write(1, 0xe0, 0x0fff_ffff);
        bench.write(1, 0x3e0, 0x3);
        bench.write(1, 0x320, 0x2_0031);
        bench.write(1, 0x380, 123_456);
        bench.command(1, 0x0100_0000, 0x0000_4005);
        bench.write(1, 0x280, 0);
        let port = bench.bus.port(1);
        port.interrupt(0x41, true);
        assert_eq!(bench.cpus[1].acknowledge(), Some(0xfe));
        bench.write(1, 0x80, 0x20);
        port.interrupt(0x07, false);
        port.set_irq(LINT0, true);
        port.set_irq(LINT1, true);
        port.start_up(0x9a);
        bench
    }

    #[test]
    fn saved_with_everything_pending() {
        let mut bench = busy();
        let mut other = Bench::cold(2);
        transplant(&bench.cpus[1], &mut other.cpus[1]);
        assert_eq!(other.cpus[1].save(), bench.cpus[1].save());
        assert_eq!(other.timers[1].deadline(), bench.timers[1].deadline());
        assert!(other.timers[1].deadline().is_some());
        for machine in [&mut bench, &mut other] {
            machine.advance(1_000_000);
            let cpu = &mut machine.cpus[1];
            assert_eq!(cpu.take_signal(), Some(ApicSignal::StartUp(0x9a)));
            assert_eq!(cpu.take_signal(), Some(ApicSignal::Nmi));
            cpu.write(0xb0, &[0; 4]);
            let vectors: Vec<u8> = std::iter::from_fn(|| {
                let vector = cpu.acknowledge();
                cpu.write(0xb0, &[0; 4]);
                vector
            })
            .take(5)
            .collect();
            assert_eq!(vectors, [0xfe, 0x62, 0x62, 0x62, 0x62]);
        }
        assert_eq!(other.cpus[1].save(), bench.cpus[1].save());
    }

    #[test]
    fn saved_as_x2apic_with_a_deadline() {
        let mut bench = Bench::new(2);
        let cpu = &mut bench.cpus[1];
        cpu.write_msr(MSR_APIC_BASE, 0xfee0_0c00, 0).unwrap();
        cpu.write_msr(0x832, 0x4_0031, 0).unwrap();
        cpu.write_msr(MSR_TSC_DEADLINE, 9000, 0).unwrap();
        let mut other = Bench::cold(2);
        transplant(&bench.cpus[1], &mut other.cpus[1]);
        assert_eq!(other.timers[1].deadline(), Some(8000));
        let cpu = &mut other.cpus[1];
        assert_eq!((cpu.read_msr(0x80d), cpu.read_msr(MSR_TSC_DEADLINE)), (Some(2), Some(9000)));
        assert!(other.bus.port(1).interrupt(0x55, false), "the port knows that it is enabled");
    }

    #[test]
    fn hostile_states_are_refused() {
        let apic = Bench::new(1).cpus.remove(0);
        assert!(refuses(
            &apic,
            &[
                |state| state.base = 0xfee0_0500,
                |state| state.base = 0xfee0_0800,
                |state| state.base = 0x80_0000_0900,
                |state| state.svr = 0x400,
                |state| (state.svr, state.lvt[0]) = (0xff, 0),
                |state| state.esr = 1,
                |state| state.errors = 1,
                |state| state.icr = 1 << 12,
                |state| state.icr = 1 << 40,
                |state| state.lvt[0] = 1 << 19,
                |state| state.lvt[3] = lvt::REMOTE_IRR,
                |state| state.lvt[4] = lvt::REMOTE_IRR | lvt::TRIGGER_LEVEL,
                |state| state.isr[0] = 1,
                |state| state.irr[0] = 0x8000,
                |state| state.tmr[0] = 2,
                |state| state.timer.divide = 4,
                |state| state.ldr = 1,
                |state| state.dfr = 0,
                |state| state.pins = 4,
                |state| state.attention = 1 << 31,
            ]
        ));
    }

    #[test]
    fn extreme_deadlines_are_survived() {
        let mut bench = Bench::new(1);
        for deadline in [0, 1, u64::MAX] {
            for entry in [0x31, 0x2_0031, 0x4_0031, 0x6_0031] {
                let mut state = bench.cpus[0].save();
                state.timer = LocalTimerStateV1 {
                    initial: u32::MAX,
                    divide: 0xa,
                    tsc_deadline: 1,
                    deadline: Some(deadline),
                };
                state.lvt[0] = entry;
                bench.cpus[0].check(&state).unwrap();
                bench.cpus[0].commit(state);
                bench.read(0, 0x390);
                bench.write(0, 0x3e0, 0);
                bench.bus.port(0).timer_expired();
                bench.cpus[0].interrupt_waits();
            }
        }
    }
}
