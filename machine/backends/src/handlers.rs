//! What a serial line tells those at its near end.

use std::io;

/// Something to tell the owner of the machine.
#[derive(Debug)]
pub enum SerialEvent {
    /// The user typed the escape key and q.
    Quit,
    /// Input is at its end, and the device has taken all of it.
    InputEnded,
    /// The host takes no more output (a closed pipe, a full disk); what the guest sends is discarded from now on.
    OutputFailed(io::Error),
}

/// See [`Handlers::receive`].
pub type Receive = Box<dyn Fn(&[u8]) -> usize + Send + Sync>;

/// What the back-end calls, on threads of its own and without a lock of its own.
pub struct Handlers {
    /// Input for the device: takes some from the front and says how many. Of the rest it says with
    /// [`crate::InputWaker::room`] when to try again.
    pub receive: Receive,
    /// [`crate::SerialOutput::write`] has room again, after it took less than it was given.
    pub drained: Box<dyn Fn() + Send + Sync>,
    /// Everything else. Called on a thread of the back-end, so it must not drop the [`crate::Serial`].
    pub event: Box<dyn Fn(SerialEvent) + Send + Sync>,
}
