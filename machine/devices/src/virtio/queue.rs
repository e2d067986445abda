//! A virtqueue with split rings (2.7), on rust-vmm's.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use memory::GuestRam;
use savestate::{Invalid, require};
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueOwnedT, QueueT};

use super::chain::Chain;
use super::interrupts::{Interrupts, QueueInterrupt};

/// What a driver has set a queue up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSetup {
    /// Number of descriptors.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub desc: u64,
    /// Of the driver area: the available ring.
    pub driver: u64,
    /// Of the device area: the used ring.
    pub device: u64,
}

/// How far a queue has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePosition {
    /// Index into the available ring of the chain that comes next.
    pub next_avail: u16,
    /// Index into the used ring of the entry that comes next.
    pub next_used: u16,
}

/// A queue that a driver has enabled, in the hands of the device.
pub struct Virtqueue {
    // Wiring.
    ram: GuestRam,
    interrupt: QueueInterrupt,
    // Volatile state.
    queue: Queue,
    /// The driver has been asked to notify at the next chain.
    armed: bool,
    /// The index into the used ring up to which the driver has been told.
    told: u16,
    broken: bool,
}

/// Lengths in the rings (2.7.6, 2.7.8): of what stands before the entries, and of a used entry.
const AVAILABLE_HEADER: u64 = 4;
const USED_HEADER: u64 = 4;
const USED_ENTRY: u64 = 8;
/// VIRTQ_AVAIL_F_NO_INTERRUPT.
const NO_INTERRUPT: u16 = 1;

impl Virtqueue {
    /// `None` if the rings are not aligned or not in RAM.
    pub(super) fn new(
        setup: QueueSetup,
        position: QueuePosition,
        event_idx: bool,
        ram: &GuestRam,
        interrupt: QueueInterrupt,
    ) -> Option<Self> {
        let mut queue = Queue::new(setup.size).ok()?;
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let [(desc_low, desc_high), (driver_low, driver_high), (device_low, device_high)] =
            [setup.desc, setup.driver, setup.device].map(halves);
        queue.set_desc_table_address(desc_low, desc_high);
        queue.set_avail_ring_address(driver_low, driver_high);
        queue.set_used_ring_address(device_low, device_high);
        // An address that is not aligned has been left out.
        let taken = [queue.desc_table(), queue.avail_ring(), queue.used_ring()];
        queue.set_event_idx(event_idx);
        queue.set_next_avail(position.next_avail);
        queue.set_next_used(position.next_used);
        queue.set_ready(true);
        let sound =
            taken == [setup.desc, setup.driver, setup.device] && queue.is_valid(ram.as_guest_memory());
        sound.then(|| Self {
            ram: ram.clone(),
            interrupt,
            queue,
            armed: false,
            told: position.next_used,
            broken: false,
        })
    }

    /// Takes the next chain that the driver has made available. When there is none, the driver has been asked to
    /// notify at the next, so whoever gets `None` may wait for [`super::VirtioDevice::notify`].
    pub fn pop(&mut self) -> Option<Chain> {
        loop {
            if self.broken {
                return None;
            }
            let memory = self.ram.as_guest_memory();
            let descriptors = match self.queue.iter(memory) {
                Ok(mut available) => available.next(),
                Err(error) => {
                    self.break_down(&error);
                    return None;
                }
            };
            if let Some(descriptors) = descriptors {
                let head = descriptors.head_index();
                if head >= self.queue.size() {
                    self.break_down(&"the head of a chain is beyond the descriptor table");
                    return None;
                }
                // Behind an indirect descriptor there may be more than in the table, but not legally (2.7.5.3.1).
                let chain = Chain::new(head, descriptors, self.queue.size(), &self.ram);
                self.disarm();
                if chain.is_none() {
                    self.break_down(&"a chain is too long, or a buffer to be read follows one to be written");
                }
                return chain;
            }
            if self.armed {
                return None;
            }
            // What has come while the driver was being asked is seen now.
            match self.queue.enable_notification(memory) {
                Ok(_) => self.armed = true,
                Err(error) => self.break_down(&error),
            }
        }
    }

    /// Whether a chain waits. Asks for no notification.
    pub fn has_more(&self) -> bool {
        let available = self.queue.avail_idx(self.ram.as_guest_memory(), Ordering::Acquire);
        !self.broken && available.is_ok_and(|index| index.0 != self.queue.next_avail())
    }

