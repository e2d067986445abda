//! A debugger's view of a machine: GDB's remote protocol on a socket (GDB manual, appendix "Remote Protocol").
//!
//! A [`Debugger`] waits for one debugger at a time. While one is connected it holds the machine's vCPUs in the board's
//! [yard](board::yard) whenever they do not run on its order. It sees what no guest can hide: every register, memory
//! by linear and physical address, and it leaves no trace: breakpoints are the engine's and not in memory, and the
//! guest's own debug registers stay the guest's. The protocol itself is `gdbstub`'s.
//!
//! Not there: reverse execution, non-stop mode, AVX registers, files of the host's.

mod connection;
mod description;
mod fpu;
mod memory;
mod monitor;
mod registers;
mod session;
mod target;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use board::yard::{Ending, Yard};
use host::event::{Wait, poll};

use connection::Stream;
use session::SessionError;

pub use connection::Listener;
pub use registers::Shape;

/// Serves whoever connects, on a thread of its own, until the machine has ended.
pub struct Debugger {
    yard: Arc<Yard>,
    thread: Option<JoinHandle<()>>,
}

impl Debugger {
    /// Starts. `shape` is what the processor is shown as, or else what it is when a debugger connects; `kill` is called
    /// when one asks for the machine's end.
    pub fn start(
        listener: Listener,
        yard: Arc<Yard>,
        shape: Option<Shape>,
        kill: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let served = yard.clone();
        let serve = move || listen(&listener, &served, shape, &kill);
        let thread = thread::Builder::new().name("debugger".into()).spawn(serve)?;
        Ok(Self { yard, thread: Some(thread) })
    }

    /// The machine has ended: tells whoever is connected, and comes back when they know.
    pub fn end(self, ending: Ending) {
        self.yard.end(ending);
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        self.yard.end(Ending::Exited(0));
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by its thread.
            let _ = thread.join();
        }
    }
}

fn listen(listener: &Listener, yard: &Arc<Yard>, shape: Option<Shape>, kill: &dyn Fn()) {
    while yard.ending().is_none() {
        let stream = match next(listener, yard) {
            Ok(None) => continue,
            Ok(Some(stream)) => stream,
            Err(error) => {
                tracing::warn!("no debugger is waited for any more: {error}");
                return;
            }
        };
        match session::serve(yard, stream, shape) {
            Ok(true) => kill(),
            Ok(false) => {}
            Err(error) => tracing::warn!("a debugger is let go of: {error}"),
        }
    }
}

/// Waits for a debugger, or for news of the machine.
fn next(listener: &Listener, yard: &Yard) -> Result<Option<Stream>, SessionError> {
    poll(&mut [Wait::readable(listener), Wait::readable(yard.news())], None)?;
    yard.news().take();
    Ok(listener.accept()?)
}
