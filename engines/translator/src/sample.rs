//! Where this thread was when `host::sampling` interrupted it, for profiles of guest code.
//!
//! The signal's handler notes the host address and sets the kick word, so that the engine comes out soon and
//! makes a guest's address of it, as long as the block is still there. The guest's address is exact; the registers
//! at the exit are those of the next kick check, a few instructions later.
#![allow(unsafe_code)] // The kick word, from a signal handler.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use vcpu::Sighting;

use crate::context::KICK_OFFSET;
use crate::engine::Translator;
use crate::fault;

#[derive(Clone, Copy)]
enum Seen {
    /// At this host address in the translation cache.
    Code(u64),
    Engine,
    Monitor,
}

thread_local! {
    static SEEN: Cell<Option<Seen>> = const { Cell::new(None) };
}

/// The observer of interruptions.
pub fn observe(rip: u64) {
    let seen = match fault::running() {
        Some(running) if (running.code.0..running.code.1).contains(&rip) => {
            // SAFETY: the context is that of an engine that runs on this thread, and so is there; the kick word
            // stands behind it, aligned, and is touched by atomic operations only.
            let kick = unsafe { &*running.context.cast::<u8>().add(KICK_OFFSET).cast::<AtomicU32>() };
            kick.store(1, Ordering::Relaxed);
            Seen::Code(rip)
        }
        Some(_) => Seen::Engine,
        None => Seen::Monitor,
    };
    SEEN.set(Some(seen));
}

impl Translator {
    /// See [`vcpu::Engine::sighted`].
    pub(crate) fn take_sighting(&self) -> Option<Sighting> {
        Some(match SEEN.take()? {
            // The crossings' own code, and blocks that have gone since, are the engine.
            Seen::Code(host) => {
                let rip = self.cache.block_at(host).and_then(|block| {
                    let page = self.cache.page_of(&block.key);
                    block.guest_rip(page, host)
                });
                rip.map_or(Sighting::Engine, Sighting::Guest)
            }
            Seen::Engine => Sighting::Engine,
            Seen::Monitor => Sighting::Monitor,
        })
    }
}
