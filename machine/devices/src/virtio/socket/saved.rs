//! What is saved of a socket device: nothing. A connection's other end is a descriptor of the process that ends, so
//! none survives; that there was such a section has the restored device tell its driver so (5.10.6.7.1).

use savestate::{Invalid, NoOlder, Persist, Saved};
use serde::{Deserialize, Serialize};

use super::Socket;

/// See [`Socket`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStateV1 {}

impl Saved for SocketStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for Socket {
    const KIND: &'static str = "virtio-socket";
    type State = SocketStateV1;

    fn save(&self) -> SocketStateV1 {
        let Self {
            guest_cid: _,
            wake: _,
            queues: _,
            connections: _,
            outbox: _,
            last: _,
            last_port: _,
            rx_used: _,
            tx_used: _,
            forgotten: _,
            reset_owed: _,
        } = self;
        SocketStateV1 {}
    }

    fn check(&self, _: &SocketStateV1) -> Result<(), Invalid> {
        Ok(())
    }

    /// The transport has been restored before and has activated the device if it was active.
    fn commit(&mut self, state: SocketStateV1) {
        let SocketStateV1 {} = state;
        self.reset_owed = true;
        (self.wake)();
    }
}
