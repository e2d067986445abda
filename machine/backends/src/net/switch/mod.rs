//! A switch that joins the VMs of one user on one host, with no privileges and no program of its own.
//!
//! # A mesh
//! Every VM has a Unix socket in a common folder and a connection to every other VM ([`folder`]); a frame goes
//! straight from the sender's process to the receiver's. A hub in one of the VMs would copy each frame twice, would
//! have to be elected, would take everybody's frames with it when killed, and would hold everybody up when stopped.
//! In a mesh the death of a VM, at any moment, is the end of its connections and nothing else, and nobody depends on
//! a third. The price is a socket for each pair, which for some dozens of VMs is small.
//!
//! Connections are made only by who joins, so that a VM that is running needs no more from the host than to accept.
//! A connection begins with a [greeting](HELLO); from then on each packet is a header ([`super::header`]) and a
//! frame. Segments of 64 KiB and missing checksums pass as they are: what a receiver does not take is done on its
//! side ([`super::finish`]).
//!
//! # Flow
//! A card that has no room holds up its reader thread, the socket fills, and the sender's card is told to wait: TCP
//! sees a slow network and no loss. A frame to all is the exception, lost where there is no room, or one slow VM would
//! set the pace of all broadcasts. Nobody is waited for longer than [`PATIENCE`]: what is sent to a VM that takes
//! nothing for so long (stopped, or its kernel hanging) is dropped until it has taken what waits for it.
//!
//! Kept for a peer is what its socket holds, and no more.
//!
//! Not modelled: VLANs (tags pass), spanning tree (there are no loops), multicast snooping.

mod folder;
mod members;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use host::event::{EventFd, Wait, poll};
use host::sandbox::{Access, Sandbox};
use host::seqpacket::Connection;

use self::folder::Place;
use self::members::{Flow, Id, Members, Peer};
use super::finish::finish;
use super::header::HEADER_LENGTH;
use super::{Handlers, MAX_FRAME, Mac, NetError, Network, Offload, Offloads};

/// What the connecting side says first, with its number behind it; the version is the last byte.
const HELLO: [u8; 8] = *b"popf sw1";
/// How long a guest waits for a peer that takes nothing.
const PATIENCE: Duration = Duration::from_millis(500);
/// What is asked to fit into a socket: some large frames, so that a pause of the receiver's does not become one of
/// the sender's. The host's limit (`net.core.wmem_max`) is often lower, and does.
const SOCKET_ROOM: usize = 1 << 20;
/// Frames taken from one peer before the others have their turn.
const BATCH: usize = 64;
/// Connections that have not said who they are.
const MAX_STRANGERS: usize = 8;

/// One VM's port on the switch.
pub struct Switch {
    folder: PathBuf,
    shared: Arc<Shared>,
    /// Until started, what the thread will have.
    place: Mutex<Option<Place>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    members: Mutex<Members>,
    guest_takes: Mutex<Offloads>,
    /// Wakes the thread: there is room, a peer is full, or the end has come.
    wake: EventFd,
    ending: AtomicBool,
}

impl Switch {
    /// Joins the switch that has this folder, which is made if it is missing.
    pub fn join(folder: &Path) -> Result<Self, NetError> {
        // As random as the standard library's hash tables, which is enough not to meet.
        let own = Id(RandomState::new().hash_one(std::process::id()));
        let place = Place::take(folder, own)?;
        let mut members = Members::new(own);
        for (id, connection) in folder::connect_to_all(folder, own)? {
            let hello = connection.send(&[IoSlice::new(&HELLO), IoSlice::new(&own.0.to_le_bytes())]);
            if hello.is_ok() {
                connection.set_send_room(SOCKET_ROOM)?;
                members.add(id, connection, true);
            }
        }
        let shared = Shared {
            members: Mutex::new(members),
            guest_takes: Mutex::new(Offloads::NONE),
            wake: EventFd::new()?,
            ending: AtomicBool::new(false),
        };
        Ok(Self {
            folder: folder.to_owned(),
            shared: Arc::new(shared),
            place: Mutex::new(Some(place)),
            thread: Mutex::new(None),
        })
    }

    /// How many others there are.
    pub fn peers(&self) -> usize {
        lock(&self.shared.members).peers().len()
    }
}

