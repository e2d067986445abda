//! The advanced programmable interrupt controllers: a local APIC per vCPU, an I/O APIC for the devices, and
//! what carries messages between them (SDM vol. 3 ch. 11 "Advanced Programmable Interrupt Controller (APIC)";
//! the 82093AA datasheet).
//!
//! A local APIC is cut in two. [`ApicPort`] is its receiving side: what a message changes (IRR, TMR, pending
//! NMI, INIT and start-up) is atomic, so that device threads and other vCPUs deliver without a lock.
//! [`LocalApic`] is all the rest and belongs to the vCPU's thread, which asks [`LocalApic::interrupt_waits`]
//! on every entry to guest code; unless something has happened, that is one load.

pub mod bus;
pub mod io_apic;
pub mod local;
mod msr;
pub mod port;
mod registers;
mod saved;
mod timer;

pub use bus::{ApicBus, Destination, Message};
pub use io_apic::IoApic;
pub use local::{LocalApic, LocalApicWiring};
pub use msr::{MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_X2APIC};
pub use port::{ApicPort, LINT0, LINT1};
pub use timer::TIMER_HZ;

/// Makes a vCPU's thread look at its local APIC soon: out of guest code, out of its sleep after HLT. Called
/// from any thread, the vCPU's own included; never blocks.
pub trait Wake: Send + Sync {
    /// Something has come to be pending.
    fn wake(&self);
}

/// How the VM's time-stamp counter, before the offset of a vCPU, and the VM's clock relate.
pub trait TscTime: Send + Sync {
    /// When the counter reads `tsc`, on the VM's clock, rounded up; [`u64::MAX`] if that is never.
    fn deadline(&self, tsc: u64) -> u64;
}

/// What a vCPU takes besides maskable interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicSignal {
    /// A non-maskable interrupt.
    Nmi,
    /// INIT; the local APIC itself has been through it already.
    Init,
    /// Start-up at this page number.
    StartUp(u8),
}

/// Delivery modes, as redirection entries, the interrupt command register and local vectors number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// To all that the destination names.
    Fixed,
    /// To the one of them that does the least important work.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// Initialisation.
    Init,
    /// Start-up.
    StartUp,
    /// The 8259 is asked for the vector.
    ExtInt,
    /// 3, which is reserved (it was remote read).
    Reserved,
}

impl DeliveryMode {
    /// From bits 10-8 of a register.
    pub fn of(register: u32) -> Self {
        match register >> 8 & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => Self::Reserved,
        }
    }
}

#[cfg(test)]
mod tests;
