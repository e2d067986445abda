//! The network device (5.1): a card on a [`Cable`].
//!
//! Frames pass with their header (5.1.6) as the other side wrote it: whether a checksum or segments are left to do is
//! between the driver and whoever is at the far end of the cable. The card offers what that takes ([`Config::takes`]),
//! and tells it what the driver takes.
//!
//! Neither direction loses a frame for want of room: a frame the driver has no buffers for stays with the cable, one
//! the cable has no room for stays in the driver's ring.
//!
//! With several queue pairs a flow is received on the pair on which it was last sent (5.1.6.5.5), by [`steering`].
//!
//! Not modelled: VLAN filtering, announcements (GUEST_ANNOUNCE), UDP fragmentation and segmentation (UFO, USO), hash
//! reports and RSS, notification coalescing, STANDBY, speed and duplex.

mod control;
mod filter;
mod saved;
mod steering;

pub use saved::NetStateV1;

use std::sync::Arc;

use self::filter::Filter;
use self::steering::Steering;
use super::{Activation, Chain, DeviceType, Interrupts, QueuePosition, Queues, VirtioDevice, Virtqueue};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// `struct virtio_net_hdr` (5.1.6).
pub type Header = [u8; 12];
/// Its length.
pub const HEADER_LENGTH: usize = 12;
/// The longest frame: an Ethernet header with a VLAN tag, and the longest IP packet.
pub const MAX_FRAME: usize = 18 + 65_535;
const ETHERNET_HEADER: usize = 14;
/// Where the header's `num_buffers` is.
const NUM_BUFFERS: usize = 10;
/// Pairs of queues there may be.
pub const MAX_PAIRS: u16 = 8;

const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 64;
/// VIRTIO_NET_S_LINK_UP, of the configuration's `status`.
const LINK_UP: u16 = 1;

/// Feature bits (5.1.3).
pub mod feature {
    /// VIRTIO_NET_F_CSUM.
    pub const CSUM: u64 = 1 << 0;
    /// VIRTIO_NET_F_GUEST_CSUM.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// VIRTIO_NET_F_CTRL_GUEST_OFFLOADS.
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    /// VIRTIO_NET_F_MTU.
    pub const MTU: u64 = 1 << 3;
    /// VIRTIO_NET_F_MAC.
    pub const MAC: u64 = 1 << 5;
    /// VIRTIO_NET_F_GUEST_TSO4.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// VIRTIO_NET_F_GUEST_TSO6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// VIRTIO_NET_F_GUEST_ECN.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// VIRTIO_NET_F_HOST_TSO4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// VIRTIO_NET_F_HOST_TSO6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// VIRTIO_NET_F_HOST_ECN.
    pub const HOST_ECN: u64 = 1 << 13;
    /// VIRTIO_NET_F_MRG_RXBUF.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// VIRTIO_NET_F_STATUS.
    pub const STATUS: u64 = 1 << 16;
    /// VIRTIO_NET_F_CTRL_VQ.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// VIRTIO_NET_F_CTRL_RX.
    pub const CTRL_RX: u64 = 1 << 18;
    /// VIRTIO_NET_F_CTRL_RX_EXTRA.
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    /// VIRTIO_NET_F_MQ.
    pub const MQ: u64 = 1 << 22;
    /// VIRTIO_NET_F_CTRL_MAC_ADDR.
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;

    /// What the far end of the cable may take.
    pub const HOST: u64 = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN;
    /// What the driver may take.
    pub const GUEST: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN;
    /// Whatever is at the far end.
    pub(super) const ALWAYS: u64 = GUEST
        | CTRL_GUEST_OFFLOADS
        | MTU
        | MAC
        | MRG_RXBUF
        | STATUS
        | CTRL_VQ
        | CTRL_RX
        | CTRL_RX_EXTRA
        | CTRL_MAC_ADDR;
}

/// What the card is plugged into. All of this is called with the card locked.
pub trait Cable: Send {
    /// A frame from the driver. Never waits. Says whether it was taken; if not, [`Net::drained`] is called once there
    /// is room.
    fn send(&self, header: &Header, frame: &[u8]) -> bool;

    /// What may be left undone in the frames that come: bits of [`feature::GUEST`].
    fn guest_takes(&self, features: u64);

    /// There is room again, after [`Net::receive`] took nothing.
    fn room(&self);
}

/// What a card is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its address.
    pub mac: Mac,
    /// The longest packet that need not be cut.
    pub mtu: u16,
    /// Pairs of queues, 1 to [`MAX_PAIRS`].
    pub queue_pairs: u16,
    /// What may be left undone in the frames that it sends: bits of [`feature::HOST`].
    pub takes: u64,
}