impl Network for Switch {
    fn needs(&self, sandbox: &mut Sandbox) {
        sandbox.unix_sockets();
        // Our socket, at the end.
        sandbox.path(&self.folder, Access::Remove);
    }

    fn takes(&self) -> Offloads {
        Offloads::ALL
    }

    fn start(&self, handlers: Handlers) -> Result<(), NetError> {
        let Some(place) = lock(&self.place).take() else { return Ok(()) };
        let port = Port {
            shared: self.shared.clone(),
            handlers,
            place,
            strangers: Vec::new(),
            held: VecDeque::new(),
            buffer: vec![0; MAX_FRAME],
        };
        let thread = thread::Builder::new().name("switch".into()).spawn(move || port.run());
        *lock(&self.thread) = Some(thread.map_err(NetError::Thread)?);
        Ok(())
    }

    fn guest_takes(&self, offloads: Offloads) {
        *lock(&self.shared.guest_takes) = offloads;
    }

    fn send(&self, frame: &[u8], offload: Offload) -> bool {
        let Some(to) = frame.first_chunk::<6>().filter(|_| frame.len() <= MAX_FRAME) else { return true };
        let header = offload.to_header();
        let parts = [IoSlice::new(&header), IoSlice::new(frame)];
        let mut members = lock(&self.shared.members);
        let Some(peer) = members.behind(Mac(*to)) else {
            for peer in members.peers() {
                // Full or gone: nothing to be done about it here.
                let _ = peer.connection.send(&parts);
            }
            return true;
        };
        match peer.connection.send(&parts) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && peer.flow != Flow::Stalled => {
                if peer.flow == Flow::Free {
                    peer.flow = Flow::Full(Instant::now());
                }
                drop(members);
                self.shared.wake.notify();
                false
            }
            // Whether it has gone the thread finds out.
            _ => true,
        }
    }

    fn room(&self) {
        self.shared.wake.notify();
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        self.shared.wake.notify();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the thread's has been reported by it.
            let _ = thread.join();
        }
    }
}

/// What the thread works with.
struct Port {
    shared: Arc<Shared>,
    handlers: Handlers,
    place: Place,
    /// They have connected and not yet said who they are.
    strangers: Vec<Connection>,
    /// What the card had no room for. Nothing more is read while there is any, so it is one frame's at most.
    held: VecDeque<(Vec<u8>, Offload)>,
    buffer: Vec<u8>,
}

impl Port {
    fn run(mut self) {
        while !self.shared.ending.load(Ordering::Acquire) {
            if let Err(error) = self.turn() {
                tracing::error!("the switch has stopped: {error}");
                return;
            }
        }
    }

    /// Waits for something to do and does it.
    fn turn(&mut self) -> Result<(), host::HostError> {
        let peers = lock(&self.shared.members).peers().to_vec();
        let listening = self.held.is_empty();
        let mut waits = vec![Wait::readable(&self.shared.wake), Wait::readable(&self.place.listener)];
        waits.extend(self.strangers.iter().map(Wait::readable));
        let fixed = waits.len();
        let mut slots = Vec::with_capacity(peers.len());
        for peer in &peers {
            let read = listening.then(|| Wait::readable(&*peer.connection));
            let write = (peer.flow != Flow::Free).then(|| Wait::writable(&*peer.connection));
            slots.push((read.is_some(), write.is_some()));
            waits.extend(read.into_iter().chain(write));
        }
        let full = peers.iter().filter_map(|peer| match peer.flow {
            Flow::Full(since) => Some(PATIENCE.saturating_sub(since.elapsed())),
            _ => None,
        });
        poll(&mut waits, full.min())?;
        let ready: Vec<bool> = waits.iter().map(Wait::ready).collect();
        drop(waits);

        if ready[0] {
            self.shared.wake.take();
        }
        let mut ready_of_peers = ready[fixed..].iter().copied();
        let mut next = |asked: bool| asked && ready_of_peers.next().unwrap_or(false);
        let mut freed = false;
        let mut readable = Vec::new();
        for (peer, (read, write)) in peers.iter().zip(slots) {
            if next(read) {
                readable.push(peer);
            }
            freed |= self.update_flow(peer, next(write));
        }
        // Outside of all locks: the card answers by sending.
        if freed {
            (self.handlers.drained)();
        }
        self.hand_over();
        for peer in readable {
            self.receive(peer);
        }
        self.meet(&ready[2..fixed]);
        if ready[1] {
            self.accept();
        }
        Ok(())
    }

