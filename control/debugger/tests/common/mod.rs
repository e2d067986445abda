//! A machine with a guest of a few instructions, and a debugger that speaks the protocol by hand.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod client;

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use board::engine::EngineChoice;
use board::machine::{self, Config, Control, End, Source};
use board::serial::SerialLine;
use board::stop::StopReason;
use board::yard::{Ending, Yard};
use board::{Serial, SerialEvent};
use debugger::{Debugger, Listener};

use client::Client;

/// Where the guest's first instruction is.
pub const ENTRY: u64 = 0x10_0020;

/// A machine that runs, and where a debugger finds it.
pub struct Vm {
    address: SocketAddr,
    control: Control,
    thread: JoinHandle<End>,
}

impl Vm {
    /// A 32-bit guest in protected mode without paging that runs this code; `wait` keeps it from its first instruction
    /// until a debugger has come and let it go.
    pub fn start(code: &[u8], wait: bool) -> Self {
        let (serial, _peer) = Serial::memory().unwrap();
        let serial = SerialLine::start(serial, |_: SerialEvent| {}).unwrap();
        let yard = Arc::new(Yard::new(wait).unwrap());
        let listener = Listener::loopback(0).unwrap();
        let Listener::Tcp(socket) = &listener else { unreachable!("it is made so") };
        let address = socket.local_addr().unwrap();
        let config = Config {
            memory: 4 << 20,
            cpus: 1,
            engine: EngineChoice::Auto,
            kernel: multiboot(code),
            modules: Vec::new(),
            cmdline: String::new(),
            serial: vec![Arc::new(serial)],
            peripherals: Vec::new(),
            debug_exit: true,
            test_device: false,
            last_look: None,
            cache: None,
            direct: None,
            reboot: false,
            yard: Some(yard.clone()),
            sandbox: None,
        };
        let control = Control::default();
        let (stop, run) = (control.clone(), control.clone());
        let kill = move || stop.stop(StopReason::Killed);
        let debugger = Debugger::start(listener, yard, None, kill).unwrap();
        let thread = thread::spawn(move || {
            let end = machine::run(&config, &run).unwrap();
            debugger.end(match end.reason {
                StopReason::DebugExit(status) => Ending::Exited(status as u8),
                _ => Ending::Killed(9),
            });
            end
        });
        Self { address, control, thread }
    }

    /// A debugger that comes.
    pub fn connect(&self) -> Client<TcpStream> {
        Client::new(self.connect_bare())
    }

    /// A connection that has sent nothing yet.
    pub fn connect_bare(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Ends the machine from outside.
    pub fn stop(&self) {
        self.control.stop(StopReason::PowerOff);
    }

    /// Waits for its end.
    pub fn reason(self) -> StopReason {
        self.thread.join().unwrap().reason
    }
}

/// A multiboot kernel that is loaded at 1 MiB.
fn multiboot(code: &[u8]) -> Source {
    let (base, magic, flags) = (0x10_0000_u32, 0x1bad_b002_u32, 1 << 16);
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let header = [magic, flags, checksum, base, base, 0, 0, base + 32];
    let mut file: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.extend_from_slice(code);
    Source::Bytes(file.into())
}
