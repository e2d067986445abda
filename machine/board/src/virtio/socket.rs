//! The socket device on the host's Unix sockets.
//!
//! A running VM that has a directory for its sockets gets one device:
//!
//! ```no_run
//! # fn plug(config: &mut board::machine::Config) -> Result<(), backends::vsock::VsockError> {
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! // Before the process is shut in: this makes the socket.
//! let socket = board::virtio::Socket::listen(Path::new("/run/user/1000/popf/web/vsock.sock"))?;
//! config.peripherals.push(Arc::new(socket));
//! # Ok(())
//! # }
//! ```
//!
//! A program of the host then reaches the guest's port 1024 by connecting to that socket and sending `CONNECT
//! 1024\n`; see [`backends::vsock`]. The guest's context ID is [`FIRST_CID`], in every VM alike: it has a meaning within
//! one VM only.

use std::path::Path;
use std::sync::{Arc, Mutex};

use backends::vsock::{Event, Guest, Vsock, VsockBell, VsockError};
use devices::virtio::Doorbell;
use devices::virtio::socket::{self, FIRST_CID};
use devices::wiring::{Notify, lock};
use host::Sandbox;
use memory::GuestRam;

use super::{Attached, Peripheral};

type SharedSocket = Arc<Mutex<socket::Socket>>;

/// The device of this life. Locked while the back-end's thread is in the device, before the device itself.
type Current = Arc<Mutex<Option<SharedSocket>>>;

/// A socket device, and the host's sockets.
pub struct Socket {
    guest_cid: u32,
    vsock: Vsock,
    current: Current,
}

impl Socket {
    /// Listens at `path` for programs that want to be connected to the guest.
    pub fn listen(path: &Path) -> Result<Self, VsockError> {
        let mut vsock = Vsock::listen(path)?;
        let current = Current::default();
        vsock.start(Box::new(Device(current.clone())))?;
        Ok(Self { guest_cid: FIRST_CID, vsock, current })
    }

    /// The guest gets another context ID; at least [`FIRST_CID`].
    pub fn with_guest_cid(self, guest_cid: u32) -> Self {
        Self { guest_cid: guest_cid.max(FIRST_CID), ..self }
    }
}

impl Peripheral for Socket {
    fn attach(&self, _: &GuestRam) -> Attached {
        let bell = self.vsock.bell();
        let wake: Notify = Arc::new(move || bell.ring());
        let device = Arc::new(Mutex::new(socket::Socket::new(self.guest_cid, wake)));
        *lock(&self.current) = Some(device.clone());
        Attached::with_state(&device).with_doorbell(Arc::new(Bell(self.vsock.bell())))
    }

    fn needs(&self, sandbox: &mut Sandbox) {
        sandbox.unix_connections(self.vsock.directory());
    }

    fn detach(&self) {
        *lock(&self.current) = None;
    }
}

/// Notifications go to the back-end's thread without a look at the device, which that thread may have locked.
struct Bell(VsockBell);

impl Doorbell for Bell {
    fn ring(&self, _: u16) {
        self.0.ring();
    }
}

struct Device(Current);

impl Device {
    /// `R`'s default where there is no device.
    fn with<R: Default>(&self, act: impl FnOnce(&mut socket::Socket) -> R) -> R {
        lock(&self.0).as_ref().map(|device| act(&mut lock(device))).unwrap_or_default()
    }
}

impl Guest for Device {
    fn next(&self, data: &mut Vec<u8>) -> Option<Event> {
        let event = self.with(|device| device.next(data))?;
        Some(match event {
            socket::Event::Reset => Event::Reset,
            socket::Event::Connect { connection, port } => Event::Connect { connection, port },
            socket::Event::Opened { connection, port } => Event::Opened { connection, port },
            socket::Event::Data { connection } => Event::Data { connection },
            socket::Event::Shutdown { connection, sends, receives } => {
                Event::Shutdown { connection, sends, receives }
            }
            socket::Event::Closed { connection } => Event::Closed { connection },
            socket::Event::Nothing => Event::Nothing,
        })
    }

    fn open(&self, port: u32) -> Option<u64> {
        self.with(|device| device.open(port))
    }

    fn accept(&self, connection: u64) {
        self.with(|device| device.accept(connection));
    }

    fn send(&self, connection: u64, bytes: &[u8]) -> usize {
        self.with(|device| device.send(connection, bytes))
    }

    fn consumed(&self, connection: u64, bytes: usize) {
        self.with(|device| device.consumed(connection, bytes));
    }

    fn finish(&self, connection: u64) {
        self.with(|device| device.finish(connection));
    }

    fn close(&self, connection: u64) {
        self.with(|device| device.close(connection));
    }
}
