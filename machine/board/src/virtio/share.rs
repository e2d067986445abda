//! A folder of the host as a file system device.
//!
//! The pool's threads take requests from whichever device is plugged in now, and answer them with the device locked
//! only to take and to give back.

use std::sync::{Arc, Mutex};

use backends::share::{MAX_REQUEST, Pool, PoolBell, Requests, ShareConfig, ShareError, Ticket};
use devices::virtio::Doorbell;
use devices::virtio::fs::{FileSystem, Taken};
use devices::wiring::lock;
use host::sandbox::{Access, Sandbox};
use memory::GuestRam;

use super::{Attached, Peripheral};

type SharedDevice = Arc<Mutex<FileSystem>>;

/// Which device is at this end now.
#[derive(Default)]
struct Socket(Mutex<Option<SharedDevice>>);

impl Requests for Socket {
    /// The device that a request came from, for that may be unplugged while it is being carried out.
    type Token = (SharedDevice, Taken);

    fn take(&self, request: &mut Vec<u8>) -> Option<Ticket<Self::Token>> {
        let device = lock(&self.0).clone()?;
        let taken = lock(&device).take(request)?;
        let (room, more) = (taken.room, taken.more);
        Some(Ticket { token: (device, taken), room, more })
    }

    fn answer(&self, (device, taken): Self::Token, reply: &[u8]) {
        lock(&device).answer(taken, reply);
    }
}

/// A shared folder, opened.
pub struct Share {
    tag: String,
    config: ShareConfig,
    share: backends::share::Share,
    socket: Arc<Socket>,
    pool: Pool,
}

impl Share {
    /// Opens the folder, which the guest finds by its tag of at most 36 bytes.
    pub fn open(tag: &str, config: &ShareConfig) -> Result<Self, ShareError> {
        let share = backends::share::Share::open(config)?;
        let socket = Arc::new(Socket::default());
        let pool = Pool::start(&share, &socket)?;
        Ok(Self { tag: tag.to_owned(), config: config.clone(), share, socket, pool })
    }
}

impl Peripheral for Share {
    fn attach(&self, _: &GuestRam) -> Attached {
        // Nothing that a guest before had open is this one's.
        self.share.reset();
        let device = Arc::new(Mutex::new(FileSystem::new(&self.tag, MAX_REQUEST)));
        *lock(&self.socket.0) = Some(device.clone());
        Attached::new(&device).with_doorbell(Arc::new(Bell(self.pool.bell())))
    }

    fn needs(&self, sandbox: &mut Sandbox) {
        let ShareConfig { path, readonly } = &self.config;
        sandbox.share(path, if *readonly { Access::Read } else { Access::ReadWrite });
    }

    fn detach(&self) {
        *lock(&self.socket.0) = None;
        self.pool.settle();
        self.share.reset();
    }
}

struct Bell(PoolBell);

impl Doorbell for Bell {
    fn ring(&self, _: u16) {
        self.0.ring();
    }
}
