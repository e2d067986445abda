//! The console device on the host's terminals, files and sockets.
//!
//! A VM that is given a `--console` or a `--port` gets one:
//!
//! ```no_run
//! use backends::SerialKind;
//! use board::virtio::{Console, NamedPort};
//!
//! let agent = NamedPort { name: "org.example.agent".into(), kind: "unix:/tmp/agent.sock".parse()? };
//! let console = Console::open(&SerialKind::Null, &[agent], |_| {})?;
//! console.set_size(80, 25);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Port 0 is the console, the named ones follow. What a far end has to say comes as with a serial line, see
//! [`SerialEvent`].

use std::sync::{Arc, Mutex};

use backends::{
    Handlers, PortError, PortHandlers, PortKind, PortOutput, PortSocket, Serial, SerialError, SerialEvent,
    SerialKind, SerialOutput,
};
use devices::virtio::console::{self, MOST_PORTS, PortWiring, Size};
use devices::wiring::{Notify, SerialSink, lock};
use memory::GuestRam;
use thiserror::Error;

use super::{Attached, Peripheral};

type SharedConsole = Arc<Mutex<console::Console>>;

/// The device of this life, and the size of its window. Locked before the device.
#[derive(Default)]
struct State {
    device: Option<SharedConsole>,
    size: Size,
    /// By port: whether somebody is at its far end.
    open: Vec<bool>,
}

type Shared = Arc<Mutex<State>>;

/// A port beside the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// By which the guest finds it.
    pub name: String,
    /// Its far end.
    pub kind: PortKind,
}

/// Why there is no console device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConsoleError {
    /// A terminal, a file.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// A socket.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Too many.
    #[error("more than {most} ports", most = MOST_PORTS - 1)]
    TooMany,
}

/// A port's far end.
enum End {
    Serial(Serial),
    Socket(PortSocket),
}

/// A console device with its far ends.
pub struct Console {
    /// With the port's name.
    ends: Vec<(String, End)>,
    state: Shared,
}

impl Console {
    /// Opens all far ends and starts them; `event` is called on their threads.
    pub fn open(
        console: &SerialKind,
        ports: &[NamedPort],
        event: impl Fn(SerialEvent) + Send + Sync + 'static,
    ) -> Result<Self, ConsoleError> {
        if ports.len() >= MOST_PORTS {
            return Err(ConsoleError::TooMany);
        }
        let state = Shared::default();
        lock(&state).open = vec![false; ports.len() + 1];
        let event: Arc<dyn Fn(SerialEvent) + Send + Sync> = Arc::new(event);
        let mut ends = vec![(String::new(), End::serial(console, 0, &state, &event)?)];
        for (number, NamedPort { name, kind }) in (1..).zip(ports) {
            let end = match kind {
                PortKind::File(path) => End::serial(&SerialKind::File(path.clone()), number, &state, &event)?,
                PortKind::Unix(path) => {
                    let mut socket = PortSocket::listen(path)?;
                    socket.start(socket_handlers(number, &state))?;
                    End::Socket(socket)
                }
            };
            ends.push((name.clone(), end));
        }
        Ok(Self { ends, state })
    }

    /// The console's window has this size.
    pub fn set_size(&self, columns: u16, rows: u16) {
        let mut state = lock(&self.state);
        state.size = Size { columns, rows };
        if let Some(device) = &state.device {
            lock(device).set_size(state.size);
        }
    }

    /// Whether a raw terminal is at the console's far end.
    pub fn is_terminal(&self) -> bool {
        self.ends.iter().any(|(_, end)| matches!(end, End::Serial(serial) if serial.is_terminal()))
    }

    /// Gives up output that the host does not take: for a way out that must not wait.
    pub fn abandon_output(&self) {
        for (_, end) in &self.ends {
            if let End::Serial(serial) = end {
                serial.abandon_output();
            }
        }
    }
}

impl End {
    fn serial(
        kind: &SerialKind,
        number: usize,
        state: &Shared,
        event: &Arc<dyn Fn(SerialEvent) + Send + Sync>,
    ) -> Result<Self, SerialError> {
        let mut serial = Serial::open(kind)?;
        let (receiver, drained, event) = (state.clone(), state.clone(), event.clone());
        serial.start(Handlers {
            receive: Box::new(move |bytes| receive(&receiver, number, bytes)),
            drained: Box::new(move || drain(&drained, number)),
            event: Box::new(move |what| event(what)),
        })?;
        lock(state).open[number] = true;
        Ok(Self::Serial(serial))
    }

    /// What the device's port leads to.
    fn wiring(&self, name: &str, console: bool) -> PortWiring {
        let (output, room): (Box<dyn SerialSink>, Notify) = match self {
            Self::Serial(serial) => {
                let waker = serial.input_waker();
                (Box::new(SerialEnd(serial.output())), Arc::new(move || waker.room()))
            }
            Self::Socket(socket) => {
                let output = socket.output();
                (Box::new(SocketEnd(socket.output())), Arc::new(move || output.room()))
            }
        };
        PortWiring { name: name.to_owned(), console, output, room }
    }
}

fn socket_handlers(number: usize, state: &Shared) -> PortHandlers {
    let (receiver, drained, opened) = (state.clone(), state.clone(), state.clone());
    PortHandlers {
        receive: Box::new(move |bytes| receive(&receiver, number, bytes)),
        drained: Box::new(move || drain(&drained, number)),
        opened: Box::new(move |open| {
            let mut state = lock(&opened);
            state.open[number] = open;
            if let Some(device) = &state.device {
                lock(device).set_open(number, open);
            }
        }),
    }
}

/// Without a device nothing is taken: input waits for the machine.
fn receive(state: &Shared, number: usize, bytes: &[u8]) -> usize {
    lock(state).device.as_ref().map_or(0, |device| lock(device).receive(number, bytes))
}

fn drain(state: &Shared, number: usize) {
    if let Some(device) = &lock(state).device {
        lock(device).drain(number);
    }
}

impl Peripheral for Console {
    fn attach(&self, _: &GuestRam) -> Attached {
        let wiring = |(number, (name, end)): (usize, &(String, End))| end.wiring(name, number == 0);
        let mut console = console::Console::new(self.ends.iter().enumerate().map(wiring).collect());
        let mut state = lock(&self.state);
        console.set_size(state.size);
        for (number, &open) in state.open.iter().enumerate() {
            console.set_open(number, open);
        }
        let device = Arc::new(Mutex::new(console));
        state.device = Some(device.clone());
        Attached::with_state(&device)
    }

    fn detach(&self) {
        lock(&self.state).device = None;
    }
}

struct SerialEnd(SerialOutput);

impl SerialSink for SerialEnd {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes)
    }
}

struct SocketEnd(PortOutput);

impl SerialSink for SocketEnd {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes)
    }
}