    /// Puts the chain that was taken last back, to be taken again. Only where nothing of it has been used.
    pub fn unpop(&mut self, chain: Chain) {
        drop(chain);
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(1));
    }

    fn disarm(&mut self) {
        if std::mem::take(&mut self.armed)
            && let Err(error) = self.queue.disable_notification(self.ram.as_guest_memory())
        {
            self.break_down(&error);
        }
    }

    /// Gives a chain back, `written` bytes of it written, and leaves the driver to be told by [`Self::interrupt`].
    pub fn push(&mut self, chain: Chain, written: u32) {
        self.push_head(chain.head(), written);
    }

    /// The same where the chain itself is no longer at hand.
    pub fn push_head(&mut self, head: u16, written: u32) {
        if self.broken {
            return;
        }
        if let Err(error) = self.queue.add_used(self.ram.as_guest_memory(), head, written) {
            self.break_down(&error);
        }
    }

    /// Gives several chains back by their heads, with the bytes written to each, in one step: a driver that sees one
    /// of them sees all.
    pub fn push_together(&mut self, used: &[(u16, u32)]) {
        let Some((&(last, written), others)) = used.split_last() else { return };
        if self.broken {
            return;
        }
        // Entries beyond the index mean nothing to the driver; the last one's `add_used` moves the index past all.
        let first = self.queue.next_used();
        let mut next = first;
        for &(head, written) in others {
            let slot = u64::from(next % self.queue.size());
            let at = self.queue.used_ring() + USED_HEADER + slot * USED_ENTRY;
            let entry = u64::from(head) | u64::from(written) << 32;
            if self.ram.write_u64(at, entry).is_err() {
                self.break_down(&"the used ring is not in RAM");
                return;
            }
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        self.push_head(last, written);
    }

    /// Tells the driver of the chains that have been given back since it was last told, if it wants to be (2.7.7).
    pub fn interrupt(&mut self) {
        let (used, told) = (self.queue.next_used(), self.told);
        if self.broken || used == told {
            return;
        }
        // The driver asks for an interrupt and then looks at the index; here the index was written, and now it is seen
        // whether one was asked for.
        fence(Ordering::SeqCst);
        let driver = self.queue.avail_ring();
        let wanted = if self.queue.event_idx_enabled() {
            let event = self.ram.read_u16(driver + AVAILABLE_HEADER + 2 * u64::from(self.queue.size()));
            event.map(|event| used.wrapping_sub(event).wrapping_sub(1) < used.wrapping_sub(told))
        } else {
            self.ram.read_u16(driver).map(|flags| flags & NO_INTERRUPT == 0)
        };
        self.told = used;
        match wanted {
            Ok(true) => self.interrupt.interrupts.queue(self.interrupt.queue),
            Ok(false) => {}
            Err(error) => self.break_down(&error),
        }
    }

    /// [`Self::push`] and [`Self::interrupt`].
    pub fn finish(&mut self, chain: Chain, written: u32) {
        self.push(chain, written);
        self.interrupt();
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// How far it has got.
    pub fn position(&self) -> QueuePosition {
        QueuePosition { next_avail: self.queue.next_avail(), next_used: self.queue.next_used() }
    }

    /// The driver has made nonsense of the queue: nothing is taken from it and put into it any more.
    pub fn break_down(&mut self, why: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.broken, true) {
            tracing::debug!("queue {} is broken: {why}", self.interrupt.queue);
            self.interrupt.interrupts.needs_reset();
        }
    }
}

/// A device's queues.
#[derive(Default)]
pub struct Queues(Vec<Option<Virtqueue>>);

impl Queues {
    pub(super) fn new(queues: Vec<Option<Virtqueue>>) -> Self {
        Self(queues)
    }

    /// The queue of this number, if the driver has enabled it.
    pub fn get(&mut self, queue: u16) -> Option<&mut Virtqueue> {
        self.0.get_mut(usize::from(queue))?.as_mut()
    }

    /// Takes a queue out, for a thread of its own.
    pub fn take(&mut self, queue: u16) -> Option<Virtqueue> {
        self.0.get_mut(usize::from(queue))?.take()
    }

    /// For [`super::VirtioDevice::positions`].
    pub fn positions(&self) -> Vec<Option<QueuePosition>> {
        self.0.iter().map(|queue| queue.as_ref().map(Virtqueue::position)).collect()
    }
}

/// A queue's setup as it can be, whatever a file says.
pub(super) fn check_setup(setup: &QueueSetup, max: u16) -> Result<(), Invalid> {
    let size = setup.size;
    require(size.is_power_of_two() && size <= max, "a queue has an impossible size")
}

/// The handle by which queue number `queue` interrupts.
pub(super) fn interrupt_of(interrupts: &Arc<Interrupts>, queue: u16) -> QueueInterrupt {
    QueueInterrupt { interrupts: interrupts.clone(), queue }
}

#[cfg(test)]
mod tests {
    use crate::virtio::testing::Driver;

