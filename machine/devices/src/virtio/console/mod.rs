//! The console device (5.3): ports, each a stream of bytes between guest and host.
//!
//! Port 0 is a console (Linux: hvc0); further ones may have names, by which programs in the guest find them (Linux:
//! `/dev/virtio-ports/NAME`). A driver without MULTIPORT sees port 0 alone. Bytes and back-pressure go as with a UART:
//! [`SerialSink`] takes what the guest sends as far as there is room and [`Console::drain`] says when there is more;
//! [`Console::receive`] takes what comes for the guest and [`PortWiring::room`] says the same.
//!
//! # What is told to the driver
//! Control messages are not queued: each port has a set of things that are still to be told, and they are told as they
//! are when the driver has a buffer for them. So a driver that reads none costs nothing, and one that asks for the
//! same a thousand times is told once.
//!
//! The size of the window goes out with the rows first, the other way round than in 5.3.6.2: so do QEMU and Linux
//! have it. In the configuration the columns come first.
//!
//! Not modelled: emergency writes, ports that come and go while the machine runs.

mod port;
mod saved;

pub use saved::ConsoleStateV1;

use std::sync::Arc;

use super::chain::Chain;
use super::{Activation, DeviceType, Interrupts, QueuePosition, Queues, VirtioDevice, read_structure};
use crate::wiring::{Notify, SerialSink};
use port::{Port, owed};

/// As many ports as a device can have here.
pub const MOST_PORTS: usize = 31;
/// The longest name that is told.
pub const MOST_NAME: usize = 64;

/// VIRTIO_CONSOLE_F_SIZE.
const F_SIZE: u64 = 1 << 0;
/// VIRTIO_CONSOLE_F_MULTIPORT.
const F_MULTIPORT: u64 = 1 << 1;

/// `event` of a control message.
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const DEVICE_ADD: u16 = 1;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const CONSOLE_PORT: u16 = 4;
    pub(super) const RESIZE: u16 = 5;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

/// Length of `struct virtio_console_control`.
const CONTROL: usize = 8;

/// Numbers of the queues.
mod queue {
    pub(super) const CONTROL_RX: u16 = 2;
    pub(super) const CONTROL_TX: u16 = 3;

    /// A port's own, to the guest and from it.
    pub(super) fn of(port: usize) -> (u16, u16) {
        // There are at most MOST_PORTS.
        let first = if port == 0 { 0 } else { 2 * port as u16 + 2 };
        (first, first + 1)
    }

    /// Which port a queue belongs to.
    pub(super) fn port(queue: u16) -> usize {
        usize::from(if queue < 2 { 0 } else { (queue - 2) / 2 })
    }
}

/// The far end of a port.
pub struct PortWiring {
    /// By which the guest finds it; empty for none.
    pub name: String,
    /// It is a console.
    pub console: bool,
    /// Takes what the guest sends. [`Console::drain`] is called when it has room again.
    pub output: Box<dyn SerialSink>,
    /// The guest has room for input again. Called with the device locked.
    pub room: Notify,
}

/// Of the window a console is shown in; all zero if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// The device.
pub struct Console {
    // Volatile state, with each port's wiring.
    ports: Vec<Port>,
    size: Size,
    /// The driver knows more than port 0.
    multiport: bool,
    queues: Queues,
    interrupts: Option<Arc<Interrupts>>,
}

impl Console {
    /// A device with these ports, at least one and at most [`MOST_PORTS`]. The host's ends are closed.
    pub fn new(ports: Vec<PortWiring>) -> Self {
        assert!((1..=MOST_PORTS).contains(&ports.len()), "a console device has 1 to {MOST_PORTS} ports");
        Self {
            ports: ports.into_iter().map(Port::new).collect(),
            size: Size::default(),
            multiport: false,
            queues: Queues::default(),
            interrupts: None,
        }
    }

    /// Somebody is at the host's end of a port, or nobody is any more.
    pub fn set_open(&mut self, port: usize, open: bool) {
        if let Some(port) = self.ports.get_mut(port)
            && std::mem::replace(&mut port.host_open, open) != open
        {
            if !open {
                port.held.clear();
            }
            port.owed |= if port.ready { owed::OPEN } else { 0 };
            self.tell();
        }
        self.drain(port);
    }

    /// The window has this size now.
    pub fn set_size(&mut self, size: Size) {
        if std::mem::replace(&mut self.size, size) == size {
            return;
        }
        for port in self.ports.iter_mut().filter(|port| port.ready && port.wiring.console) {
            port.owed |= owed::SIZE;
        }
        self.tell();
        if let Some(interrupts) = &self.interrupts {
            interrupts.config_changed();
        }
    }

    /// Bytes for the guest; says how many it took. [`PortWiring::room`] is called when the rest may be offered again.
    pub fn receive(&mut self, port: usize, bytes: &[u8]) -> usize {
        let (number, _) = queue::of(port);
        match (self.ports.get_mut(port), self.queues.get(number)) {
            (Some(port), Some(queue)) => port.receive(queue, bytes),
            _ => 0,
        }
    }

