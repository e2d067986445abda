//! One connection: the guest's end and the host's, and moving bytes between them.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use smoltcp::wire::IpProtocol;

use super::Name;
use super::endpoint::{Arrival, Endpoint};
use super::ring::Budget;
use super::segment::Segment;
use crate::net::user::context::Context;
use crate::net::user::link::{Link, Transport};
use crate::net::user::timers::Alarm;

/// How often a connection reads and writes before others have their turn.
const TURNS: usize = 4;

/// See the module.
pub(super) struct Flow {
    pub name: Name,
    pub endpoint: Endpoint,
    pub socket: TcpStream,
    /// What the socket was ready for when last heard of; edges do not come again.
    pub readable: bool,
    pub writable: bool,
    /// The peer has been told that the guest sends nothing more.
    ended: bool,
    /// In one of the lists of those that wait for their turn.
    pub queued: bool,
    pub last: Instant,
    pub alarm: Alarm,
}

/// What comes of a turn.
pub(super) enum Turn {
    /// Everything is done that can be done now.
    Idle,
    /// There is more.
    Busy,
    /// The guest has no room.
    Stalled,
    /// Both have ended.
    Over,
    /// The host's connection is broken.
    Broken,
}

impl Flow {
    pub(super) fn new(name: Name, socket: TcpStream, endpoint: Endpoint, now: Instant) -> Self {
        // The guest has decided already what goes together.
        let _ = socket.set_nodelay(true);
        Self {
            name,
            endpoint,
            socket,
            readable: false,
            writable: false,
            ended: false,
            queued: false,
            last: now,
            alarm: Alarm::default(),
        }
    }

    /// Whether the host's connection, which was begun, stands, or why it does not.
    pub(super) fn connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes what came from the guest: straight to the host, as far as that takes it and nothing waits already.
    pub(super) fn take(&mut self, arrival: &Arrival<'_>, budget: &mut Budget) -> io::Result<()> {
        let payload = arrival.payload;
        if payload.is_empty() && !arrival.fin {
            return Ok(());
        }
        let mut direct = 0;
        if self.writable && self.endpoint.incoming().is_empty() && !payload.is_empty() {
            match (&self.socket).write(payload) {
                Ok(count) => direct = count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.endpoint.accept(payload, direct, arrival.fin, budget);
        Ok(())
    }

    /// Moves what can be moved.
    pub(super) fn turn(&mut self, context: &mut Context<'_>, budget: &mut Budget) -> Turn {
        let guest = self.name.0.ip();
        let (largest, limit) = (context.link.mss(guest), context.link.segment_limit(guest));
        for _ in 0..TURNS {
            let moved = self.write_host().and_then(|sent| Ok(self.read_host(budget)? | sent));
            let Ok(mut moved) = moved else { return Turn::Broken };
            loop {
                if !context.link.has_room() {
                    return Turn::Stalled;
                }
                let Some((segment, offset, len)) = self.endpoint.next(limit, largest, context.now) else {
                    break;
                };
                let mss = self.endpoint.mss();
                let payload = self.endpoint.outgoing().peek(offset, len);
                context.link.send_segment(self.name, &segment, payload, mss, context.now);
                moved |= len > 0;
            }
            if self.ended && self.endpoint.done() {
                return Turn::Over;
            }
            if !moved {
                return Turn::Idle;
            }
        }
        Turn::Busy
    }

    /// Writes what waits for the host. Says whether it took something.
    fn write_host(&mut self) -> io::Result<bool> {
        let mut moved = false;
        if self.writable && !self.endpoint.incoming().is_empty() {
            match self.endpoint.incoming().drain(&self.socket) {
                Ok(_) => {
                    self.endpoint.drained();
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => moved = true,
                Err(error) => return Err(error),
            }
        }
        if !self.ended && self.endpoint.guest_done() {
            // A peer that is gone already will be found out by the read.
            let _ = self.socket.shutdown(Shutdown::Write);
            self.ended = true;
        }
        Ok(moved)
    }

    /// Reads what the host has. Says whether there was something.
    fn read_host(&mut self, budget: &mut Budget) -> io::Result<bool> {
        if !self.readable || self.endpoint.room(budget) == 0 {
            return Ok(false);
        }
        match self.endpoint.outgoing().fill(&self.socket) {
            Ok(0) => {
                self.endpoint.end();
                self.readable = false;
                Ok(false)
            }
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Link {
    /// Sends the guest a segment without payload.
    pub(super) fn send_tcp(&mut self, name: Name, segment: &Segment<'_>, now: Instant) {
        self.send_segment(name, segment, (&[], &[]), u16::MAX, now);
    }

    fn send_segment(
        &mut self,
        name: Name,
        segment: &Segment<'_>,
        payload: (&[u8], &[u8]),
        mss: u16,
        now: Instant,
    ) {
        let (guest, remote) = name;
        let header = segment.header(remote.port(), guest.port());
        let cut = payload.0.len() + payload.1.len() > usize::from(mss);
        let transport = Transport {
            protocol: IpProtocol::Tcp,
            header: header.bytes(),
            checksum: 16,
            payload,
            cut: cut.then_some(mss),
        };
        self.send(remote.ip(), guest.ip(), transport, now);
    }
}
