//! The machine as one vCPU sees it: the board's [`Environment`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::apic::{ApicSignal, LocalApic, TIMER_HZ};
use devices::bus::{MmioBus, PortBus};
use devices::wiring::MmioDevice;
use dispatcher::Dispatcher;
use memory::{GuestRam, PAGE_SIZE};
use vcpu::{Environment, Signal};
use x86::Xcr0;
use x86::cpuid::{CpuidState, CpuidTable};
use x86::paging::PageTables;

use crate::clock::Clock;
use crate::masked::Masked;
use crate::stop::{StopReason, StopSwitch};
use crate::waker::Waker;

/// CPUID leaf 1, EDX: the local APIC is enabled.
const EDX_APIC: u32 = 1 << 9;
/// CPUID leaf of the TSC's crystal.
const CRYSTAL: u32 = 0x15;

/// What the vCPUs of a machine share.
#[derive(Clone)]
pub struct Shared {
    /// RAM.
    pub ram: GuestRam,
    /// I/O ports.
    pub ports: Arc<PortBus>,
    /// Memory-mapped devices.
    pub mmio: Arc<MmioBus>,
    /// Time.
    pub clock: Arc<Clock>,
    /// CPUID as the guest sees it.
    pub cpuid: Arc<CpuidTable>,
    /// How the machine is stopped.
    pub stop: Arc<StopSwitch>,
    /// Set while a debugger calls the vCPUs away from guest code.
    pub called: Option<Arc<AtomicBool>>,
    /// Who waits for what only another can send.
    pub masked: Arc<Masked>,
}

/// A vCPU, with or without a thread.
pub(crate) struct Processor {
    pub(crate) dispatcher: Dispatcher,
    pub(crate) view: ProcessorView,
    pub(crate) waker: Arc<Waker>,
}

/// One vCPU's view.
pub struct ProcessorView {
    shared: Shared,
    apic_id: u32,
    apic: LocalApic,
    waker: Arc<Waker>,
}

impl ProcessorView {
    /// The view of vCPU number `apic_id`.
    pub fn new(shared: Shared, apic_id: u32, apic: LocalApic, waker: Arc<Waker>) -> Self {
        Self { shared, apic_id, apic, waker }
    }

    /// Its local APIC, while it does not run.
    pub fn apic_mut(&mut self) -> &mut LocalApic {
        &mut self.apic
    }

    /// The machine's RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.shared.ram
    }

    /// Calls `part` with each piece of an access that lies in one page: who answers may change at its end.
    fn by_page(gpa: u64, len: usize, mut part: impl FnMut(u64, std::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            // Past the end of the address space is its start; the caller's addresses have 52 bits at most.
            let address = gpa.wrapping_add(done as u64);
            let step = ((PAGE_SIZE - address % PAGE_SIZE) as usize).min(len - done);
            part(address, done..done + step);
            done += step;
        }
    }

    /// The offset into the local APIC's page.
    fn apic_offset(&self, gpa: u64) -> Option<u64> {
        self.apic.page().filter(|page| gpa & !(PAGE_SIZE - 1) == *page).map(|page| gpa - page)
    }
}

impl PageTables for ProcessorView {
    fn read_u32(&self, gpa: u64) -> u32 {
        self.shared.ram.read_u32(gpa).unwrap_or(u32::MAX)
    }

    fn read_u64(&self, gpa: u64) -> u64 {
        self.shared.ram.read_u64(gpa).unwrap_or(u64::MAX)
    }

    fn compare_exchange_u32(&self, gpa: u64, current: u32, new: u32) -> bool {
        let exchanged = self.shared.ram.compare_exchange_u32(gpa, current, new);
        exchanged.is_ok_and(|result| result.is_ok()) || exchanged.is_err()
    }

    fn compare_exchange_u64(&self, gpa: u64, current: u64, new: u64) -> bool {
        let exchanged = self.shared.ram.compare_exchange_u64(gpa, current, new);
        exchanged.is_ok_and(|result| result.is_ok()) || exchanged.is_err()
    }
}

