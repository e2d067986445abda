//! A tap interface of the host, by itself or joined to a bridge.
//!
//! Headers pass in both directions as they are, so that checksums and segments cost nothing: the kernel does, or
//! passes on, what the guest has left undone, and the other way round.
//!
//! # Privileges
//! An interface that was made for this user (`ip tuntap add NAME mode tap user USER`) takes none. Making one, and
//! joining it to a bridge, takes CAP_NET_ADMIN. One that was made here ends with the process, however that ends.
//!
//! Not modelled: queues of their own for several processors. An interface made with `multi_queue` can be used.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use host::event::{EventFd, Wait, poll};
use host::interface::Interface;
use host::{HostError, Sandbox, tap};

use super::header::HEADER_LENGTH;
use super::{Handlers, MAX_FRAME, NetError, Network, Offload, Offloads};

/// Interfaces that are made for bridges are called so; the kernel puts a number.
const MADE_NAME: &str = "popf%d";
/// Frames taken from the kernel until it is seen whether there is something else to do.
const BATCH: usize = 64;
/// Frames that wait to be delivered and are not the kernel's.
const MOST_OWN: usize = 16;

/// A tap interface as a network.
pub struct Tap {
    shared: Arc<Shared>,
    mtu: u16,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    tap: tap::Tap,
    /// Wakes the thread: there is room, the kernel is full, or the end has come.
    wake: EventFd,
    /// The guest waits for the kernel.
    full: AtomicBool,
    /// Frames for the guest that are not the kernel's.
    own: Mutex<VecDeque<Vec<u8>>>,
    ending: AtomicBool,
}

impl Tap {
    /// Opens the interface, or makes it if it is missing, and turns it on.
    pub fn open(name: &str) -> Result<Self, NetError> {
        let refuse = |source| refusal(source, || NetError::TapPrivilege { name: name.into() }, name);
        let tap = match tap::Tap::open(name, false) {
            // Its queues may be several, and then every opener has to know.
            Err(error) if is(&error, ErrorKind::InvalidInput) => tap::Tap::open(name, true),
            other => other,
        };
        Self::new(tap.map_err(refuse)?, refuse)
    }

    /// Makes an interface, joins it to a bridge that is there, and turns it on.
    pub fn on_bridge(bridge: &str) -> Result<Self, NetError> {
        let missing = || NetError::NoBridge { name: bridge.into() };
        let found = Interface::find(bridge).ok_or_else(missing)?;
        let refuse =
            |source| refusal(source, || NetError::BridgePrivilege { name: bridge.into() }, MADE_NAME);
        let tap = tap::Tap::open(MADE_NAME, false).map_err(refuse)?;
        found.add_port(tap.name()).map_err(|error| match is(&error, ErrorKind::Unsupported) {
            true => missing(),
            false => refuse(error),
        })?;
        Self::new(tap, refuse)
    }

    fn new(tap: tap::Tap, refuse: impl Fn(HostError) -> NetError) -> Result<Self, NetError> {
        let gone = || HostError::Call { call: "if_nametoindex", source: ErrorKind::NotFound.into() };
        let interface = Interface::find(tap.name()).ok_or_else(|| refuse(gone()))?;
        interface.set_up(true).map_err(|error| match is(&error, ErrorKind::PermissionDenied) {
            true => NetError::TapDown { name: tap.name().into() },
            false => refuse(error),
        })?;
        let mtu = interface.mtu()?;
        let shared = Shared {
            tap,
            wake: EventFd::new()?,
            full: AtomicBool::new(false),
            own: Mutex::default(),
            ending: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared), mtu, thread: Mutex::new(None) })
    }

    /// Brings the guest a frame that is not the kernel's, when its turn comes; dropped if there are many.
    pub(super) fn deliver(&self, frame: Vec<u8>) {
        let mut own = lock(&self.shared.own);
        if own.len() < MOST_OWN {
            own.push_back(frame);
            drop(own);
            self.shared.wake.notify();
        }
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        self.shared.tap.name()
    }
}

fn is(error: &HostError, kind: ErrorKind) -> bool {
    matches!(error, HostError::Call { source, .. } if source.kind() == kind)
}

