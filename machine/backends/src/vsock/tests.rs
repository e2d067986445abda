//! Programs of the host on real sockets, and a guest made of what it is told to do.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use super::*;

/// So long does a test wait for what must come.
const LONG: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Open(u32),
    Accept(u64),
    Send(u64, Vec<u8>),
    Consumed(u64, usize),
    Finish(u64),
    Close(u64),
}

#[derive(Default)]
struct Script {
    events: Mutex<VecDeque<(Event, Vec<u8>)>>,
    /// How many bytes the guest takes.
    room: Mutex<usize>,
}

struct FakeGuest {
    script: Arc<Script>,
    calls: Mutex<Sender<Call>>,
}

impl FakeGuest {
    fn call(&self, call: Call) {
        // A test that has seen enough is gone.
        let _ = self.calls.lock().unwrap().send(call);
    }
}

impl Guest for FakeGuest {
    fn next(&self, data: &mut Vec<u8>) -> Option<Event> {
        let (event, bytes) = self.script.events.lock().unwrap().pop_front()?;
        *data = bytes;
        Some(event)
    }

    fn open(&self, port: u32) -> Option<u64> {
        self.call(Call::Open(port));
        (port != 0).then_some(port.into())
    }

    fn accept(&self, connection: u64) {
        self.call(Call::Accept(connection));
    }

    fn send(&self, connection: u64, bytes: &[u8]) -> usize {
        let mut room = self.script.room.lock().unwrap();
        let taken = bytes.len().min(*room);
        *room -= taken;
        if taken > 0 {
            self.call(Call::Send(connection, bytes[..taken].to_vec()));
        }
        taken
    }

    fn consumed(&self, connection: u64, bytes: usize) {
        self.call(Call::Consumed(connection, bytes));
    }

    fn finish(&self, connection: u64) {
        self.call(Call::Finish(connection));
    }

    fn close(&self, connection: u64) {
        self.call(Call::Close(connection));
    }
}

struct Bench {
    vsock: Vsock,
    script: Arc<Script>,
    calls: Receiver<Call>,
    directory: PathBuf,
}

impl Bench {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("popf-vsock-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut vsock = Vsock::listen(&directory.join("vsock.sock")).unwrap();
        let script = Arc::new(Script::default());
        *script.room.lock().unwrap() = usize::MAX;
        let (sender, calls) = mpsc::channel();
        vsock.start(Box::new(FakeGuest { script: script.clone(), calls: Mutex::new(sender) })).unwrap();
        Self { vsock, script, calls, directory }
    }

    fn guest(&self, event: Event) {
        self.data(event, b"");
    }

    fn data(&self, event: Event, bytes: &[u8]) {
        self.script.events.lock().unwrap().push_back((event, bytes.to_vec()));
        self.vsock.bell().ring();
    }

    fn call(&self) -> Call {
        self.calls.recv_timeout(LONG).expect("a call")
    }

    fn program(&self) -> UnixStream {
        let program = UnixStream::connect(self.directory.join("vsock.sock")).unwrap();
        program.set_read_timeout(Some(LONG)).unwrap();
        program.set_write_timeout(Some(LONG)).unwrap();
        program
    }

    /// A program that is connected to the guest's port, which is also the connection's number.
    fn connected(&self, port: u32) -> UnixStream {
        let mut program = self.program();
        program.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        assert_eq!(self.call(), Call::Open(port));
        self.guest(Event::Opened { connection: port.into(), port: 77 });
        let mut answer = [0; 6];
        program.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"OK 77\n");
        program
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Everything up to the end.
fn rest(program: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    program.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_program_connects_and_bytes_go_both_ways() {
    let bench = Bench::new();
    let mut program = bench.program();
    // The line comes in pieces, the first bytes behind it with the last.
    program.write_all(b"CONN").unwrap();
    program.write_all(b"ECT 22\nhello").unwrap();
    assert_eq!(bench.call(), Call::Open(22));
    bench.guest(Event::Opened { connection: 22, port: 77 });
    assert_eq!(bench.call(), Call::Send(22, b"hello".to_vec()));
    bench.data(Event::Data { connection: 22 }, b"world");
    assert_eq!(bench.call(), Call::Consumed(22, 5));
    let mut answer = [0; 11];
    program.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"OK 77\nworld");
    program.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.call(), Call::Finish(22));
    bench.data(Event::Data { connection: 22 }, b"!");
    bench.guest(Event::Shutdown { connection: 22, sends: false, receives: true });
    assert_eq!(bench.call(), Call::Consumed(22, 1));
    assert_eq!(rest(&mut program), b"!");
    assert_eq!(bench.call(), Call::Close(22));
}

#[test]
fn a_program_that_asks_for_nothing_sensible_is_hung_up_on() {
    let bench = Bench::new();
    for line in ["HELLO\n", "CONNECT x\n", &"C".repeat(40), "CONNECT 1234567890123456789012345\n"] {
        let mut program = bench.program();
        program.write_all(line.as_bytes()).unwrap();
        assert_ne!(program.read(&mut [0]).map_err(|error| error.kind()), Ok(1), "{line}");
    }
    let mut program = bench.program();
    program.write_all(b"CONNECT 1").unwrap();
    program.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut program), b"");
    // The guest cannot be asked; it refuses.
    let mut program = bench.program();
    program.write_all(b"CONNECT 0\n").unwrap();
    assert_eq!(rest(&mut program), b"");
    assert_eq!(bench.call(), Call::Open(0));
    let mut program = bench.program();
    program.write_all(b"CONNECT 9\n").unwrap();
    assert_eq!(bench.call(), Call::Open(9));
    bench.guest(Event::Closed { connection: 9 });
    assert_eq!(rest(&mut program), b"");
}

