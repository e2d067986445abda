//! What carries interrupt messages between I/O APIC, devices and local APICs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::port::{attention, modes};
use super::{ApicPort, DeliveryMode, IoApic, Wake};
use crate::wiring::lock;

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Everybody.
    Broadcast,
    /// The one with this APIC ID.
    Physical(u32),
    /// All whose logical destination register it matches.
    Logical(u32),
}

impl Destination {
    /// From a field of 8 bits, as the I/O APIC, message-signalled interrupts and the xAPIC have it.
    pub fn from_byte(logical: bool, byte: u8) -> Self {
        match (logical, byte) {
            (true, set) => Self::Logical(set.into()),
            (false, 0xff) => Self::Broadcast,
            (false, id) => Self::Physical(id.into()),
        }
    }

    /// From a field of 32 bits, as the x2APIC has it.
    pub fn from_word(logical: bool, word: u32) -> Self {
        match (logical, word) {
            (_, u32::MAX) => Self::Broadcast,
            (true, set) => Self::Logical(set),
            (false, id) => Self::Physical(id),
        }
    }
}

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// To whom.
    pub destination: Destination,
    /// How.
    pub mode: DeliveryMode,
    /// Vector, or the page of a start-up.
    pub vector: u8,
    /// Level-triggered: its end is to be told to the I/O APIC.
    pub level: bool,
}

/// See the module. There is one per VM.
pub struct ApicBus {
    ports: Vec<Arc<ApicPort>>,
    io_apic: OnceLock<Weak<Mutex<IoApic>>>,
    /// Where the search among equals for the lowest priority begins.
    turn: AtomicUsize,
}

impl ApicBus {
    /// A bus with one port per vCPU, each with the way to wake it; APIC IDs count from 0.
    pub fn new(wakes: Vec<Arc<dyn Wake>>) -> Arc<Self> {
        let ports = (0..).zip(wakes);
        Arc::new(Self {
            ports: ports.map(|(id, wake)| Arc::new(ApicPort::new(id, wake))).collect(),
            io_apic: OnceLock::new(),
            turn: AtomicUsize::new(0),
        })
    }

    /// The receiving side of vCPU number `cpu`.
    pub fn port(&self, cpu: usize) -> Arc<ApicPort> {
        self.ports[cpu].clone()
    }

    /// Where ends of level-triggered interrupts are told. Only the first call counts.
    pub fn attach_io_apic(&self, io_apic: &Arc<Mutex<IoApic>>) {
        let _ = self.io_apic.set(Arc::downgrade(io_apic));
    }

    /// Delivers; says whether anyone accepted.
    pub fn deliver(&self, message: Message) -> bool {
        self.deliver_except(message, None)
    }

    /// As [`Self::deliver`], but not to the APIC with this ID.
    pub(super) fn deliver_except(&self, message: Message, except: Option<u32>) -> bool {
        let named = |port: &&Arc<ApicPort>| {
            port.has(modes::ENABLED) && Some(port.id()) != except && port.is_named_by(message.destination)
        };
        if message.mode == DeliveryMode::LowestPriority {
            return self.deliver_lowest(message, named);
        }
        if let Destination::Physical(id) = message.destination {
            // IDs are indices.
            let port = self.ports.get(id as usize).filter(named);
            return port.is_some_and(|port| Self::hand(port, message));
        }
        let mut accepted = false;
        for port in self.ports.iter().filter(named) {
            accepted |= Self::hand(port, message);
        }
        accepted
    }

    fn deliver_lowest(&self, message: Message, named: impl Fn(&&Arc<ApicPort>) -> bool) -> bool {
        let count = self.ports.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..count)
            .map(|i| &self.ports[(turn.wrapping_add(i)) % count])
            .filter(named)
            .filter(|port| port.has(modes::SOFTWARE_ENABLED))
            .min_by_key(|port| port.priority.load(Ordering::Relaxed))
            .is_some_and(|port| port.interrupt(message.vector, message.level))
    }

    fn hand(port: &ApicPort, message: Message) -> bool {
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                port.interrupt(message.vector, message.level)
            }
            DeliveryMode::Nmi => {
                port.nmi();
                true
            }
            DeliveryMode::Init => {
                port.init();
                true
            }
            DeliveryMode::StartUp => {
                port.start_up(message.vector);
                true
            }
            DeliveryMode::ExtInt => {
                port.post(attention::EVALUATE | attention::EXT_INT);
                true
            }
            // There is no system management mode.
            DeliveryMode::Smi | DeliveryMode::Reserved => false,
        }
    }

    /// A message-signalled interrupt: a write of `data` to `address` in 0xfeex_xxxx (SDM vol. 3, "Message
    /// Signalled Interrupts").
    pub fn send_msi(&self, address: u64, data: u32) -> bool {
        let logical = address & 1 << 2 != 0;
        self.deliver(Message {
            destination: Destination::from_byte(logical, (address >> 12) as u8),
            mode: DeliveryMode::of(data),
            vector: data as u8,
            level: data & 1 << 15 != 0,
        })
    }

    /// A level-triggered interrupt has ended at a local APIC.
    pub(super) fn broadcast_eoi(&self, vector: u8) {
        if let Some(io_apic) = self.io_apic.get().and_then(Weak::upgrade) {
            lock(&io_apic).eoi(vector);
        }
    }

    /// A local APIC has begun to accept interrupts.
    pub(super) fn retry(&self) {
        if let Some(io_apic) = self.io_apic.get().and_then(Weak::upgrade) {
            lock(&io_apic).retry();
        }
    }
}