impl Environment for ProcessorView {
    fn read_memory(&mut self, gpa: u64, data: &mut [u8]) {
        // What instructions read, in one access each: others may be writing there.
        let ram = &self.shared.ram;
        let read = match data {
            [byte] => ram.read_u8(gpa).map(|value| *byte = value),
            [_, _] => ram.read_u16(gpa).map(|value| data.copy_from_slice(&value.to_le_bytes())),
            [_, _, _, _] => ram.read_u32(gpa).map(|value| data.copy_from_slice(&value.to_le_bytes())),
            [_, _, _, _, _, _, _, _] => {
                ram.read_u64(gpa).map(|value| data.copy_from_slice(&value.to_le_bytes()))
            }
            // An error leaves the buffer undefined; it is filled anew below.
            _ => ram.read(gpa, data),
        };
        if read.is_ok() {
            return;
        }
        Self::by_page(gpa, data.len(), |address, range| {
            let part = &mut data[range];
            if let Some(offset) = self.apic_offset(address) {
                self.apic.read(offset, part);
            } else if self.shared.ram.read(address, part).is_err() {
                self.shared.mmio.read(address, part);
            }
        });
    }

    fn write_memory(&mut self, gpa: u64, data: &[u8]) {
        let ram = &self.shared.ram;
        let written = match *data {
            [byte] => ram.write_u8(gpa, byte),
            [a, b] => ram.write_u16(gpa, u16::from_le_bytes([a, b])),
            [a, b, c, d] => ram.write_u32(gpa, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => ram.write_u64(gpa, u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            _ => ram.write(gpa, data),
        };
        if written.is_ok() {
            return;
        }
        Self::by_page(gpa, data.len(), |address, range| {
            let part = &data[range];
            if let Some(offset) = self.apic_offset(address) {
                self.apic.write(offset, part);
            } else if self.shared.ram.write(address, part).is_err() {
                self.shared.mmio.write(address, part);
            }
        });
    }

    fn read_port(&mut self, port: u16, size: u8) -> u32 {
        self.shared.ports.read(port, size)
    }

    fn write_port(&mut self, port: u16, size: u8, value: u32) {
        self.shared.ports.write(port, size, value);
    }

    fn cpuid(&self, leaf: u32, subleaf: u32, osxsave: bool, xcr0: u64) -> [u32; 4] {
        let state = CpuidState { apic_id: self.apic_id, osxsave, xcr0: Xcr0::from_bits_retain(xcr0) };
        let mut answer = self.shared.cpuid.lookup(leaf, subleaf, &state);
        match leaf {
            1 if !self.apic.is_enabled() => answer[3] &= !EDX_APIC,
            // Crystal and ratio, where there is such a leaf: the local APIC's timer counts the crystal.
            CRYSTAL if answer != [0; 4] => {
                let tsc_khz = (self.shared.clock.tsc_hz() / 1000) as u32;
                answer = [(TIMER_HZ / 1000) as u32, tsc_khz, TIMER_HZ as u32, 0];
            }
            _ => {}
        }
        answer
    }

    fn physical_bits(&self) -> u8 {
        self.shared.cpuid.physical_bits()
    }

    fn tsc(&self) -> u64 {
        self.shared.clock.tsc()
    }

    fn read_apic_msr(&mut self, msr: u32) -> Option<u64> {
        self.apic.read_msr(msr)
    }

    fn write_apic_msr(&mut self, msr: u32, value: u64, tsc_offset: u64) -> Option<()> {
        self.apic.write_msr(msr, value, tsc_offset)
    }

    fn task_priority(&mut self) -> u8 {
        self.apic.task_priority()
    }

    fn set_task_priority(&mut self, priority: u8) {
        self.apic.set_task_priority(priority);
    }

    fn interrupt_waits(&mut self) -> bool {
        self.apic.interrupt_waits()
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        self.apic.acknowledge()
    }

    fn signal_waits(&self) -> bool {
        self.apic.signal_waits()
    }

    fn take_signal(&mut self) -> Option<Signal> {
        Some(match self.apic.take_signal()? {
            ApicSignal::Nmi => Signal::Nmi,
            ApicSignal::Init => Signal::Init,
            ApicSignal::StartUp(page) => Signal::StartUp(page),
        })
    }

    fn wait(&mut self) {
        if !self.shared.stop.is_set() {
            self.waker.sleep();
        }
    }

    fn wait_masked(&mut self) {
        if self.shared.masked.enter() {
            self.shared.stop.stop(StopReason::Dead);
        } else {
            // An interrupt wakes once and is then known to be there: no further one is told of until it is taken.
            self.wait();
        }
        self.shared.masked.leave();
    }

    fn stop_requested(&self) -> bool {
        self.shared.stop.is_set()
            || self.shared.called.as_ref().is_some_and(|called| called.load(Ordering::Acquire))
    }
}