#[test]
fn a_guest_connects_to_who_listens() {
    let bench = Bench::new();
    let listener = UnixListener::bind(bench.directory.join("vsock.sock_5000")).unwrap();
    bench.guest(Event::Connect { connection: 1, port: 5000 });
    assert_eq!(bench.call(), Call::Accept(1));
    bench.guest(Event::Connect { connection: 2, port: 5001 });
    assert_eq!(bench.call(), Call::Close(2));
    let (mut program, _) = listener.accept().unwrap();
    bench.data(Event::Data { connection: 1 }, b"hello");
    assert_eq!(bench.call(), Call::Consumed(1, 5));
    bench.guest(Event::Closed { connection: 1 });
    assert_eq!(rest(&mut program), b"hello");
}

#[test]
fn a_program_that_vanishes_ends_the_connection() {
    let bench = Bench::new();
    let mut program = bench.connected(22);
    program.write_all(b"last words").unwrap();
    drop(program);
    assert_eq!(bench.call(), Call::Send(22, b"last words".to_vec()));
    assert_eq!(bench.call(), Call::Close(22));
    // Before the guest has answered.
    let mut program = bench.program();
    program.write_all(b"CONNECT 23\n").unwrap();
    assert_eq!(bench.call(), Call::Open(23));
    drop(program);
    assert_eq!(bench.call(), Call::Close(23));
    // After its half was ended, and while the guest receives no more.
    let program = bench.connected(24);
    program.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.call(), Call::Finish(24));
    drop(program);
    assert_eq!(bench.call(), Call::Close(24));
    let program = bench.connected(25);
    bench.guest(Event::Shutdown { connection: 25, sends: true, receives: false });
    drop(program);
    assert_eq!(bench.call(), Call::Close(25));
}

#[test]
fn a_program_that_does_not_read_gets_everything_later() {
    let bench = Bench::new();
    let mut program = bench.connected(22);
    let chunk: Vec<u8> = (0..CHUNK).map(|byte| byte as u8).collect();
    // More than any socket holds unless it is told to; nothing has been read, so not all can have been passed on.
    for _ in 0..64 {
        bench.data(Event::Data { connection: 22 }, &chunk);
    }
    bench.guest(Event::Closed { connection: 22 });
    let bytes = rest(&mut program);
    assert_eq!(bytes.len(), 64 * CHUNK);
    assert!(bytes.chunks(CHUNK).all(|part| part == chunk));
}

#[test]
fn a_guest_that_does_not_read_holds_the_program_up() {
    let bench = Bench::new();
    *bench.script.room.lock().unwrap() = 3;
    let mut program = bench.connected(22);
    program.write_all(b"hello").unwrap();
    assert_eq!(bench.call(), Call::Send(22, b"hel".to_vec()));
    // What is kept is bounded: the program cannot write on for ever.
    program.set_nonblocking(true).unwrap();
    let mut written = 0;
    let error = loop {
        match program.write(&[0; 4096]) {
            Ok(count) => written += count,
            Err(error) => break error,
        }
        assert!(written < 16 << 20);
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    *bench.script.room.lock().unwrap() = usize::MAX;
    bench.vsock.bell().ring();
    let mut sent = Vec::new();
    while sent.len() < 2 + written {
        let Call::Send(22, bytes) = bench.call() else { panic!("something else") };
        sent.extend(bytes);
    }
    assert_eq!(sent.len(), 2 + written);
    assert!(sent.starts_with(b"lo\0"));
}

#[test]
fn a_reset_ends_connections_and_leaves_newcomers() {
    let bench = Bench::new();
    let mut connected = bench.connected(22);
    let mut newcomer = bench.program();
    bench.guest(Event::Reset);
    assert_eq!(rest(&mut connected), b"");
    newcomer.write_all(b"CONNECT 23\n").unwrap();
    assert_eq!(bench.call(), Call::Open(23));
}

#[test]
fn programs_beyond_the_limit_wait() {
    let bench = Bench::new();
    let mut programs: Vec<_> = (0..MOST_STREAMS).map(|_| bench.program()).collect();
    let mut waiting = bench.program();
    waiting.write_all(b"CONNECT 99\n").unwrap();
    programs[0].write_all(b"CONNECT 1\n").unwrap();
    assert_eq!(bench.call(), Call::Open(1));
    // Connections of the guest's count, too.
    bench.guest(Event::Connect { connection: 7, port: 1 });
    assert_eq!(bench.call(), Call::Close(7));
    programs.pop();
    assert_eq!(bench.call(), Call::Open(99));
}

#[test]
fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
    let bench = Bench::new();
    let path = bench.directory.join("left.sock");
    drop(UnixListener::bind(&path).unwrap());
    let vsock = Vsock::listen(&path).unwrap();
    let error = Vsock::listen(&path).unwrap_err();
    assert!(matches!(error, VsockError::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse));
    drop(vsock);
    assert!(!path.exists());
    fs::write(&path, "a file").unwrap();
    assert!(Vsock::listen(&path).is_err() && path.exists());
}
