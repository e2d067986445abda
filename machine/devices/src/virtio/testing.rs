//! A driver for tests: rings in a small RAM, and a device's transport around them or none.

use std::sync::Arc;

use memory::GuestRam;

use super::interrupts::Interrupts;
use super::queue::{QueuePosition, QueueSetup, Virtqueue, interrupt_of};
use super::{Activation, Queues, feature};
use crate::testing::Messages;
use crate::wiring::IrqLine;

/// Bytes of RAM.
pub const RAM: u64 = 0x8_0000;
/// Where queue 0's rings are; the others' follow. Everything below is for buffers.
const RINGS: u64 = 0x4_0000;
/// So far apart.
const STRIDE: u64 = 0x4000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;

/// A driver of a device with as many queues as it is asked for, without EVENT_IDX.
pub struct Driver {
    ram: GuestRam,
    size: u16,
    messages: Messages,
    interrupts: Arc<Interrupts>,
    /// By queue: the next free descriptor, the available index, the used index that was seen.
    rings: Vec<(u16, u16, u16)>,
}

impl Driver {
    /// VIRTQ_DESC_F_NEXT.
    pub const NEXT: u16 = 1;
    /// VIRTQ_DESC_F_WRITE.
    pub const WRITE: u16 = 2;

    /// A driver of one queue with so many descriptors.
    pub fn new(size: u16) -> Self {
        Self::with_queues(size, 1)
    }

    /// A driver of several.
    pub fn with_queues(size: u16, queues: usize) -> Self {
        let messages = Messages::default();
        let sink = Arc::new(messages.clone());
        let interrupts = Arc::new(Interrupts::new(queues, IrqLine::unconnected(), sink));
        interrupts.msix.set_control(0x8000);
        for number in 0..queues as u16 {
            interrupts.queue_vectors[usize::from(number)].store(number, std::sync::atomic::Ordering::Relaxed);
            // Address and data are the number; unmasked.
            interrupts.msix.write_table(16 * u64::from(number), &(u64::from(number) << 4).to_le_bytes());
            interrupts.msix.write_table(16 * u64::from(number) + 8, &u64::from(number).to_le_bytes());
        }
        let ram = GuestRam::allocate(RAM).unwrap();
        Self { ram, size, messages, interrupts, rings: vec![(0, 0, 0); queues] }
    }

    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Where a queue's rings are.
    pub fn setup(&self, queue: u16) -> QueueSetup {
        let base = RINGS + u64::from(queue) * STRIDE;
        QueueSetup { size: self.size, desc: base, driver: base + AVAILABLE, device: base + USED }
    }

    /// Queue 0, for the device.
    pub fn queue(&self) -> Virtqueue {
        self.queue_at(0)
    }

    fn queue_at(&self, queue: u16) -> Virtqueue {
        self.make_queue(queue, false)
    }

    /// Queue 0 of a driver that has agreed to EVENT_IDX.
    pub fn queue_with_event_idx(&self) -> Virtqueue {
        self.make_queue(0, true)
    }

    fn make_queue(&self, queue: u16, event_idx: bool) -> Virtqueue {
        let interrupt = interrupt_of(&self.interrupts, queue);
        let position = QueuePosition::default();
        Virtqueue::new(self.setup(queue), position, event_idx, &self.ram, interrupt).unwrap()
    }

    /// What a device is activated with.
    pub fn activation(&self) -> Activation {
        self.activation_with(0)
    }

    /// The same with features of the device's own.
    pub fn activation_with(&self, features: u64) -> Activation {
        let queues = (0..self.rings.len() as u16).map(|queue| Some(self.queue_at(queue))).collect();
        Activation {
            features: features | feature::VERSION_1,
            queues: Queues::new(queues),
            interrupts: self.interrupts.clone(),
        }
    }

    /// Writes a descriptor of queue 0.
    pub fn describe(&mut self, index: u16, gpa: u64, len: u32, flags: u16, next: u16) {
        self.describe_in(0, index, gpa, len, flags, next);
    }

    /// The same in another queue.
    pub fn describe_in(&mut self, queue: u16, index: u16, gpa: u64, len: u32, flags: u16, next: u16) {
        let at = self.setup(queue).desc + 16 * u64::from(index);
        self.ram.write_u64(at, gpa).unwrap();
        self.ram.write_u32(at + 8, len).unwrap();
        self.ram.write_u16(at + 12, flags).unwrap();
        self.ram.write_u16(at + 14, next).unwrap();
    }

    /// Makes a chain of these buffers available in queue 0; says which descriptor is its head.
    pub fn offer(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u16 {
        self.offer_in(0, readable, writable)
    }

    /// The same in another queue.
    pub fn offer_in(&mut self, queue: u16, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u16 {
        let head = self.rings[usize::from(queue)].0;
        let all = readable.iter().map(|&(gpa, len)| (gpa, len, 0));
        let all: Vec<_> = all.chain(writable.iter().map(|&(gpa, len)| (gpa, len, Self::WRITE))).collect();
        for (number, &(gpa, len, flags)) in all.iter().enumerate() {
            let index = (head + number as u16) % self.size;
            let more = if number + 1 < all.len() { Self::NEXT } else { 0 };
            self.describe_in(queue, index, gpa, len, flags | more, (index + 1) % self.size);
        }
        self.rings[usize::from(queue)].0 = (head + all.len() as u16) % self.size;
        self.make_available_in(queue, head);
        head
    }

    /// Puts a head into queue 0's available ring.
    pub fn make_available(&mut self, head: u16) {
        self.make_available_in(0, head);
    }

    /// The same in another queue.
    pub fn make_available_in(&mut self, queue: u16, head: u16) {
        let (_, index, _) = &mut self.rings[usize::from(queue)];
        let slot = *index % self.size;
        *index = index.wrapping_add(1);
        let index = *index;
        let at = self.setup(queue).driver;
        self.ram.write_u16(at + 4 + 2 * u64::from(slot), head).unwrap();
        self.ram.write_u16(at + 2, index).unwrap();
    }

    /// Moves queue 0's available index on, with nothing there.
    pub fn jump(&mut self, by: u16) {
        let index = self.rings[0].1.wrapping_add(by);
        self.ram.write_u16(self.setup(0).driver + 2, index).unwrap();
    }

    /// What has come back in queue 0 since this was last asked: heads and lengths.
    pub fn used(&mut self) -> Vec<(u16, u32)> {
        self.used_in(0)
    }

    /// The same of another queue.
    pub fn used_in(&mut self, queue: u16) -> Vec<(u16, u32)> {
        let at = self.setup(queue).device;
        let index = self.ram.read_u16(at + 2).unwrap();
        let seen = &mut self.rings[usize::from(queue)].2;
        let mut used = Vec::new();
        while *seen != index {
            let entry = at + 4 + 8 * u64::from(*seen % self.size);
            used.push((self.ram.read_u32(entry).unwrap() as u16, self.ram.read_u32(entry + 4).unwrap()));
            *seen = seen.wrapping_add(1);
        }
        used
    }

    /// Whether queue 0's device wants to be notified (without EVENT_IDX).
    pub fn must_notify(&self) -> bool {
        self.ram.read_u16(self.setup(0).device).unwrap() & 1 == 0
    }

    /// The queues that have interrupted since this was last asked.
    pub fn messages(&self) -> Vec<u16> {
        self.messages.take().into_iter().map(|(_, data)| data as u16).collect()
    }

    pub fn needs_reset(&self) -> bool {
        self.interrupts.needs_reset.load(std::sync::atomic::Ordering::Relaxed)
    }
}
