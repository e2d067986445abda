//! The guest's end of `popf shell`, `popf cp` and `popf run IMAGE -- COMMAND`: a program that listens on a vsock port,
//! runs what it is told, and carries the program's input, output and end. `agent/src/protocol.rs` beside this crate
//! says how.
//!
//! It takes connections from the host alone, by the context number that the guest's kernel sees: who has the VM's
//! socket on the host has the guest, and nobody in the guest does. Each connection is a process of its own with
//! buffers of fixed size, so that none can hold up or exhaust another.
//!
//! Started with the argument `inherited` it listens on its standard input instead, a socket that is listening
//! already. Tests on the host do so, with a Unix socket.
//!
//! Not modelled: users other than root.

#![no_std]
#![no_main]

mod bare;
#[path = "agent/calls.rs"]
mod calls;
#[path = "agent/child.rs"]
mod child;
mod execute;
#[allow(dead_code, reason = "shared with other guests' programs")]
mod parse;
#[path = "../../agent/src/protocol.rs"]
#[allow(dead_code, reason = "shared with the host's side")]
mod protocol;
#[path = "agent/session.rs"]
mod session;
#[allow(dead_code, reason = "shared with other guests' programs")]
mod sys;

use calls::{Fd, Peer};
use core::ffi::CStr;
use sys::Signals;

/// So many connections are served at once; further ones wait.
const SESSIONS: u32 = 64;
/// How long to wait before trying again what the kernel has refused for want of memory or files.
const PAUSE_MS: i32 = 100;

/// Taken from a descriptor, or in SIGPIPE's case not at all: a peer or program that is gone is noticed at the write.
pub const BLOCKED: Signals = Signals::of(&[sys::SIGCHLD, calls::SIGPIPE]);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    sys::exit(101)
}

extern "C" fn main(stack: *const usize) -> ! {
    sys::reserve_standard_files();
    BLOCKED.block();
    let inherited = calls::arguments(stack).any(|argument| argument == c"inherited");
    let listener = if inherited { Some(Fd::STANDARD_INPUT) } else { calls::listen(protocol::PORT) };
    let (Some(listener), Some(children)) = (listener, calls::signals(Signals::of(&[sys::SIGCHLD]))) else {
        say(c"popf-agent: cannot listen on vsock\n");
        sys::exit(1);
    };
    let mut sessions = 0;
    loop {
        let mut ready = [calls::readable(&children), calls::readable(&listener)];
        let watched = if sessions < SESSIONS { 2 } else { 1 };
        calls::poll(&mut ready[..watched], None);
        calls::clear_signals(&children);
        while sys::reap(false).is_some() {
            sessions -= 1;
        }
        if !ready[1].is_ready() {
            continue;
        }
        match calls::accept(&listener) {
            Some((connection, Peer::Host)) => sessions += u32::from(start(&connection)),
            Some((connection, Peer::Local)) if inherited => sessions += u32::from(start(&connection)),
            // Somebody inside the guest, or another guest.
            Some(_) => {}
            None => calls::pause(PAUSE_MS),
        }
    }
}

/// Gives a connection a process.
fn start(connection: &Fd) -> bool {
    match sys::fork() {
        0 => {
            session::serve(connection);
            sys::exit(0)
        }
        child => child > 0,
    }
}

fn say(text: &CStr) {
    sys::write(2, text.to_bytes());
}