/// What a host's refusal means for the user.
fn refusal(source: HostError, privilege: impl FnOnce() -> NetError, name: &str) -> NetError {
    match &source {
        error if is(error, ErrorKind::PermissionDenied) => privilege(),
        error if is(error, ErrorKind::NotFound) => NetError::NoTun(source),
        error if is(error, ErrorKind::ResourceBusy) => NetError::TapBusy { name: name.into() },
        error if is(error, ErrorKind::InvalidInput) => NetError::NoTap { name: name.into(), source },
        _ => NetError::Host(source),
    }
}

impl Network for Tap {
    fn needs(&self, sandbox: &mut Sandbox) {
        sandbox.tun();
    }

    fn takes(&self) -> Offloads {
        Offloads::ALL
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn start(&self, handlers: Handlers) -> Result<(), NetError> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let shared = self.shared.clone();
            let run = move || {
                if let Err(error) = shared.run(&handlers) {
                    tracing::error!("the interface {} is lost: {error}", shared.tap.name());
                }
            };
            *thread = Some(thread::Builder::new().name("tap".into()).spawn(run).map_err(NetError::Thread)?);
        }
        Ok(())
    }

    fn guest_takes(&self, offloads: Offloads) {
        let Offloads { checksum, tcp4, tcp6, ecn } = offloads;
        let wanted = tap::Offloads { checksum, tcp4, tcp6, ecn, udp: false };
        if let Err(error) = self.shared.tap.set_offloads(wanted) {
            // Then the kernel does more than it need.
            tracing::warn!("the interface {} has no offload: {error}", self.name());
        }
    }

    fn send(&self, frame: &[u8], offload: Offload) -> bool {
        let header = offload.to_header();
        match self.shared.tap.send(&[IoSlice::new(&header), IoSlice::new(frame)]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.shared.full.store(true, Ordering::Release);
                self.shared.wake.notify();
                false
            }
            // What it does not like, or an interface that is turned off, is a frame lost.
            _ => true,
        }
    }

    fn room(&self) {
        self.shared.wake.notify();
    }
}

impl Shared {
    /// The thread: frames for the guest, until the end.
    fn run(&self, handlers: &Handlers) -> io::Result<()> {
        let mut buffer = vec![0; MAX_FRAME];
        // What the card had no room for.
        let mut held: Option<(usize, Offload)> = None;
        loop {
            let (full, reading) = (self.full.load(Ordering::Acquire), held.is_none());
            let mut waits = vec![Wait::readable(&self.wake)];
            waits.extend(reading.then(|| Wait::readable(&self.tap)));
            waits.extend(full.then(|| Wait::writable(&self.tap)));
            poll(&mut waits, None).map_err(io::Error::other)?;
            let woken = waits[0].ready();
            let drained = full && waits.last().is_some_and(Wait::ready);
            drop(waits);
            if woken {
                self.wake.take();
            }
            if self.ending.load(Ordering::Acquire) {
                return Ok(());
            }
            if drained {
                self.full.store(false, Ordering::Release);
                (handlers.drained)();
            }
            held = held.filter(|(length, offload)| !(handlers.receive)(&buffer[..*length], *offload));
            for _ in 0..BATCH {
                if held.is_some() {
                    break;
                }
                let own = lock(&self.own).pop_front();
                if let Some(frame) = own {
                    buffer[..frame.len()].copy_from_slice(&frame);
                    if !(handlers.receive)(&frame, Offload::default()) {
                        held = Some((frame.len(), Offload::default()));
                    }
                    continue;
                }
                let mut header = [0; HEADER_LENGTH];
                let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut buffer)];
                let length = match self.tap.receive(&mut parts) {
                    Ok(length) => length.saturating_sub(HEADER_LENGTH).min(buffer.len()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                let Ok(offload) = Offload::from_header(&header) else { continue };
                if !(handlers.receive)(&buffer[..length], offload) {
                    held = Some((length, offload));
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds these locks can panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        self.shared.wake.notify();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread's has been reported by it.
            let _ = thread.join();
        }
    }
}
