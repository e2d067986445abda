//! A driver of one device behind its PCI transport: all of guest memory, and what a sound driver does with it.
//!
//! Everything can also be done wrong: memory and transport are there for whoever wants to write to them.

use std::sync::{Arc, Mutex};

use devices::pci::{MsiSink, PciDevice};
use devices::virtio::pci::PciWiring;
use devices::virtio::{Doorbell, VirtioDevice, VirtioPci, feature};
use devices::wiring::{IrqLine, MmioDevice};
use memory::GuestRam;

use crate::input::Input;
use crate::watch::Watched;

/// Bytes of guest memory.
pub const RAM: u64 = 1 << 20;
/// Where the queues lie that were set up well, and how far apart.
pub const RINGS: u64 = 0x1000;
/// See [`RINGS`].
pub const STRIDE: u64 = 0x1000;
/// As many as have room there; no device here has more.
pub const MOST_QUEUES: u16 = 8;
/// From here on there are buffers.
pub const BUFFERS: u64 = 0x2_0000;
/// Descriptors of a queue that was set up well.
pub const SIZE: u16 = 16;

/// In a queue's memory, behind its descriptors.
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
/// Tables of indirect descriptors, one for each head.
const INDIRECT: u64 = 0xc00;
const MOST_INDIRECT: usize = 4;

/// Blocks of the transport's registers.
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;

/// Flags of a descriptor (2.7.5).
mod flag {
    pub(super) const NEXT: u16 = 1;
    pub(super) const WRITE: u16 = 2;
    pub(super) const INDIRECT: u16 = 4;
}

/// Address and length of a buffer.
pub type Buffer = (u64, u32);

/// The driver.
pub struct Driver {
    /// All of the guest's memory.
    pub ram: GuestRam,
    /// The device's function.
    pub transport: VirtioPci,
    /// Chains are put behind an indirect descriptor.
    indirect: bool,
    /// The next descriptor and the available index of each queue.
    next: [(u16, u16); MOST_QUEUES as usize],
}

impl Driver {
    /// A driver of this device, which nobody has set up.
    pub fn new(ram: &GuestRam, device: Arc<Mutex<dyn VirtioDevice>>, doorbell: Arc<dyn Doorbell>) -> Self {
        let transport = transport(ram, device, doorbell);
        Self { ram: ram.clone(), transport, indirect: false, next: [(0, 0); MOST_QUEUES as usize] }
    }

    /// Goes on with another device in the place of the one before.
    pub fn replace(
        &mut self,
        device: Arc<Mutex<dyn VirtioDevice>>,
        doorbell: Arc<dyn Doorbell>,
    ) -> VirtioPci {
        std::mem::replace(&mut self.transport, transport(&self.ram, device, doorbell))
    }

    /// Writes a register of the common configuration.
    pub fn common(&mut self, offset: u64, value: u64, size: usize) {
        self.transport.write(offset, &value.to_le_bytes()[..size]);
    }

