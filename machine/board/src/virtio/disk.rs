//! A block device on a disk image.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use backends::disk::{self, Completion, DiskError, DiskQueue, OpenOptions, Request};
use devices::virtio::VirtioDevice;
use devices::virtio::block::{Block, BlockBackend, BlockConfig, Operation, SECTOR, SERIAL, Token};
use devices::wiring::lock;
use memory::GuestRam;

use super::{Attached, Peripheral};

/// A disk that has been opened.
pub struct Disk {
    config: BlockConfig,
    port: Arc<Port>,
    /// The device of this life.
    device: Mutex<Weak<Mutex<Block>>>,
}

/// The back-end's side of all devices that there have been.
struct Port {
    queue: DiskQueue,
    /// For messages.
    name: String,
    /// The user knows already that the host fails.
    told: AtomicBool,
}

impl Disk {
    /// Opens the image at `path`. The guest reads `serial`, of which it gets 20 bytes.
    pub fn open(path: &Path, options: &OpenOptions, serial: &str, queues: u16) -> Result<Self, DiskError> {
        Self::new(disk::open(path, options)?, path.display().to_string(), serial, queues)
    }

    fn new(disk: Arc<dyn disk::Disk>, name: String, serial: &str, queues: u16) -> Result<Self, DiskError> {
        let mut id = [0; SERIAL];
        id.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
        let config =
            BlockConfig { capacity: disk.size() / SECTOR, read_only: disk.read_only(), serial: id, queues };
        let port = Port { queue: DiskQueue::new(disk)?, name, told: AtomicBool::new(false) };
        Ok(Self { config, port: Arc::new(port), device: Mutex::default() })
    }
}

impl Peripheral for Disk {
    fn attach(&self, _: &GuestRam) -> Attached {
        let device = Arc::new_cyclic(|device: &Weak<Mutex<Block>>| {
            let backend = Backend { port: self.port.clone(), device: device.clone() };
            Mutex::new(Block::new(self.config.clone(), Box::new(backend)))
        });
        *lock(&self.device) = Arc::downgrade(&device);
        Attached::with_state(&device)
    }

    fn detach(&self) {
        // However much the driver has put into its rings, or still puts there by requests that write into them:
        // nothing of it is begun any more.
        if let Some(device) = lock(&self.device).upgrade() {
            lock(&device).reset();
        }
        // Afterwards no thread of the queue's holds the device, nor through it the queue.
        self.port.queue.drain();
    }
}

/// What a device of one life has.
struct Backend {
    port: Arc<Port>,
    device: Weak<Mutex<Block>>,
}

impl BlockBackend for Backend {
    fn submit(&mut self, token: Token, operation: Operation) {
        let (device, port) = (self.device.clone(), self.port.clone());
        let done = move |Completion { result, buffer }: Completion| {
            let answer = result.map_err(|error| port.tell(&error)).ok().map(|()| buffer);
            // The port may be the last to hold the queue, but for the peripheral.
            drop(port);
            if let Some(device) = device.upgrade() {
                lock(&device).complete(token, answer);
            }
        };
        let request = Request { operation: translate(operation), done: Box::new(done) };
        self.port
            .queue
            .submit(request)
            .expect("a device has fewer requests under way than the queue has room for");
    }
}

impl Port {
    /// The guest gets an I/O error each time; its user is told why, once.
    fn tell(&self, error: &std::io::Error) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!("the host fails on {}: {error}; the guest sees I/O errors", self.name);
        }
    }
}

fn translate(operation: Operation) -> disk::Operation {
    match operation {
        Operation::Read { offset, buffer } => disk::Operation::Read { offset, buffer },
        Operation::Write { offset, buffer } => disk::Operation::Write { offset, buffer },
        Operation::Flush => disk::Operation::Flush,
        Operation::Discard { offset, len } => disk::Operation::Discard { offset, len },
        Operation::WriteZeroes { offset, len, unmap } => disk::Operation::WriteZeroes { offset, len, unmap },
    }
}
