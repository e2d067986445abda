//! What the monitor and its interpreter see of the machine around a vCPU.

use x86::paging::PageTables;

/// The machine as one vCPU sees it: guest-physical memory, ports, its local APIC, its clock. The board
/// implements it; nothing above knows a device.
///
/// [`PageTables`] gives the page walker's view of the same memory.
pub trait Environment: PageTables {
    /// Reads guest-physical memory, RAM or device; what answers nowhere reads as ones.
    fn read_memory(&mut self, gpa: u64, data: &mut [u8]);

    /// Writes guest-physical memory, RAM or device; what answers nowhere is dropped.
    fn write_memory(&mut self, gpa: u64, data: &[u8]);

    /// Reads an I/O port; `size` is 1, 2 or 4.
    fn read_port(&mut self, port: u16, size: u8) -> u32;

    /// Writes an I/O port; `size` is 1, 2 or 4.
    fn write_port(&mut self, port: u16, size: u8, value: u32);

    /// CPUID as offered to the guest; `xcr0` and `osxsave` are the vCPU's own, since leaves 1, 7 and D show them.
    fn cpuid(&self, leaf: u32, subleaf: u32, osxsave: bool, xcr0: u64) -> [u32; 4];

    /// Width of a guest-physical address. Every walk of the page tables asks; an implementation that knows the
    /// answer without CPUID should say it.
    fn physical_bits(&self) -> u8 {
        (self.cpuid(0x8000_0008, 0, false, 0)[0] as u8).clamp(32, 52)
    }

    /// The host's time-stamp counter as the VM sees it, before the vCPU's own `tsc_offset`.
    fn tsc(&self) -> u64;

    /// Reads an MSR of the local APIC (APIC base, TSC deadline, x2APIC registers); `None` is #GP.
    fn read_apic_msr(&mut self, msr: u32) -> Option<u64>;

    /// Writes an MSR of the local APIC; `None` is #GP. `tsc_offset` relates a TSC deadline to [`Self::tsc`].
    fn write_apic_msr(&mut self, msr: u32, value: u64, tsc_offset: u64) -> Option<()>;

    /// CR8: the task priority, 0 to 15.
    fn task_priority(&mut self) -> u8;

    /// Writes CR8.
    fn set_task_priority(&mut self, priority: u8);

    /// Whether a maskable interrupt waits that the task priority lets through.
    fn interrupt_waits(&mut self) -> bool;

    /// Acknowledges the highest such interrupt.
    fn acknowledge_interrupt(&mut self) -> Option<u8>;

    /// Whether [`Self::take_signal`] may have one.
    fn signal_waits(&self) -> bool;

    /// Takes a waiting signal other than a maskable interrupt.
    fn take_signal(&mut self) -> Option<Signal>;

    /// Waits until [`Self::interrupt_waits`] may have become true, a signal waits, the vCPU is kicked or the
    /// VM is to stop. May return early.
    fn wait(&mut self);

    /// As [`Self::wait`], but a maskable interrupt is no reason to return: the vCPU is halted with IF clear, or
    /// awaits its start-up. An implementation that lets it be one burns processor time in the meantime.
    fn wait_masked(&mut self) {
        self.wait();
    }

    /// Whether this vCPU's thread is to return from the dispatcher (power-off, reset, pause, quit).
    fn stop_requested(&self) -> bool;
}

/// What reaches a vCPU beside maskable interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: to the state of SDM vol. 3 table 9-1, then wait for start-up.
    Init,
    /// Start-up inter-processor interrupt with its page number.
    StartUp(u8),
}
