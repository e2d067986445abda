//! The console device: a console, a named port, and one that is neither.
//!
//! Nothing is written to a port at whose host's end nobody is; what is received is no more than was given.

use std::sync::{Arc, Mutex};

use devices::virtio::console::{Console, PortWiring, Size};
use devices::wiring::{SerialSink, lock};
use memory::GuestRam;

use super::{Arm, Host};
use crate::driver::{BUFFERS, Driver};
use crate::input::Input;

const PORTS: usize = 3;
/// Queues of the control messages (5.3.2).
const CONTROL_RX: u16 = 2;
const CONTROL_TX: u16 = 3;
/// Where messages and output are, and where buffers for others.
const MESSAGE: u64 = 0x1_0000;
const OUT: u64 = BUFFERS;
const IN: u64 = BUFFERS + 0x2_0000;

/// The host's end of a port.
#[derive(Default)]
struct End {
    open: bool,
    room: usize,
}

struct Sink(Arc<Mutex<End>>);

impl SerialSink for Sink {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let end = &mut *lock(&self.0);
        assert!(end.open, "written to where nobody is");
        let taken = bytes.len().min(end.room);
        end.room -= taken;
        taken
    }
}

struct Terminal {
    console: Arc<Mutex<Console>>,
    ends: [Arc<Mutex<End>>; PORTS],
}

impl Terminal {
    fn open(&self, port: usize, open: bool) {
        let opened = |open| {
            if let Some(end) = self.ends.get(port) {
                lock(end).open = open;
            }
        };
        // Open before the device knows, closed not before it does.
        if open {
            opened(true);
        }
        lock(&self.console).set_open(port, open);
        opened(open);
    }
}

impl Host for Terminal {
    fn act(&mut self, input: &mut Input) {
        // One of them is none.
        let port = usize::from(input.byte()) % (PORTS + 1);
        match input.byte() % 6 {
            0 => self.open(port, false),
            1 => self.open(port, true),
            2 => lock(&self.console).set_size(Size { columns: input.half(), rows: input.half() }),
            3 => {
                let bytes = vec![0x5a; input.half().into()];
                let taken = lock(&self.console).receive(port, &bytes);
                assert!(taken <= bytes.len());
            }
            4 => {
                if let Some(end) = self.ends.get(port) {
                    lock(end).room = input.half().into();
                }
            }
            _ => lock(&self.console).drain(port),
        }
    }

    fn request(&mut self, driver: &mut Driver, input: &mut Input) -> u16 {
        let kind = input.byte();
        let port = u16::from(kind >> 6) % PORTS as u16;
        let (receive, transmit) = if port == 0 { (0, 1) } else { (2 * port + 2, 2 * port + 3) };
        match kind % 6 {
            0 | 1 => {
                // struct virtio_console_control (5.3.6.2)
                let (port, event, value) = (input.byte() % 5, input.byte() % 9, input.byte() % 2);
                let message = [port, 0, 0, 0, event, 0, value, 0];
                driver.ram.write(MESSAGE, &message).expect("it is RAM");
                driver.offer(CONTROL_TX, &[(MESSAGE, 8)], &[]);
                CONTROL_TX
            }
            2 => {
                let length = input.choose(&[128, 8, 7, 0]);
                driver.offer(CONTROL_RX, &[], &[(IN, length)]);
                CONTROL_RX
            }
            3 | 4 => {
                let (one, other) = (u32::from(input.byte()), u32::from(input.half()) * 8);
                driver.offer(transmit, &[(OUT, one), (OUT, other)], &[]);
                transmit
            }
            _ => {
                driver.offer(receive, &[], &[(IN, input.byte().into())]);
                receive
            }
        }
    }

    fn settle(&mut self) {
        for (port, end) in self.ends.iter().enumerate() {
            lock(end).room = usize::MAX;
            lock(&self.console).drain(port);
            lock(end).room = 0;
        }
    }
}

pub(super) fn console(_: &GuestRam, _: u8) -> Arm {
    let ends: [Arc<Mutex<End>>; PORTS] = Default::default();
    let wiring = |number: usize| PortWiring {
        name: ["", "org.example.agent", ""][number].into(),
        console: number == 0,
        output: Box::new(Sink(ends[number].clone())),
        room: Arc::new(|| {}),
    };
    let console = Arc::new(Mutex::new(Console::new((0..PORTS).map(wiring).collect())));
    Arm::with_state(&console, Terminal { console: console.clone(), ends })
}