    /// The far end has room again, after it took less than it was given.
    pub fn drain(&mut self, port: usize) {
        let (_, number) = queue::of(port);
        if let (Some(port), Some(queue)) = (self.ports.get_mut(port), self.queues.get(number)) {
            port.transmit(queue);
        }
    }

    /// Takes the driver's control messages.
    fn control(&mut self) {
        while let Some(mut chain) = self.queues.get(queue::CONTROL_TX).and_then(|queue| queue.pop()) {
            match chain.read_array() {
                Ok(message) => self.hear(message),
                Err(error) => tracing::debug!("a control message: {error}"),
            }
            if let Some(queue) = self.queues.get(queue::CONTROL_TX) {
                queue.finish(chain, 0);
            }
        }
        self.tell();
    }

    fn hear(&mut self, message: [u8; CONTROL]) {
        let [a, b, c, d, event_low, event_high, value_low, value_high] = message;
        let id = u32::from_le_bytes([a, b, c, d]);
        let set = [value_low, value_high] != [0; 2];
        let port = usize::try_from(id).ok().and_then(|id| self.ports.get_mut(id));
        match (u16::from_le_bytes([event_low, event_high]), port) {
            (event::DEVICE_READY, _) if set => {
                self.ports.iter_mut().for_each(|port| port.owed |= owed::ADD);
            }
            (event::PORT_READY, Some(port)) if set => {
                port.ready = true;
                port.owed |= owed::OPEN;
                port.owed |= if port.wiring.console { owed::CONSOLE | owed::SIZE } else { 0 };
                port.owed |= if port.wiring.name.is_empty() { 0 } else { owed::NAME };
            }
            (event::PORT_OPEN, Some(port)) => {
                port.guest_open = set;
                (port.wiring.room)();
            }
            (event, _) => tracing::debug!("control message {event} of port {id} says nothing"),
        }
    }

    /// Tells the driver what is owed to it, as far as it has buffers.
    fn tell(&mut self) {
        let mut used = false;
        for id in 0..self.ports.len() {
            while let Some(what) = lowest(self.ports[id].owed)
                && let Some(mut chain) = self.queues.get(queue::CONTROL_RX).and_then(|queue| queue.pop())
            {
                let written = self.write_message(id, what, &mut chain);
                self.ports[id].owed &= !what;
                if let Some(queue) = self.queues.get(queue::CONTROL_RX) {
                    queue.push(chain, written);
                    used = true;
                }
            }
        }
        if used && let Some(queue) = self.queues.get(queue::CONTROL_RX) {
            queue.interrupt();
        }
    }

    /// Writes one message; says how long it is. One that does not fit is lost.
    fn write_message(&self, id: usize, what: u8, chain: &mut Chain) -> u32 {
        let port = &self.ports[id];
        let Size { columns, rows } = self.size;
        let (event, value, more) = match what {
            owed::ADD => (event::DEVICE_ADD, 1, vec![]),
            owed::CONSOLE => (event::CONSOLE_PORT, 1, vec![]),
            owed::SIZE => (event::RESIZE, 0, [rows.to_le_bytes(), columns.to_le_bytes()].concat()),
            owed::NAME => {
                let name = port.wiring.name.as_bytes();
                (event::PORT_NAME, 1, name[..name.len().min(MOST_NAME)].to_vec())
            }
            _ => (event::PORT_OPEN, u16::from(port.host_open), vec![]),
        };
        // There are at most MOST_PORTS.
        let mut message = (id as u32).to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(more);
        match chain.write(&message) {
            Ok(()) => message.len() as u32,
            Err(error) => {
                tracing::debug!("control message {event} of port {id}: {error}");
                0
            }
        }
    }
}

/// The lowest bit that is set.
fn lowest(bits: u8) -> Option<u8> {
    (bits != 0).then(|| bits & bits.wrapping_neg())
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn features(&self) -> u64 {
        F_SIZE | F_MULTIPORT
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![128; 2 * self.ports.len() + 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let Size { columns, rows } = self.size;
        let mut config = [columns.to_le_bytes(), rows.to_le_bytes()].concat();
        // There are at most MOST_PORTS.
        config.extend((self.ports.len() as u32).to_le_bytes());
        read_structure(&config, offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, activation: Activation) {
        self.multiport = activation.features & F_MULTIPORT != 0;
        self.queues = activation.queues;
        self.interrupts = Some(activation.interrupts);
        // Without control messages there is nobody to say so.
        self.ports[0].guest_open = !self.multiport;
    }

    fn notify(&mut self, queue: u16) {
        match queue {
            queue::CONTROL_RX => self.tell(),
            queue::CONTROL_TX => self.control(),
            queue => {
                let port = queue::port(queue);
                if queue % 2 == 1 {
                    self.drain(port);
                } else if let Some(port) = self.ports.get(port) {
                    (port.wiring.room)();
                }
            }
        }
    }

    fn reset(&mut self) {
        self.queues = Queues::default();
        self.interrupts = None;
        self.multiport = false;
        self.ports.iter_mut().for_each(Port::reset);
    }

    fn positions(&self) -> Vec<Option<QueuePosition>> {
        self.queues.positions()
    }
}

#[cfg(test)]
mod tests;