    #[test]
    fn chains_come_in_order_and_go_back() {
        let mut driver = Driver::new(4);
        let first = driver.offer(&[(0x8000, 16)], &[]);
        let second = driver.offer(&[], &[(0x9000, 16)]);
        let mut queue = driver.queue();
        let chains = [queue.pop().unwrap(), queue.pop().unwrap()];
        assert_eq!(chains.each_ref().map(|chain| chain.head()), [first, second]);
        assert!(queue.pop().is_none() && !queue.has_more());
        let [a, b] = chains;
        queue.finish(b, 7);
        queue.push(a, 0);
        assert_eq!(driver.used(), [(second, 7), (first, 0)]);
        assert_eq!(driver.messages().len(), 1);
        queue.interrupt();
        // The driver has not looked since, but without EVENT_IDX it is told each time.
        assert_eq!(driver.messages().len(), 1);
    }

    #[test]
    fn several_go_back_in_one_step() {
        let mut driver = Driver::new(4);
        let mut queue = driver.queue();
        // Around the end of the ring.
        for round in 0..5 {
            let heads = [0x8000, 0x9000, 0xa000].map(|at| driver.offer(&[], &[(at, 16)]));
            while queue.pop().is_some() {}
            queue.push_together(&[]);
            queue.push_together(&heads.map(|head| (head, round + u32::from(head))));
            queue.interrupt();
            assert_eq!(driver.used(), heads.map(|head| (head, round + u32::from(head))));
            assert_eq!(driver.messages().len(), 1, "round {round}");
            queue.interrupt();
            assert_eq!(driver.messages().len(), 0, "nothing new");
        }
    }

    #[test]
    fn the_driver_says_when_it_is_told() {
        let mut driver = Driver::new(4);
        let mut queue = driver.queue();
        let ring = driver.setup(0).driver;
        driver.ram().write_u16(ring, 1).unwrap();
        let mut give_back = |driver: &mut Driver| {
            driver.offer(&[], &[(0x8000, 16)]);
            let chain = queue.pop().unwrap();
            queue.finish(chain, 0);
            driver.messages().len()
        };
        assert_eq!(give_back(&mut driver), 0);
        driver.ram().write_u16(ring, 0).unwrap();
        assert_eq!(give_back(&mut driver), 1);
        // With EVENT_IDX, at the entry that it names: one was passed in the middle of a step, one is yet to come.
        let mut queue = driver.queue_with_event_idx();
        let used = queue.position().next_used;
        for (event, told) in [(used.wrapping_add(1), 1), (used.wrapping_add(9), 0)] {
            driver.ram().write_u16(ring + 4 + 2 * 4, event).unwrap();
            queue.push_together(&[(0, 0), (1, 0), (2, 0)]);
            queue.interrupt();
            assert_eq!(driver.messages().len(), told);
        }
    }

    #[test]
    fn a_chain_can_be_put_back() {
        let mut driver = Driver::new(4);
        let head = driver.offer(&[(0x8000, 16)], &[]);
        let mut queue = driver.queue();
        let chain = queue.pop().unwrap();
        queue.unpop(chain);
        assert!(queue.has_more());
        assert_eq!(queue.pop().unwrap().head(), head);
    }

    #[test]
    fn the_driver_is_asked_to_notify_when_nothing_is_left() {
        let mut driver = Driver::new(4);
        let mut queue = driver.queue();
        assert!(queue.pop().is_none());
        assert!(driver.must_notify());
        driver.offer(&[(0x8000, 16)], &[]);
        let chain = queue.pop().unwrap();
        assert!(!driver.must_notify());
        queue.finish(chain, 0);
        assert!(queue.pop().is_none());
        assert!(driver.must_notify());
    }

    #[test]
    fn nonsense_breaks_a_queue() {
        // A head beyond the table; an index that has jumped; a buffer to be read after one to be written.
        let nonsense: [fn(&mut Driver); 3] = [
            |driver| driver.make_available(4),
            |driver| driver.jump(5),
            |driver| {
                driver.describe(0, 0x8000, 4, Driver::WRITE | Driver::NEXT, 1);
                driver.describe(1, 0x8000, 4, 0, 0);
                driver.make_available(0);
            },
        ];
        for nonsense in nonsense {
            let mut driver = Driver::new(4);
            let mut queue = driver.queue();
            nonsense(&mut driver);
            assert!(queue.pop().is_none());
            assert!(driver.needs_reset());
            // And nothing more comes of it.
            driver.offer(&[(0x8000, 4)], &[]);
            assert!(queue.pop().is_none());
            queue.push_head(0, 0);
            queue.interrupt();
            assert_eq!(driver.used(), []);
        }
    }

    #[test]
    fn a_loop_of_descriptors_ends() {
        let mut driver = Driver::new(4);
        driver.describe(0, 0x8000, 4, Driver::NEXT, 1);
        driver.describe(1, 0x9000, 4, Driver::NEXT, 0);
        driver.make_available(0);
        let chain = driver.queue().pop().unwrap();
        assert_eq!(chain.readable(), 16);
    }
}
