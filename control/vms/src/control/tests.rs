//! A server and its clients, polite and otherwise.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::server::CONNECTIONS;
use super::*;
use crate::GuestMemory;

const LONG: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Fake {
    presses: AtomicU32,
    kills: AtomicU32,
}

fn record() -> Record {
    Record {
        name: "web".parse().unwrap(),
        image: "debian".to_owned(),
        memory: 1 << 30,
        cpus: 1,
        ports: vec!["8080:80".to_owned()],
        pid: 4,
        started: 5,
        detached: true,
        kept: true,
        ended: None,
    }
}

fn end() -> End {
    End { at: 7, how: "powered off".to_owned(), status: 0 }
}

impl Handler for Fake {
    fn status(&self) -> Record {
        record()
    }

    fn power_button(&self) -> bool {
        self.presses.fetch_add(1, Ordering::Relaxed) > 0
    }

    fn kill(&self) {
        self.kills.fetch_add(1, Ordering::Relaxed);
    }

    fn memory(&self, take: Option<u64>) -> Memory {
        let guest = GuestMemory { free: Some(1 << 20), ..GuestMemory::default() };
        Memory { total: 1 << 30, asked: take.unwrap_or(7), taken: 7, guest: Some(guest) }
    }

    fn inspect(&self, question: Value) -> Result<Value, String> {
        if question.is_null() { Err("of what?".to_owned()) } else { Ok(Value::Array(vec![question])) }
    }
}

struct Bench {
    _directory: tempfile::TempDir,
    path: PathBuf,
    fake: Arc<Fake>,
    server: Server,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let fake = Arc::new(Fake::default());
        let server = Server::start(&path, fake.clone()).unwrap();
        Self { _directory: directory, path, fake, server }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    /// A connection of which the test says every byte.
    fn raw(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        BufReader::new(stream)
    }
}

fn line(stream: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line
}

#[test]
fn questions_are_answered() {
    let bench = Bench::new();
    let mut client = bench.client();
    assert_eq!(client.status().unwrap(), record());
    assert_eq!((client.power_button().unwrap(), client.power_button().unwrap()), (false, true));
    client.kill().unwrap();
    assert_eq!(bench.fake.kills.load(Ordering::Relaxed), 1);
    let memory = client.memory().unwrap();
    assert_eq!((memory.total, memory.asked, memory.guest.unwrap().free), (1 << 30, 7, Some(1 << 20)));
    assert_eq!(client.take_memory(8).unwrap(), Memory { asked: 8, ..memory });
    assert_eq!(client.inspect(Value::from(3)).unwrap(), Value::from(vec![3]));
    assert!(matches!(client.inspect(Value::Null), Err(ClientError::Refused(why)) if why == "of what?"));
}

#[test]
fn the_end_is_told_to_those_who_wait_and_then_the_connection_closes() {
    let bench = Bench::new();
    let mut first = bench.client().wait().unwrap();
    let mut second = bench.client().wait().unwrap();
    assert_eq!(first.ended(Duration::from_millis(1)).unwrap(), None);
    // Both requests have been read once a later one is answered.
    bench.client().status().unwrap();
    let told = bench.server.end(&end());
    let waiting = std::thread::spawn(move || first.ended(LONG).unwrap());
    drop(told);
    assert_eq!(waiting.join().unwrap(), Some(Some(end())));
    assert_eq!(second.ended(LONG).unwrap(), Some(Some(end())));
}

#[test]
fn a_server_that_dies_is_noticed() {
    let bench = Bench::new();
    let mut waiting = bench.client().wait().unwrap();
    let mut client = bench.client();
    client.status().unwrap();
    drop(bench.server);
    assert_eq!(waiting.ended(LONG).unwrap(), Some(None));
    assert!(matches!(client.status(), Err(ClientError::Gone)));
    assert!(matches!(Client::connect(&bench.path), Err(ClientError::Connect(_))));
}

#[test]
fn nonsense_is_answered_with_an_error() {
    let bench = Bench::new();
    let mut stream = bench.raw();
    for (request, reason) in [
        ("", "not a line"),
        ("status", "not a line"),
        ("{}", "not a line"),
        (r#"{"version":2,"body":"status"}"#, "version 2"),
        (r#"{"version":2,"body":{"new":[]}}"#, "version 2"),
        (r#"{"version":1,"body":"dance"}"#, "not understood"),
        (r#"{"version":1,"body":{"kill":1}}"#, "not understood"),
        (r#"{"version":-1,"body":"kill"}"#, "not a line"),
        (&"[".repeat(4000), "not a line"),
        ("\u{0}\u{fffd}", "not a line"),
    ] {
        stream.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
        let reply = line(&mut stream);
        assert!(reply.starts_with(r#"{"version":1,"body":{"error":"#) && reply.contains(reason), "{reply}");
    }
    // Several requests in one piece, and one in several.
    let request = "{\"version\":1,\"body\":\"power-button\"}\n";
    stream.get_mut().write_all(request.repeat(3).as_bytes()).unwrap();
    stream.get_mut().write_all(&request.as_bytes()[..9]).unwrap();
    for _ in 0..3 {
        assert!(line(&mut stream).contains("pressed"));
    }
    stream.get_mut().write_all(&request.as_bytes()[9..]).unwrap();
    assert!(line(&mut stream).contains("pressed"));
    assert_eq!(bench.fake.presses.load(Ordering::Relaxed), 4);
    assert_eq!(bench.fake.kills.load(Ordering::Relaxed), 0);
}

#[test]
fn a_request_without_end_is_not_listened_to_for_long() {
    let bench = Bench::new();
    let mut stream = bench.raw();
    // It hangs up in the midst of this.
    let _ = stream.get_mut().write_all(&vec![b'x'; 1 << 20]);
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => assert!(String::from_utf8_lossy(&rest).contains("more than 4096 bytes")),
        // What it had not read of ours was thrown away with its own answer.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert_eq!(bench.client().status().unwrap(), record());
}

#[test]
fn who_does_not_read_is_dropped() {
    let bench = Bench::new();
    let stream = bench.raw();
    let request = "{\"version\":1,\"body\":\"status\"}\n".repeat(100);
    let refused = (0..100_000).any(|_| stream.get_ref().write_all(request.as_bytes()).is_err());
    assert!(refused, "the answers must fill the socket some time");
    assert_eq!(bench.client().status().unwrap(), record());
}

#[test]
fn a_crowd_does_not_keep_others_out_nor_those_who_wait() {
    let bench = Bench::new();
    let mut waiting = bench.client().wait().unwrap();
    let crowd: Vec<_> = (0..2 * CONNECTIONS).map(|_| bench.raw()).collect();
    assert_eq!(bench.client().status().unwrap(), record());
    drop(crowd);
    let told = bench.server.end(&end());
    drop(told);
    assert_eq!(waiting.ended(LONG).unwrap(), Some(Some(end())));
}