    /// Reads one.
    pub fn read_common<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut value = [0; N];
        self.transport.read(offset, &mut value);
        value
    }

    /// Device status.
    pub fn status(&mut self) -> u8 {
        self.read_common::<1>(0x14)[0]
    }

    /// How many queues there are.
    pub fn queues(&mut self) -> u16 {
        u16::from_le_bytes(self.read_common(0x12))
    }

    /// Writes to the device's own configuration.
    pub fn write_device(&mut self, offset: u64, data: &[u8]) {
        self.transport.write(DEVICE + offset, data);
    }

    /// Says that there is something in a queue.
    pub fn notify(&mut self, queue: u16) {
        self.transport.write(NOTIFY + 4 * u64::from(queue), &[0, 0]);
    }

    /// Everything up to DRIVER_OK as 3.1.1 has it, with those of the features that are offered and wanted.
    pub fn set_up(&mut self, wanted: u64) {
        self.prepare(wanted);
        self.common(0x14, 15, 1);
    }

    /// Everything before DRIVER_OK.
    fn prepare(&mut self, wanted: u64) {
        self.negotiate(wanted);
        self.set_up_queues();
    }

    fn negotiate(&mut self, wanted: u64) {
        self.common(0x14, 0, 1);
        self.common(0x14, 3, 1);
        for half in [0, 1] {
            self.common(0x00, half, 4);
            let offered = u64::from(u32::from_le_bytes(self.read_common(0x04)));
            self.common(0x08, half, 4);
            self.common(0x0c, offered & (wanted | feature::VERSION_1) >> (32 * half), 4);
        }
        self.common(0x14, 11, 1);
    }

    fn set_up_queues(&mut self) {
        for queue in 0..self.queues() {
            let base = RINGS + u64::from(queue) * STRIDE;
            self.ram.write(base, &[0; STRIDE as usize]).expect("rings lie in RAM");
            self.common(0x16, queue.into(), 2);
            self.common(0x18, SIZE.into(), 2);
            self.common(0x1a, queue.into(), 2);
            for (register, address) in [(0x20, base), (0x28, base + AVAILABLE), (0x30, base + USED)] {
                self.common(register, address, 8);
            }
            self.common(0x1c, 1, 2);
        }
        self.next.fill((0, 0));
    }

    /// The same, as the input will have it: with indirect descriptors, with messages, with which features; and perhaps
    /// the driver is not ready yet, or has not set up its queues.
    pub fn set_up_by(&mut self, input: &mut Input) {
        let choice = input.byte();
        self.indirect = choice & 1 != 0;
        if choice & 2 != 0 {
            self.enable_messages();
        }
        let wanted = if choice & 4 != 0 { input.word() } else { u64::MAX };
        match choice >> 3 & 7 {
            0 => self.negotiate(wanted),
            1 => self.prepare(wanted),
            _ => self.set_up(wanted),
        }
    }

    /// Lets every vector of MSI-X (PCI 3.0, 6.8.2) send.
    fn enable_messages(&mut self) {
        const MSIX: u32 = 0x11;
        let at = self.capability(|transport, at| transport.read_config(at, 1) == MSIX);
        self.transport.write_config(at + 2, 2, 0x8000);
        for vector in 0..=u64::from(MOST_QUEUES) {
            self.transport.write(TABLE + 16 * vector + 12, &[0; 4]);
        }
    }

    /// Writes and reads registers through the window in configuration space (4.1.4.9).
    pub fn through_window(&mut self, offset: u32, length: u32, value: u32) {
        // VIRTIO_PCI_CAP_PCI_CFG of a vendor-specific capability.
        let at = self.capability(|transport, at| {
            (transport.read_config(at, 1), transport.read_config(at + 3, 1)) == (9, 5)
        });
        self.transport.write_config(at + 4, 1, 0);
        self.transport.write_config(at + 8, 4, offset);
        self.transport.write_config(at + 12, 4, length);
        self.transport.write_config(at + 16, 4, value);
        self.transport.read_config(at + 16, 4);
    }

    /// Where the first capability is of which this holds.
    fn capability(&mut self, wanted: impl Fn(&mut VirtioPci, u8) -> bool) -> u8 {
        let mut at = self.transport.read_config(0x34, 1) as u8;
        while at != 0 && !wanted(&mut self.transport, at) {
            at = self.transport.read_config(at + 1, 1) as u8;
        }
        assert_ne!(at, 0, "every function has it");
        at
    }

    /// Writes a descriptor into a table.
    fn describe(&self, table: u64, index: u16, (gpa, len): Buffer, flags: u16, next: u16) {
        let at = table + 16 * u64::from(index);
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.ram.write_u64(at, gpa).expect("rings lie in RAM");
        self.ram.write_u64(at + 8, rest).expect("rings lie in RAM");
    }

    /// Writes a descriptor of a queue that was set up well; of `flags` those that exist.
    pub fn describe_in(&self, queue: u16, index: u16, buffer: Buffer, flags: u8, next: u16) {
        let base = RINGS + u64::from(queue % MOST_QUEUES) * STRIDE;
        self.describe(base, index % SIZE, buffer, u16::from(flags & 7), next);
    }

    /// Makes a chain of these buffers available in a queue that was set up well, and says so.
    pub fn offer(&mut self, queue: u16, readable: &[Buffer], writable: &[Buffer]) {
        let base = RINGS + u64::from(queue % MOST_QUEUES) * STRIDE;
        let buffers = readable.iter().map(|buffer| (buffer, 0));
        let buffers = buffers.chain(writable.iter().map(|buffer| (buffer, flag::WRITE)));
        let count = readable.len() + writable.len();
        let next = &mut self.next[usize::from(queue % MOST_QUEUES)].0;
        let head = *next % SIZE;
        let indirect = self.indirect && (1..=MOST_INDIRECT).contains(&count);
        // Whether the chain is in a table of its own, at which index it begins there, and around which it goes.
        let (table, first, round) = match indirect {
            true => (base + INDIRECT + (16 * MOST_INDIRECT as u64) * u64::from(head), 0, u16::MAX),
            false => (base, head, SIZE),
        };
        *next = (head + if indirect { 1 } else { count as u16 }) % SIZE;
        for (number, (&buffer, flags)) in (0_u16..).zip(buffers) {
            let more = if usize::from(number) + 1 < count { flag::NEXT } else { 0 };
            let index = (first + number) % round;
            self.describe(table, index, buffer, flags | more, (index + 1) % round);
        }
        if indirect {
            self.describe(base, head, (table, 16 * count as u32), flag::INDIRECT, 0);
        }
        let slot = &mut self.next[usize::from(queue % MOST_QUEUES)].1;
        let at = base + AVAILABLE + 4 + 2 * u64::from(*slot % SIZE);
        *slot = slot.wrapping_add(1);
        self.ram.write_u16(at, head).expect("rings lie in RAM");
        self.ram.write_u16(base + AVAILABLE + 2, *slot).expect("rings lie in RAM");
        self.notify(queue);
    }

    /// Makes this head and whatever follows it in the available ring available, so many in all, and says so.
    pub fn offer_more(&mut self, queue: u16, head: u16, count: u16) {
        let ring = RINGS + u64::from(queue % MOST_QUEUES) * STRIDE + AVAILABLE;
        let index = self.ram.read_u16(ring + 2).expect("rings lie in RAM");
        self.ram.write_u16(ring + 4 + 2 * u64::from(index % SIZE), head).expect("rings lie in RAM");
        let value = index.wrapping_add(count);
        self.ram.write_u16(ring + 2, value).expect("rings lie in RAM");
        self.next[usize::from(queue % MOST_QUEUES)].1 = value;
        self.notify(queue);
    }

    /// How many chains have come back in a queue that was set up well.
    pub fn used(&self, queue: u16) -> u16 {
        let at = RINGS + u64::from(queue % MOST_QUEUES) * STRIDE + USED + 2;
        self.ram.read_u16(at).expect("rings lie in RAM")
    }
}

/// The device's function, its registers placed as firmware does it.
fn transport(ram: &GuestRam, device: Arc<Mutex<dyn VirtioDevice>>, doorbell: Arc<dyn Doorbell>) -> VirtioPci {
    let wiring =
        PciWiring { ram: ram.clone(), line: IrqLine::unconnected(), messages: Arc::new(Nowhere), doorbell };
    let mut transport = VirtioPci::new(Arc::new(Mutex::new(Watched::new(device))), wiring);
    transport.place(0xe000_0000, 11);
    transport
}

/// Where interrupt messages end.
struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _: u64, _: u32) {}
}