/// The device.
pub struct Net {
    // Configuration.
    config: Config,
    // Wiring.
    cable: Box<dyn Cable>,
    // Volatile state.
    /// The address, which the driver may change.
    mac: Mac,
    link_up: bool,
    /// Pairs the driver uses.
    pairs: u16,
    filter: Filter,
    /// Bits of [`feature::GUEST`].
    guest_offloads: u64,
    /// What the driver has handed over.
    life: Option<Life>,
    steering: Steering,
    /// Pairs whose next frame the cable had no room for.
    blocked: u16,
    /// The cable holds a frame that the driver had no buffers for.
    starved: bool,
    /// One frame on its way out.
    frame: Vec<u8>,
    /// The chains that one frame goes into.
    chains: Vec<Chain>,
}

/// What is there from DRIVER_OK to reset.
struct Life {
    features: u64,
    queues: Queues,
    interrupts: Arc<Interrupts>,
}

impl Net {
    /// A card on this cable, its link up.
    pub fn new(config: Config, cable: Box<dyn Cable>) -> Self {
        assert!((1..=MAX_PAIRS).contains(&config.queue_pairs), "a card has 1 to {MAX_PAIRS} pairs of queues");
        Self {
            mac: config.mac,
            config,
            cable,
            link_up: true,
            pairs: 1,
            filter: Filter::default(),
            guest_offloads: 0,
            life: None,
            steering: Steering::default(),
            blocked: 0,
            starved: false,
            frame: Vec::new(),
            chains: Vec::new(),
        }
    }

    /// A frame for the driver. Says whether it was taken; if not, [`Cable::room`] is called once there are buffers.
    /// One that nobody would miss, since there is no driver or it wants none such, is taken and dropped.
    pub fn receive(&mut self, header: &Header, frame: &[u8]) -> bool {
        let Some(life) = &mut self.life else { return true };
        let sensible = (ETHERNET_HEADER..=MAX_FRAME).contains(&frame.len());
        if !sensible || !self.link_up || !self.filter.admits(frame, self.mac) {
            return true;
        }
        let Some(queue) = life.queues.get(2 * self.steering.receive(frame, self.pairs)) else { return true };
        let mut header = *header;
        if life.features & feature::GUEST_CSUM == 0 {
            // Not even that a sum has been found good (5.1.6.4.1).
            header[0] = 0;
        }
        let mergeable = life.features & feature::MRG_RXBUF != 0;
        match collect(queue, &mut self.chains, HEADER_LENGTH + frame.len(), mergeable) {
            Room::Enough => {
                fill(queue, &mut self.chains, header, frame);
                true
            }
            Room::NotYet => {
                self.starved = true;
                false
            }
            Room::Never => true,
        }
    }

    /// The cable has room again.
    pub fn drained(&mut self) {
        let blocked = std::mem::take(&mut self.blocked);
        for pair in (0..MAX_PAIRS).filter(|pair| blocked & 1 << pair != 0) {
            self.transmit(pair);
        }
    }

    /// Plugs the cable in or out, as the driver sees it.
    pub fn set_link(&mut self, up: bool) {
        if std::mem::replace(&mut self.link_up, up) != up
            && let Some(life) = &self.life
        {
            life.interrupts.config_changed();
        }
    }

    /// Sends what is in a pair's ring, while the cable takes it.
    fn transmit(&mut self, pair: u16) {
        if self.blocked & 1 << pair != 0 {
            return;
        }
        let Some(queue) = self.life.as_mut().and_then(|life| life.queues.get(2 * pair + 1)) else { return };
        while let Some(mut chain) = queue.pop() {
            if self.link_up
                && let Some(header) = take(&mut chain, &mut self.frame)
            {
                self.steering.sent(&self.frame, pair, self.pairs);
                if !self.cable.send(&header, &self.frame) {
                    queue.unpop(chain);
                    self.blocked |= 1 << pair;
                    break;
                }
            }
            queue.push(chain, 0);
        }
        queue.interrupt();
    }

    /// The control queue's number, which depends on whether the driver knows of the others (5.1.2).
    fn control_queue(&self) -> u16 {
        match &self.life {
            Some(life) if life.features & feature::MQ != 0 => 2 * self.config.queue_pairs,
            _ => 2,
        }
    }

    fn set_guest_offloads(&mut self, offloads: u64) {
        self.guest_offloads = offloads;
        self.cable.guest_takes(offloads);
    }