    /// What has become of a peer that was full; `true` if our guest need not wait for it any more.
    fn update_flow(&self, peer: &Peer, writable: bool) -> bool {
        let flow = match peer.flow {
            Flow::Free => return false,
            _ if writable => Flow::Free,
            Flow::Full(since) if since.elapsed() >= PATIENCE => Flow::Stalled,
            unchanged => unchanged,
        };
        let mut members = lock(&self.shared.members);
        let current = members.peers().iter_mut().find(|other| other.id == peer.id);
        if let Some(current) = current {
            current.flow = flow;
        }
        matches!(peer.flow, Flow::Full(_)) && flow != peer.flow
    }

    /// Offers the card what it had no room for.
    fn hand_over(&mut self) {
        while let Some((frame, offload)) = self.held.front()
            && (self.handlers.receive)(frame, *offload)
        {
            self.held.pop_front();
        }
    }

    /// Takes frames from a peer while the card takes them.
    fn receive(&mut self, peer: &Peer) {
        let mut last_source = None;
        for _ in 0..BATCH {
            if !self.held.is_empty() {
                return;
            }
            let mut header = [0; HEADER_LENGTH];
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut self.buffer)];
            let length = match peer.connection.receive(&mut parts) {
                Ok(length @ 1..) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => {
                    lock(&self.shared.members).remove(peer.id, &peer.connection);
                    // Who waited for it need not any more.
                    (self.handlers.drained)();
                    return;
                }
            };
            let frame = self.buffer.get(..length.saturating_sub(HEADER_LENGTH)).unwrap_or_default();
            let (Ok(offload), Some(source)) = (Offload::from_header(&header), source(frame)) else {
                continue;
            };
            if last_source != Some(source) {
                lock(&self.shared.members).learn(source, peer.id);
                last_source = Some(source);
            }
            let takes = *lock(&self.shared.guest_takes);
            let (held, handlers) = (&mut self.held, &self.handlers);
            finish(frame, offload, takes, |frame, offload| {
                if !held.is_empty() || !(handlers.receive)(frame, offload) {
                    held.push_back((frame.to_vec(), offload));
                }
                true
            });
        }
    }

    /// Hears who the strangers are that have something to say.
    fn meet(&mut self, ready: &[bool]) {
        let mut ready = ready.iter().copied();
        let strangers = std::mem::take(&mut self.strangers);
        for stranger in strangers {
            if !ready.next().unwrap_or(false) {
                self.strangers.push(stranger);
                continue;
            }
            let mut hello = [0; HELLO.len() + 8];
            let length = stranger.receive(&mut [IoSliceMut::new(&mut hello)]).unwrap_or(0);
            let (magic, id) = hello.split_at(HELLO.len());
            if length == hello.len() && magic == HELLO {
                let id = u64::from_le_bytes(std::array::from_fn(|at| id[at]));
                lock(&self.shared.members).add(Id(id), stranger, false);
                // It may have taken the place of a connection that was waited for.
                (self.handlers.drained)();
            } else if length > 0 {
                tracing::warn!("somebody on the switch does not speak as this version of popf does");
            }
        }
    }

    fn accept(&mut self) {
        match self.place.listener.accept() {
            Ok(Some(connection)) => {
                let own = connection.is_own_user().unwrap_or(false);
                if own && connection.set_send_room(SOCKET_ROOM).is_ok() {
                    // Who never says a word makes room for who may.
                    self.strangers.truncate(MAX_STRANGERS - 1);
                    self.strangers.push(connection);
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!("nobody can be let onto the switch: {error}");
                // It waits there still, and would be the next thing to be seen, and the next.
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Where a frame comes from; `None` for what is no frame.
fn source(frame: &[u8]) -> Option<Mac> {
    frame.get(..14)?;
    frame.get(6..12)?.first_chunk().copied().map(Mac)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds these locks can panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
