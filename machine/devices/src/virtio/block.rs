//! The block device (5.2).
//!
//! A request is taken out of its queue, checked, and carried out by the back-end piece by piece: [`CHUNK`] bytes at a
//! time, so that a request of any length needs no more memory than that. At most [`MOST_IN_FLIGHT`] requests are
//! under way; the rest wait in their queues. What the driver gets wrong about a request is the request's status,
//! IOERR or UNSUPP, where it has a place to put it, and otherwise a chain given back with nothing written.
//!
//! A reset forgets requests, but what the back-end has begun it ends. Until it has, requests of the life after wait,
//! so that an old write never lands on a new one.
//!
//! Not modelled: secure erase, lifetime, zoned disks, geometry, resizing.

mod request;
mod saved;

use super::{Activation, Chain, DeviceType, QueuePosition, Queues, VirtioDevice, read_structure};

use self::request::{Request, Step};

/// The unit of addresses and lengths, whatever the block size.
pub const SECTOR: u64 = 512;
/// At most so many bytes are on their way between guest and back-end for one request.
pub const CHUNK: u32 = 256 << 10;
/// Requests that the back-end has at a time.
pub const MOST_IN_FLIGHT: usize = 64;
/// Descriptors of a queue.
const QUEUE_SIZE: u16 = 256;
/// Segments of one discard or write-zeroes request.
const MOST_RANGES: u32 = 32;
/// Sectors of one segment: 1 GiB to discard; less to zero, for back-ends that have to write zeroes.
const MOST_DISCARD: u32 = 1 << 21;
const MOST_ZEROES: u32 = 1 << 16;
/// A serial number's bytes.
pub const SERIAL: usize = 20;

/// Feature bits (5.2.3).
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const CONFIG_WCE: u64 = 1 << 11;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Status of a request (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    IoErr = 1,
    Unsupp = 2,
}

/// What a back-end is to do. Ranges lie within the disk and, like buffers, are not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the buffer from the offset on.
    Read {
        /// In bytes.
        offset: u64,
        /// To come back with the answer.
        buffer: Vec<u8>,
    },
    /// Write the buffer.
    Write {
        /// In bytes.
        offset: u64,
        /// To come back with the answer.
        buffer: Vec<u8>,
    },
    /// Have everything that has been answered on stable storage.
    Flush,
    /// The range is not needed any more.
    Discard {
        /// In bytes.
        offset: u64,
        /// In bytes.
        len: u64,
    },
    /// The range is to read as zeroes.
    WriteZeroes {
        /// In bytes.
        offset: u64,
        /// In bytes.
        len: u64,
        /// Whether its room may be given back.
        unmap: bool,
    },
}

/// Which of the device's requests an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    slot: usize,
    life: u64,
}

/// A back-end's answer: the operation's buffer, filled if that was asked for, or nothing if it failed.
pub type Answer = Option<Vec<u8>>;

/// A disk, as the device sees it.
pub trait BlockBackend: Send {
    /// Begins an operation and does not wait for its end, which is told by [`Block::complete`], on another thread or
    /// later. There are never more than [`MOST_IN_FLIGHT`] under way.
    fn submit(&mut self, token: Token, operation: Operation);
}

/// What a disk is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockConfig {
    /// In sectors.
    pub capacity: u64,
    /// The driver may not write.
    pub read_only: bool,
    /// What GET_ID answers, padded with zeroes.
    pub serial: [u8; SERIAL],
    /// Number of queues.
    pub queues: u16,
}

/// The device.
pub struct Block {
    // Configuration.
    config: BlockConfig,
    // Wiring.
    backend: Box<dyn BlockBackend>,
    // Volatile state.
    queues: Queues,
    features: u64,
    /// `writeback` of the configuration: the driver sends flushes where it needs them.
    writeback: bool,
    slots: Vec<Option<Request>>,
    /// Counts resets.
    life: u64,
    /// Operations that the back-end has, and those among them that it has from lives before.
    under_way: usize,
    stale: usize,
    /// Chains were left in queues for want of a slot, or for stale operations to end.
    held_up: bool,
}

