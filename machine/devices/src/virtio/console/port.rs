//! One port: a stream of bytes in each direction (5.3.6).

use std::collections::VecDeque;

use super::PortWiring;
use crate::virtio::Virtqueue;

/// The most that is taken of one buffer of the driver's and kept until the host takes it. Linux writes 64 KiB at the
/// most; of a longer buffer the rest is lost.
pub(super) const MOST_HELD: usize = 256 << 10;

/// What the driver is to be told of a port, in the order in which it is told.
pub(super) mod owed {
    /// VIRTIO_CONSOLE_DEVICE_ADD.
    pub(crate) const ADD: u8 = 1 << 0;
    /// VIRTIO_CONSOLE_CONSOLE_PORT.
    pub(crate) const CONSOLE: u8 = 1 << 1;
    /// VIRTIO_CONSOLE_RESIZE.
    pub(crate) const SIZE: u8 = 1 << 2;
    /// VIRTIO_CONSOLE_PORT_NAME.
    pub(crate) const NAME: u8 = 1 << 3;
    /// VIRTIO_CONSOLE_PORT_OPEN, as it is when it is told.
    pub(crate) const OPEN: u8 = 1 << 4;
    /// Everything there is.
    pub(crate) const ALL: u8 = ADD | CONSOLE | SIZE | NAME | OPEN;
}

/// A port.
pub(super) struct Port {
    pub(super) wiring: PortWiring,
    /// The host's end is open: what is sent arrives somewhere.
    pub(super) host_open: bool,
    /// The guest's end is open.
    pub(super) guest_open: bool,
    /// The driver has said that it knows the port.
    pub(super) ready: bool,
    /// Bits of [`owed`].
    pub(super) owed: u8,
    /// Bytes of a buffer that has been given back, not yet taken by the host.
    pub(super) held: VecDeque<u8>,
}

impl Port {
    pub(super) fn new(wiring: PortWiring) -> Self {
        Self { wiring, host_open: false, guest_open: false, ready: false, owed: 0, held: VecDeque::new() }
    }

    /// What the guest knows is forgotten; the host's end stays as it is.
    pub(super) fn reset(&mut self) {
        self.guest_open = false;
        self.ready = false;
        self.owed = 0;
        self.held.clear();
    }

    /// Takes what the guest has sent, as long as the host takes it.
    pub(super) fn transmit(&mut self, queue: &mut Virtqueue) {
        let mut used = false;
        while self.drain()
            && let Some(mut chain) = queue.pop()
        {
            let mut bytes = vec![0; (chain.readable() as usize).min(MOST_HELD)];
            match chain.read(&mut bytes) {
                // Nobody is there to be kept waiting for.
                Ok(()) if !self.host_open => {}
                Ok(()) => self.held.extend(bytes),
                Err(error) => tracing::debug!("bytes for a port: {error}"),
            }
            queue.push(chain, 0);
            used = true;
        }
        if used {
            queue.interrupt();
        }
    }

    /// Offers the host what is held; says whether there may be more. What a restored port holds waits for somebody to
    /// take it, but does not have the guest wait.
    fn drain(&mut self) -> bool {
        while self.host_open && !self.held.is_empty() {
            let (front, _) = self.held.as_slices();
            let taken = self.wiring.output.write(front).min(front.len());
            self.held.drain(..taken);
            if taken == 0 {
                return false;
            }
        }
        true
    }

    /// Puts bytes into the guest's buffers; says how many.
    pub(super) fn receive(&mut self, queue: &mut Virtqueue, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while self.guest_open
            && taken < bytes.len()
            && let Some(mut chain) = queue.pop()
        {
            let len = (bytes.len() - taken).min(chain.writable() as usize);
            match chain.write(&bytes[taken..taken + len]) {
                // An empty buffer would come back for ever.
                Ok(()) if len > 0 => queue.push(chain, len as u32),
                Ok(()) => queue.break_down(&"a receive buffer has no room"),
                Err(error) => queue.break_down(&error),
            }
            taken += len;
        }
        if taken > 0 {
            queue.interrupt();
        }
        taken
    }
}
