//! A machine of RAM, for the interpreter's routines: no device answers, nothing interrupts.

use std::sync::OnceLock;

use memory::GuestRam;
use vcpu::{Environment, Signal};
use x86::paging::PageTables;

/// RAM, and nothing else.
pub struct Plain(pub GuestRam);

/// CPUID's leaf 0, which is slow to ask for in a VM.
fn vendor() -> [u32; 4] {
    static LEAF: OnceLock<[u32; 4]> = OnceLock::new();
    *LEAF.get_or_init(|| {
        let host::cpu::Cpuid { eax, ebx, ecx, edx } = host::cpu::cpuid(0, 0);
        [eax, ebx, ecx, edx]
    })
}

impl PageTables for Plain {
    fn read_u32(&self, gpa: u64) -> u32 {
        self.0.read_u32(gpa).unwrap_or(u32::MAX)
    }

    fn read_u64(&self, gpa: u64) -> u64 {
        self.0.read_u64(gpa).unwrap_or(u64::MAX)
    }

    fn compare_exchange_u32(&self, gpa: u64, current: u32, new: u32) -> bool {
        self.0.compare_exchange_u32(gpa, current, new).map_or(true, |r| r.is_ok())
    }

    fn compare_exchange_u64(&self, gpa: u64, current: u64, new: u64) -> bool {
        self.0.compare_exchange_u64(gpa, current, new).map_or(true, |r| r.is_ok())
    }
}

impl Environment for Plain {
    fn read_memory(&mut self, gpa: u64, data: &mut [u8]) {
        self.0.read(gpa, data).expect("in RAM");
    }

    fn write_memory(&mut self, gpa: u64, data: &[u8]) {
        self.0.write(gpa, data).expect("in RAM");
    }

    fn read_port(&mut self, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }

    fn write_port(&mut self, _port: u16, _size: u8, _value: u32) {}

    /// Every walk asks for the width of physical addresses; whose processor it is stands in leaf 0.
    fn cpuid(&self, leaf: u32, _subleaf: u32, _osxsave: bool, _xcr0: u64) -> [u32; 4] {
        match leaf {
            0 => vendor(),
            0x8000_0008 => [48, 0, 0, 0],
            _ => [0; 4],
        }
    }

    fn tsc(&self) -> u64 {
        0
    }

    fn read_apic_msr(&mut self, _msr: u32) -> Option<u64> {
        None
    }

    fn write_apic_msr(&mut self, _msr: u32, _value: u64, _tsc_offset: u64) -> Option<()> {
        None
    }

    fn task_priority(&mut self) -> u8 {
        0
    }

    fn set_task_priority(&mut self, _priority: u8) {}

    fn interrupt_waits(&mut self) -> bool {
        false
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        None
    }

    fn signal_waits(&self) -> bool {
        false
    }

    fn take_signal(&mut self) -> Option<Signal> {
        None
    }

    fn wait(&mut self) {}

    fn stop_requested(&self) -> bool {
        false
    }
}
