//! Serial lines between a small device and every kind of far end.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backends::{Handlers, InputWaker, Serial, SerialError, SerialEvent, SerialKind, SerialOutput};
use host::terminal::{is_cooked, pseudo_terminal};

const PATIENCE: Duration = Duration::from_secs(60);

/// A device with little room in both directions, as a UART's FIFOs are.
struct Device {
    received: Mutex<Vec<u8>>,
    /// How much input it will take still.
    room: Mutex<usize>,
    to_send: Mutex<Vec<u8>>,
    output: SerialOutput,
    waker: InputWaker,
}

impl Device {
    fn receive(&self, bytes: &[u8]) -> usize {
        let mut room = self.room.lock().unwrap();
        let taken = bytes.len().min(*room);
        *room -= taken;
        self.received.lock().unwrap().extend(&bytes[..taken]);
        taken
    }

    /// What a UART does when its sink has room again.
    fn drain(&self) {
        let mut to_send = self.to_send.lock().unwrap();
        let taken = self.output.write(&to_send);
        to_send.drain(..taken);
    }

    /// The guest reads: there is room.
    fn make_room(&self, count: usize) {
        *self.room.lock().unwrap() += count;
        self.waker.room();
    }
}

#[derive(Debug, PartialEq)]
enum Note {
    Received,
    Drained,
    Quit,
    InputEnded,
    OutputFailed,
}

/// A started line with a device on it that takes `room` bytes of input.
fn start(serial: &mut Serial, room: usize) -> (Arc<Device>, Receiver<Note>) {
    let device = Arc::new(Device {
        received: Mutex::default(),
        room: Mutex::new(room),
        to_send: Mutex::default(),
        output: serial.output(),
        waker: serial.input_waker(),
    });
    let (sender, notes) = channel();
    let (d1, d2) = (Arc::clone(&device), Arc::clone(&device));
    let (s1, s2) = (sender.clone(), sender.clone());
    let handlers = Handlers {
        receive: Box::new(move |bytes| {
            let taken = d1.receive(bytes);
            let _ = s1.send(Note::Received);
            taken
        }),
        drained: Box::new(move || {
            d2.drain();
            let _ = s2.send(Note::Drained);
        }),
        event: Box::new(move |event| {
            let _ = sender.send(match event {
                SerialEvent::Quit => Note::Quit,
                SerialEvent::InputEnded => Note::InputEnded,
                SerialEvent::OutputFailed(_) => Note::OutputFailed,
            });
        }),
    };
    serial.start(handlers).unwrap();
    (device, notes)
}

fn await_note(notes: &Receiver<Note>, wanted: Note) {
    while notes.recv_timeout(PATIENCE).expect("no news") != wanted {}
}

/// Waits for the device to have received exactly this.
fn await_received(device: &Device, notes: &Receiver<Note>, wanted: &[u8]) {
    while *device.received.lock().unwrap() != wanted {
        notes.recv_timeout(PATIENCE).expect("no news");
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + index / 251) as u8).collect()
}

#[test]
fn kinds_are_parsed() {
    for (text, kind) in [
        ("stdio", SerialKind::Stdio),
        ("stderr", SerialKind::Stderr),
        ("null", SerialKind::Null),
        ("file:a:b", SerialKind::File("a:b".into())),
    ] {
        assert_eq!(text.parse::<SerialKind>().unwrap(), kind);
    }
    for text in ["", "file:", "tty", "STDIO"] {
        assert!(matches!(text.parse::<SerialKind>(), Err(SerialError::Kind(_))), "{text}");
    }
}

#[test]
fn output_comes_out_in_order_and_to_the_last_byte() {
    let (mut serial, peer) = Serial::memory().unwrap();
    let (device, _notes) = start(&mut serial, 0);
    let sent = pattern(1 << 20);
    // More than the queue holds: what it refuses goes the way of a UART's FIFO.
    let mut rest = &sent[..];
    while !rest.is_empty() {
        let mut to_send = device.to_send.lock().unwrap();
        if to_send.is_empty() {
            let taken = device.output.write(&rest[..rest.len().min(1500)]);
            assert!(taken <= 1500);
            if taken == 0 {
                let (head, tail) = rest.split_at(16.min(rest.len()));
                to_send.extend(head);
                rest = tail;
            }
            rest = &rest[taken..];
        }
        drop(to_send);
        std::thread::yield_now();
    }
    drop(serial);
    assert!(device.to_send.lock().unwrap().is_empty(), "the device was not told of room");
    assert!(peer.output() == sent, "{} bytes of {}", peer.output().len(), sent.len());
}

#[test]
fn a_full_queue_refuses_and_tells_later() {
    // A pipe that nobody reads yet.
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut serial = Serial::on_descriptors(None, OwnedFd::from(writer)).unwrap();
    let (device, notes) = start(&mut serial, 0);
    let sent = pattern(1 << 20);
    device.to_send.lock().unwrap().extend(&sent);
    device.drain();
    // The pipe and the queue are bounded.
    let left = device.to_send.lock().unwrap().len();
    assert!(left > sent.len() / 2, "all but {left} bytes were taken with nobody reading");
    let all = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    await_note(&notes, Note::Drained);
    drop(serial);
    assert!(all.join().unwrap() == sent);
}

#[test]
fn output_that_nobody_takes_can_be_abandoned() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let serial = Serial::on_descriptors(None, OwnedFd::from(writer)).unwrap();
    let output = serial.output();
    while output.write(&[0; 4096]) > 0 {
        std::thread::yield_now();
    }
    serial.abandon_output();
    assert_eq!(output.write(&[0; 4096]), 4096, "discarded");
    // Would never return otherwise: the pipe is full.
    drop(serial);
}

