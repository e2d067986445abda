//! Joins a UART to the far end of its line. The far end outlives the machine: a reset builds new chips, and the
//! terminal, what was typed and what was sent stay.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backends::{Handlers, InputWaker, Serial, SerialError, SerialEvent, SerialKind, SerialOutput};
use devices::legacy::uart::Uart;
use devices::wiring::{Notify, SerialSink, lock};

type SharedUart = Arc<Mutex<Uart>>;

/// Which UART is at this end now.
#[derive(Default)]
struct Socket(Mutex<Option<SharedUart>>);

impl Socket {
    fn lock(&self) -> MutexGuard<'_, Option<SharedUart>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock is not held while the chip works, which may take the back-end's.
    fn uart(&self) -> Option<SharedUart> {
        self.lock().clone()
    }
}

/// A serial line, its far end open.
pub struct SerialLine {
    serial: Serial,
    socket: Arc<Socket>,
}

impl SerialLine {
    /// Opens the far end and starts it; `event` is called on a thread of the back-end's.
    pub fn open(
        kind: &SerialKind,
        event: impl Fn(SerialEvent) + Send + Sync + 'static,
    ) -> Result<Self, SerialError> {
        Self::start(Serial::open(kind)?, event)
    }

    /// The same with a far end that is open.
    pub fn start(
        mut serial: Serial,
        event: impl Fn(SerialEvent) + Send + Sync + 'static,
    ) -> Result<Self, SerialError> {
        let socket = Arc::new(Socket::default());
        let (receiver, drained) = (socket.clone(), socket.clone());
        serial.start(Handlers {
            // Without a UART nothing is taken: input waits for the machine.
            receive: Box::new(move |bytes| receiver.uart().map_or(0, |uart| lock(&uart).receive(bytes))),
            drained: Box::new(move || {
                if let Some(uart) = drained.uart() {
                    lock(&uart).drain();
                }
            }),
            event: Box::new(event),
        })?;
        Ok(Self { serial, socket })
    }

    /// Whether a raw terminal is at the far end.
    pub fn is_terminal(&self) -> bool {
        self.serial.is_terminal()
    }

    /// Gives up output that the host does not take: for a way out that must not wait.
    pub fn abandon_output(&self) {
        self.serial.abandon_output();
    }

    pub(crate) fn sink(&self) -> Box<dyn SerialSink> {
        Box::new(Sink(self.serial.output()))
    }

    pub(crate) fn room(&self) -> Notify {
        let waker: InputWaker = self.serial.input_waker();
        Arc::new(move || waker.room())
    }

    /// Plugs a UART in.
    pub(crate) fn attach(&self, uart: &SharedUart) {
        *self.socket.lock() = Some(uart.clone());
        // Input may have been refused for want of it.
        self.serial.input_waker().room();
    }

    /// Unplugs it.
    pub(crate) fn detach(&self) {
        *self.socket.lock() = None;
    }
}

struct Sink(SerialOutput);

impl SerialSink for Sink {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes)
    }
}