    /// What the driver may change, as it is at reset.
    fn forget(&mut self) {
        self.mac = self.config.mac;
        self.pairs = 1;
        self.filter = Filter::default();
        self.steering = Steering::default();
        self.blocked = 0;
        self.set_guest_offloads(0);
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        let several = if self.config.queue_pairs > 1 { feature::MQ } else { 0 };
        feature::ALWAYS | self.config.takes & feature::HOST | several
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 2 * usize::from(self.config.queue_pairs)];
        sizes.push(CONTROL_QUEUE_SIZE);
        sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_net_config (5.1.4)
        let mut structure = [0; 12];
        structure[..6].copy_from_slice(&self.mac);
        structure[6..8].copy_from_slice(&(if self.link_up { LINK_UP } else { 0 }).to_le_bytes());
        structure[8..10].copy_from_slice(&self.config.queue_pairs.to_le_bytes());
        structure[10..12].copy_from_slice(&self.config.mtu.to_le_bytes());
        super::read_structure(&structure, offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {
        // The address can be set by the control queue alone.
    }

    fn activate(&mut self, activation: Activation) {
        let Activation { features, queues, interrupts } = activation;
        self.life = Some(Life { features, queues, interrupts });
        self.set_guest_offloads(features & feature::GUEST);
    }

    fn notify(&mut self, queue: u16) {
        if queue == self.control_queue() {
            self.control();
        } else if queue % 2 == 1 && queue < 2 * self.config.queue_pairs {
            self.transmit(queue / 2);
        } else if std::mem::take(&mut self.starved) {
            self.cable.room();
        }
    }

    fn reset(&mut self) {
        self.life = None;
        self.forget();
        // What was held for the driver may go.
        if std::mem::take(&mut self.starved) {
            self.cable.room();
        }
    }

    fn positions(&self) -> Vec<Option<QueuePosition>> {
        self.life.as_ref().map_or_else(Vec::new, |life| life.queues.positions())
    }
}

/// Takes header and frame out of a chain; `None` for what is no frame.
fn take(chain: &mut Chain, frame: &mut Vec<u8>) -> Option<Header> {
    let length = (chain.readable() as usize).checked_sub(HEADER_LENGTH)?;
    if !(ETHERNET_HEADER..=MAX_FRAME).contains(&length) {
        return None;
    }
    let header = chain.read_array().ok()?;
    frame.resize(length, 0);
    chain.read(frame).ok()?;
    Some(header)
}

/// Whether there is room for a frame.
enum Room {
    /// In the chains that were collected.
    Enough,
    /// When the driver has made more available. Nothing was taken.
    NotYet,
    /// The driver's buffers are too small for such a frame. Nothing was taken.
    Never,
}

/// Collects chains for `need` bytes, or just one if they cannot be merged.
fn collect(queue: &mut Virtqueue, chains: &mut Vec<Chain>, need: usize, mergeable: bool) -> Room {
    chains.clear();
    let mut room = 0;
    let found = loop {
        let Some(chain) = queue.pop() else { break Room::NotYet };
        room += chain.writable() as usize;
        chains.push(chain);
        if room >= need {
            return Room::Enough;
        }
        // A driver whose whole ring does not hold one frame has no more to give.
        if !mergeable || chains.len() >= queue.size().into() {
            break Room::Never;
        }
    };
    for chain in chains.drain(..).rev() {
        queue.unpop(chain);
    }
    found
}

/// Fills chains that have room for it with header and frame, and gives them to the driver in one step: it expects all
/// of a frame's buffers once it sees the first.
fn fill(queue: &mut Virtqueue, chains: &mut Vec<Chain>, mut header: Header, frame: &[u8]) {
    // No more than the queue has descriptors.
    header[NUM_BUFFERS..].copy_from_slice(&(chains.len() as u16).to_le_bytes());
    let mut parts = [header.as_slice(), frame].into_iter();
    let mut part = parts.next().unwrap_or_default();
    let used = chains.drain(..).map(|mut chain| {
        let whole = chain.writable();
        while chain.writable() > 0 {
            if part.is_empty() {
                let Some(next) = parts.next() else { break };
                part = next;
            }
            let (now, later) = part.split_at(part.len().min(chain.writable() as usize));
            // A buffer that is not there swallows what was to go there.
            if chain.write(now).is_err() {
                break;
            }
            part = later;
        }
        (chain, whole)
    });
    let used: Vec<_> = used.map(|(chain, whole)| (chain.head(), whole - chain.writable())).collect();
    queue.push_together(&used);
    queue.interrupt();
}

#[cfg(test)]
mod tests;
