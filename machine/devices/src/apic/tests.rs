//! Local APICs and an I/O APIC on one bus.

mod io;
mod local;
mod messages;
mod modes;
mod timers;

use std::sync::{Arc, Mutex};

use super::*;
use crate::legacy::pic::Pic;
use crate::testing::{Calls, FakeClock, FakeTimer};
use crate::wiring::{IrqLine, IrqSink, MmioDevice, PortDevice, lock};

/// A counter of one tick per nanosecond, which began at 1000 when the VM's clock began.
struct Tsc;

impl TscTime for Tsc {
    fn deadline(&self, tsc: u64) -> u64 {
        tsc.saturating_sub(1000)
    }
}

struct Waker(Calls);

impl Wake for Waker {
    fn wake(&self) {
        (self.0.notify())();
    }
}

pub(super) struct Bench {
    pub clock: Arc<FakeClock>,
    pub timers: Vec<FakeTimer>,
    pub wakes: Vec<Calls>,
    pub bus: Arc<ApicBus>,
    pub pic: Arc<Mutex<Pic>>,
    pub io_apic: Arc<Mutex<IoApic>>,
    pub cpus: Vec<LocalApic>,
}

impl Bench {
    /// All software-enabled.
    pub fn new(cpus: usize) -> Self {
        let mut bench = Self::cold(cpus);
        for cpu in 0..cpus {
            bench.write(cpu, 0xf0, 0x1ff);
        }
        bench
    }

    /// As after power-on.
    pub fn cold(cpus: usize) -> Self {
        let clock = FakeClock::new();
        let wakes: Vec<Calls> = (0..cpus).map(|_| Calls::default()).collect();
        let timers: Vec<FakeTimer> = (0..cpus).map(|_| FakeTimer::default()).collect();
        let bus = ApicBus::new(wakes.iter().map(|calls| Arc::new(Waker(calls.clone())) as _).collect());
        let pic = Arc::new(Mutex::new(Pic::new(IrqLine::new(bus.port(0), LINT0))));
        let io_apic = Arc::new(Mutex::new(IoApic::new(cpus as u8, bus.clone())));
        bus.attach_io_apic(&io_apic);
        let cpus = (0..cpus)
            .map(|cpu| {
                let wiring = LocalApicWiring {
                    clock: clock.clone(),
                    tsc: Arc::new(Tsc),
                    timer: timers[cpu].boxed(),
                    pic: Some(pic.clone()),
                };
                LocalApic::new(cpu, 39, bus.clone(), wiring)
            })
            .collect();
        Self { clock, timers, wakes, bus, pic, io_apic, cpus }
    }

    pub fn read(&mut self, cpu: usize, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.cpus[cpu].read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&mut self, cpu: usize, offset: u64, value: u32) {
        self.cpus[cpu].write(offset, &value.to_le_bytes());
    }

    /// Writes the interrupt command register.
    pub fn command(&mut self, cpu: usize, high: u32, low: u32) {
        self.write(cpu, 0x310, high);
        self.write(cpu, 0x300, low);
    }

    /// Sets both halves of a redirection entry.
    pub fn redirect(&mut self, pin: u8, high: u32, low: u32) {
        self.write_io(0x11 + 2 * pin, high);
        self.write_io(0x10 + 2 * pin, low);
    }

    pub fn write_io(&mut self, register: u8, value: u32) {
        let mut io_apic = lock(&self.io_apic);
        io_apic.write(0, &[register]);
        io_apic.write(0x10, &value.to_le_bytes());
    }

    pub fn read_io(&mut self, register: u8) -> u32 {
        let mut io_apic = lock(&self.io_apic);
        let mut data = [0; 4];
        io_apic.write(0, &[register]);
        io_apic.read(0x10, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn pin(&self, pin: u32, asserted: bool) {
        self.io_apic.set_irq(pin, asserted);
    }

    /// Lets time pass, and alarms go off.
    pub fn advance(&mut self, ns: u64) {
        self.clock.advance(ns);
        let now = crate::wiring::VmClock::now(&*self.clock);
        for (cpu, timer) in self.timers.iter().enumerate() {
            if timer.take_due(now) {
                self.bus.port(cpu).timer_expired();
            }
        }
    }

    /// Takes all interrupts in turn, ending each, as a processor with interrupts enabled does.
    pub fn drain(&mut self, cpu: usize) -> Vec<u8> {
        let mut vectors = Vec::new();
        while let Some(vector) = self.cpus[cpu].acknowledge() {
            vectors.push(vector);
            self.write(cpu, 0xb0, 0);
            assert!(vectors.len() < 100, "an interrupt comes again and again");
        }
        vectors
    }

    /// All that each CPU takes.
    pub fn drain_all(&mut self) -> Vec<Vec<u8>> {
        (0..self.cpus.len()).map(|cpu| self.drain(cpu)).collect()
    }

    pub fn wakes(&self) -> Vec<u64> {
        self.wakes.iter().map(Calls::take).collect()
    }
}