#[test]
fn a_closed_pipe_is_reported_once_and_does_not_hold_the_guest_up() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut serial = Serial::on_descriptors(None, OwnedFd::from(writer)).unwrap();
    let (device, notes) = start(&mut serial, 0);
    device.output.write(b"hello");
    assert_eq!(notes.recv_timeout(PATIENCE), Ok(Note::OutputFailed));
    for _ in 0..100 {
        assert_eq!(device.output.write(&[0; 4096]), 4096);
    }
    drop(serial);
    drop(device);
    assert_eq!(notes.iter().collect::<Vec<_>>(), []);
}

#[test]
fn input_waits_for_room_and_none_is_lost() {
    let (mut serial, mut peer) = Serial::memory().unwrap();
    let (device, notes) = start(&mut serial, 16);
    let typed = pattern(300_000);
    let sent = typed.clone();
    let writer = std::thread::spawn(move || {
        peer.input.write_all(&sent).unwrap();
        peer
    });
    await_received(&device, &notes, &typed[..16]);
    let mut count = 16;
    while count < typed.len() {
        let room = (typed.len() - count).min(997);
        device.make_room(room);
        count += room;
        await_received(&device, &notes, &typed[..count]);
    }
    let peer = writer.join().unwrap();
    drop(peer.input);
    await_note(&notes, Note::InputEnded);
    drop(serial);
}

#[test]
fn the_end_of_input_comes_after_its_last_byte() {
    let (mut serial, mut peer) = Serial::memory().unwrap();
    let (device, notes) = start(&mut serial, 1);
    peer.input.write_all(b"ab").unwrap();
    drop(peer.input);
    await_received(&device, &notes, b"a");
    device.make_room(1);
    await_note(&notes, Note::InputEnded);
    assert_eq!(*device.received.lock().unwrap(), b"ab");
}

#[test]
fn nothing_holds_the_device_after_the_line_is_gone() {
    let (mut serial, peer) = Serial::memory().unwrap();
    let (device, notes) = start(&mut serial, 5);
    drop(serial);
    assert_eq!(Arc::strong_count(&device), 1);
    assert!(notes.recv_timeout(PATIENCE).is_err());
    drop(peer);
}

#[test]
fn null_takes_everything() {
    let mut serial = Serial::open(&SerialKind::Null).unwrap();
    let (device, _notes) = start(&mut serial, 5);
    assert_eq!(device.output.write(&[0; 1 << 20]), 1 << 20);
    assert!(!serial.is_terminal());
}

#[test]
fn a_file_is_made_anew_and_holds_everything() {
    let path = std::env::temp_dir().join(format!("popf-serial-{}", std::process::id()));
    std::fs::write(&path, "something older and longer than what follows").unwrap();
    let serial = Serial::open(&SerialKind::File(path.clone())).unwrap();
    assert_eq!(serial.output().write(b"hello\r\n"), 7);
    drop(serial);
    assert_eq!(std::fs::read(&path).unwrap(), b"hello\r\n");
    std::fs::remove_file(&path).unwrap();
    let error = Serial::open(&SerialKind::File("/nonexistent/x".into())).unwrap_err();
    assert_eq!(error.to_string(), "cannot create /nonexistent/x for the serial port's output");
}

#[test]
fn a_terminal_is_raw_and_has_the_escape_key() {
    let (user, terminal) = pseudo_terminal().unwrap();
    let input = terminal.try_clone().unwrap();
    let output = terminal.try_clone().unwrap();
    let mut serial = Serial::on_descriptors(Some(input), output).unwrap();
    assert!(serial.is_terminal() && !is_cooked(terminal.as_fd()).unwrap());
    let (device, notes) = start(&mut serial, 100);
    let mut user = std::fs::File::from(user);

    // Ctrl-C and a carriage return pass as they are; Ctrl-] is halved.
    user.write_all(b"ls\r\x03\x1d\x1d\x1d?").unwrap();
    await_received(&device, &notes, b"ls\r\x03\x1d");
    device.output.write(b"a\r\nb\nc");
    let mut shown = Vec::new();
    while !shown.ends_with(b"a\r\nb\nc") {
        let mut chunk = [0; 256];
        let count = user.read(&mut chunk).unwrap();
        shown.extend(&chunk[..count]);
    }
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.starts_with("\r\n[popf: Ctrl-] q quits"), "{shown:?}");

    user.write_all(b"\x1dq").unwrap();
    await_note(&notes, Note::Quit);
    drop(serial);
    assert!(is_cooked(terminal.as_fd()).unwrap());
}

#[test]
fn a_guest_that_reads_nothing_can_still_be_quit() {
    let (user, terminal) = pseudo_terminal().unwrap();
    let input = terminal.try_clone().unwrap();
    let mut serial = Serial::on_descriptors(Some(input), terminal).unwrap();
    let (device, notes) = start(&mut serial, 0);
    let mut user = std::fs::File::from(user);
    // More than one read's worth before the escape key.
    for _ in 0..10 {
        user.write_all(&[b'x'; 1000]).unwrap();
    }
    user.write_all(b"\x1dq").unwrap();
    await_note(&notes, Note::Quit);
    assert_eq!(*device.received.lock().unwrap(), b"");
}

#[test]
fn a_terminal_that_hangs_up_is_the_end_of_input() {
    let (user, terminal) = pseudo_terminal().unwrap();
    let input = terminal.try_clone().unwrap();
    let mut serial = Serial::on_descriptors(Some(input), terminal).unwrap();
    let (_device, notes) = start(&mut serial, 0);
    drop(user);
    await_note(&notes, Note::InputEnded);
}
