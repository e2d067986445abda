//! One connection: who may do what, and how much either side may send (5.10.6.3).

use super::answer;
use super::packet::{Header, shutdown};

/// What the guest may have under way to the host on one connection: `buf_alloc` of what the device sends.
pub const BUFFER: u32 = 256 << 10;
/// The guest is told of room when so much has become free since it was told last: seldom enough to cost little,
/// often enough that it never waits while three quarters are free.
const TELL: u32 = BUFFER / 4;

/// By which a connection is known on the wire; one context has one host and one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The guest has asked; the host has not answered.
    Asked,
    /// The host has asked; the guest has not answered.
    Asking,
    /// Both agree.
    Open,
}

/// Counters run freely and wrap, as on the wire.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ports: Ports,
    pub(super) stage: Stage,
    /// What the guest has said it will do no more: bits of [`shutdown`].
    pub(super) guest_shut: u32,
    /// Bytes from the guest, taken in.
    received: u32,
    /// Those of them that the host has taken.
    forwarded: u32,
    /// The count of them that the guest has been told.
    told: u32,
    /// Bytes to the guest.
    sent: u32,
    /// `buf_alloc` and `fwd_cnt` as the guest last said.
    guest_buffer: u32,
    guest_forwarded: u32,
    /// The guest has been asked for credit and has given none yet.
    pub(super) credit_asked: bool,
}

impl Connection {
    pub(super) fn new(ports: Ports, stage: Stage) -> Self {
        Self {
            ports,
            stage,
            guest_shut: 0,
            received: 0,
            forwarded: 0,
            told: 0,
            sent: 0,
            guest_buffer: 0,
            guest_forwarded: 0,
            credit_asked: false,
        }
    }

    /// Reads the credit that every packet carries.
    pub(super) fn hear(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        self.guest_forwarded = header.fwd_cnt;
        self.credit_asked &= self.room() == 0;
    }

    /// How much the guest has room for. One that has shrunk its buffer below what is in it, or claims to have taken
    /// more than it was sent, has none.
    pub(super) fn room(&self) -> u32 {
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    /// So much goes to the guest.
    pub(super) fn send(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }

    /// So much has come from the guest; `false` if that is more than it may.
    pub(super) fn receive(&mut self, len: u32) -> bool {
        let waiting = self.received.wrapping_sub(self.forwarded);
        let fits = waiting.checked_add(len).is_some_and(|all| all <= BUFFER);
        if fits {
            self.received = self.received.wrapping_add(len);
        }
        fits
    }

    /// The host has taken so much; says whether the guest should hear of it.
    pub(super) fn forward(&mut self, len: u32) -> bool {
        let waiting = self.received.wrapping_sub(self.forwarded);
        self.forwarded = self.forwarded.wrapping_add(len.min(waiting));
        self.forwarded.wrapping_sub(self.told) >= TELL
    }

    /// A packet for the guest, with what it is told of credit.
    pub(super) fn header(&mut self, guest_cid: u64, op: u16) -> Header {
        self.told = self.forwarded;
        Header { buf_alloc: BUFFER, fwd_cnt: self.told, ..answer(guest_cid, self.ports, op) }
    }

    /// Whether the guest still sends.
    pub(super) fn guest_sends(&self) -> bool {
        self.stage == Stage::Open && self.guest_shut & shutdown::SEND == 0
    }

    /// Whether the guest still receives.
    pub(super) fn guest_receives(&self) -> bool {
        self.stage == Stage::Open && self.guest_shut & shutdown::RECEIVE == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        Connection::new(Ports { host: 1, guest: 2 }, Stage::Open)
    }

    #[test]
    fn the_guest_gets_no_more_than_it_has_room_for() {
        let mut connection = connection();
        assert_eq!(connection.room(), 0);
        connection.sent = u32::MAX - 9;
        let said = |buf_alloc, fwd_cnt| Header { buf_alloc, fwd_cnt, ..Header::default() };
        connection.hear(&said(100, u32::MAX - 9));
        assert_eq!(connection.room(), 100);
        connection.send(60);
        assert_eq!(connection.room(), 40);
        connection.hear(&said(100, 20));
        assert_eq!(connection.room(), 70);
        // It shrinks its buffer; it claims what cannot be.
        connection.hear(&said(10, 20));
        assert_eq!(connection.room(), 0);
        connection.hear(&said(u32::MAX, 51));
        assert_eq!(connection.room(), 0);
    }

    #[test]
    fn the_guest_sends_no_more_than_there_is_room_for() {
        let mut connection = connection();
        assert!(connection.receive(BUFFER));
        assert!(!connection.receive(1) && !connection.receive(u32::MAX));
        assert!(!connection.forward(TELL - 1));
        assert!(connection.forward(1));
        assert_eq!(connection.header(3, 0).fwd_cnt, TELL);
        assert!(!connection.forward(0));
        assert!(connection.receive(TELL) && !connection.receive(1));
        // More cannot have been taken than there was.
        connection.forward(u32::MAX);
        assert_eq!(connection.header(3, 0).fwd_cnt, BUFFER + TELL);
    }
}