impl Block {
    /// A disk.
    pub fn new(config: BlockConfig, backend: Box<dyn BlockBackend>) -> Self {
        Self {
            config,
            backend,
            queues: Queues::default(),
            features: 0,
            writeback: true,
            slots: std::iter::repeat_with(|| None).take(MOST_IN_FLIGHT).collect(),
            life: 0,
            under_way: 0,
            stale: 0,
            held_up: false,
        }
    }

    /// The back-end has done what was submitted under this token, or has failed to.
    pub fn complete(&mut self, token: Token, answer: Answer) {
        let Token { slot, life } = token;
        self.under_way -= 1;
        if life != self.life {
            self.stale -= 1;
        } else if let Some(mut request) = self.slots[slot].take() {
            let step = request.advance(answer);
            self.go_on(slot, request, step);
        }
        if self.held_up && self.may_start() {
            self.held_up = false;
            for queue in 0..self.config.queues {
                self.serve(queue);
            }
        }
    }

    /// Takes what waits in a queue, as long as there is room for it.
    fn serve(&mut self, number: u16) {
        loop {
            if !self.may_start() {
                self.held_up = true;
                return;
            }
            let Some(chain) = self.queues.get(number).and_then(|queue| queue.pop()) else { return };
            self.start(number, chain);
        }
    }

    fn may_start(&self) -> bool {
        self.under_way < MOST_IN_FLIGHT && self.stale == 0
    }

    fn start(&mut self, queue: u16, chain: Chain) {
        let (request, step) = Request::start(queue, chain, &self.config, self.write_through());
        let slot = self.slots.iter().position(Option::is_none).expect("as many slots as requests under way");
        self.go_on(slot, request, step);
    }

    /// Does what a request needs next.
    fn go_on(&mut self, slot: usize, request: Request, step: Step) {
        match step {
            Step::Submit(operation) => {
                self.slots[slot] = Some(request);
                self.under_way += 1;
                self.backend.submit(Token { slot, life: self.life }, operation);
            }
            Step::Finish(status) => {
                let (number, chain, written) = request.finish(status);
                if let Some(queue) = self.queues.get(number) {
                    queue.finish(chain, written);
                }
            }
        }
    }

    /// Whether a write is to be on stable storage when it is answered (5.2.6.2).
    fn write_through(&self) -> bool {
        if self.features & feature::CONFIG_WCE != 0 {
            !self.writeback
        } else {
            self.features & feature::FLUSH == 0
        }
    }

    /// struct virtio_blk_config, as far as it is known.
    fn structure(&self) -> [u8; 60] {
        let mut bytes = [0; 60];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.config.capacity.to_le_bytes());
        // Two descriptors are header and status.
        put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        // physical_block_exp: blocks of 4 KiB, which is what most hosts write; min_io_size in blocks.
        put(24, &[3]);
        put(26, &8u16.to_le_bytes());
        put(32, &[self.writeback.into()]);
        put(34, &self.config.queues.to_le_bytes());
        let limits = [MOST_DISCARD, MOST_RANGES, 8, MOST_ZEROES, MOST_RANGES];
        for (at, limit) in (36..).step_by(4).zip(limits) {
            put(at, &limit.to_le_bytes());
        }
        // write_zeroes_may_unmap
        put(56, &[1]);
        bytes
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        use feature::*;
        let kind = if self.config.read_only { RO } else { DISCARD | WRITE_ZEROES };
        kind | SEG_MAX
            | BLK_SIZE
            | FLUSH
            | TOPOLOGY
            | CONFIG_WCE
            | if self.config.queues > 1 { MQ } else { 0 }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.config.queues.into()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_structure(&self.structure(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (32, &[value]) = (offset, data) {
            self.writeback = value & 1 != 0;
        }
    }

    fn activate(&mut self, activation: Activation) {
        self.features = activation.features;
        self.queues = activation.queues;
    }

    fn notify(&mut self, queue: u16) {
        self.serve(queue);
    }

    fn reset(&mut self) {
        self.queues = Queues::default();
        self.features = 0;
        self.writeback = true;
        self.slots.fill_with(|| None);
        self.life += 1;
        self.stale = self.under_way;
        self.held_up = false;
    }

    fn positions(&self) -> Vec<Option<QueuePosition>> {
        self.queues.positions()
    }
}

#[cfg(test)]
mod tests;
