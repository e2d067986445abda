//! The user network: frames of a guest that may send anything.
//!
//! The input is a list of frames. Some are the fuzzer's from the first byte on, with checksums put right where the
//! fuzzer would spend its time on them; some are segments of a connection that stands, told relative to its numbers,
//! which the fuzzer could not guess. Nothing leaves the network but to a port that is ours.
#![no_main]

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use backends::net::user::{Forward, UserConfig, UserNetwork};
use backends::net::{Checksum, Handlers, Network, Offload};
use libfuzzer_sys::fuzz_target;

const GATEWAY: [u8; 6] = [0x52, 0x70, 0x6f, 0x70, 0x66, 0x02];
const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
/// How many frames one input has.
const FRAMES: usize = 64;
/// A network that is silent for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

fuzz_target!(|data: &[u8]| {
    let forward = Forward { listen: ([127, 0, 0, 1], 0).into(), guest_port: 80, udp: false };
    let config = UserConfig {
        forwards: vec![forward],
        host: false,
        outside: false,
        hostname: Some("fuzz".into()),
        // Discard: nobody is there, and nobody is bothered.
        resolvers: Some(vec![([127, 0, 0, 1], 9).into()]),
    };
    let card = Card::new(&config);
    card.send(&arp(2), Checksum::Present);
    let mut client = TcpStream::connect(card.network.listening()[0]).expect("our own port");
    client.write_all(b"something to send to the guest").expect("room");
    let call = card.expect(|frame| frame.len() >= 54 && frame[23] == 6 && frame[47] & 2 != 0);
    let mut connection = Connection::new(&call);
    let mut rest = data;
    for _ in 0..FRAMES {
        let Some((&kind, tail)) = rest.split_first() else { break };
        rest = if kind & 1 == 0 { raw(&card, kind, tail) } else { connection.segment(&card, kind, tail) };
    }
    // Whoever answers this has come through all the rest.
    card.send(&arp(1), Checksum::Present);
    card.expect(|frame| frame[12..14] == [8, 6] && frame[21] == 2);
});

/// The guest's card.
struct Card {
    network: UserNetwork,
    wire: Arc<(Mutex<VecDeque<Vec<u8>>>, Condvar)>,
}

impl Card {
    fn new(config: &UserConfig) -> Self {
        let network = UserNetwork::open(config).expect("a network");
        let wire = Arc::new((Mutex::new(VecDeque::new()), Condvar::new()));
        let receiver = Arc::clone(&wire);
        let receive = move |frame: &[u8], _| {
            receiver.0.lock().expect("no panic").push_back(frame.to_vec());
            receiver.1.notify_one();
            true
        };
        network.start(Handlers { receive: Box::new(receive), drained: Box::new(|| {}) }).expect("a thread");
        Self { network, wire }
    }

    fn send(&self, frame: &[u8], checksum: Checksum) {
        // So few frames are never too many.
        assert!(self.network.send(frame, Offload { checksum, segments: None }));
    }

    fn expect(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut frames = self.wire.0.lock().expect("no panic");
        loop {
            match frames.pop_front() {
                Some(frame) if wanted(&frame) => return frame,
                Some(_) => {}
                None => {
                    let (guard, late) = self.wire.1.wait_timeout(frames, PATIENCE).expect("no panic");
                    assert!(!late.timed_out(), "the network is stuck");
                    frames = guard;
                }
            }
        }
    }
}

/// Who has the gateway's address (1), or who has the guest's (2).
fn arp(operation: u8) -> Vec<u8> {
    let mut frame = [&GATEWAY[..], &GUEST, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    frame.extend_from_slice(&GUEST);
    frame.extend_from_slice(&[10, 0, 2, 15]);
    frame.extend_from_slice(&GATEWAY);
    frame.extend_from_slice(&[10, 0, 2, 2]);
    frame
}

/// Sends the fuzzer's own frame, and returns what is left of the input.
fn raw<'a>(card: &Card, kind: u8, input: &'a [u8]) -> &'a [u8] {
    let Some((&length, input)) = input.split_first() else { return &[] };
    let (body, rest) = input.split_at((usize::from(length) << (kind >> 1 & 3)).min(input.len()));
    let ethertype: &[u8] = match kind >> 3 & 3 {
        0 => &[8, 0],
        1 => &[0x86, 0xdd],
        2 => &[8, 6],
        _ => &[],
    };
    let mut frame = [&GATEWAY[..], &GUEST, ethertype, body].concat();
    if ethertype == [8, 0] && frame.len() >= 34 {
        frame[14] = 0x45;
        frame[26..30].copy_from_slice(&[10, 0, 2, 15]);
        let left = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&left.to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let missing = Checksum::Missing { start: 34, offset: 16 };
    card.send(&frame, if kind & 0x80 == 0 { missing } else { Checksum::Present });
    rest
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The guest's end of a call to its port 80.
struct Connection {
    source: [u8; 4],
    port: [u8; 2],
    /// What the gateway would send next, and what we would.
    theirs: u32,
    ours: u32,
}

impl Connection {
    fn new(call: &[u8]) -> Self {
        let number = u32::from_be_bytes([call[38], call[39], call[40], call[41]]);
        Self {
            source: [call[26], call[27], call[28], call[29]],
            port: [call[34], call[35]],
            theirs: number.wrapping_add(1),
            ours: 1000,
        }
    }

    /// Sends a segment, and returns what is left of the input.
    fn segment<'a>(&mut self, card: &Card, kind: u8, input: &'a [u8]) -> &'a [u8] {
        let [flags, seq, ack, window, length, rest @ ..] = input else { return &[] };
        let (payload, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        // The first greets whatever the fuzzer says, or nothing would come of the rest.
        let flags = if self.ours == 1000 { 0x12 } else { *flags };
        let near = |number: u32, offset: u8| number.wrapping_add_signed(i32::from(offset.cast_signed()));
        let options: &[u8] = if flags & 2 != 0 { &[2, 4, 5, 180, 3, 3, 7, 0] } else { &[] };
        let mut segment = [&[0, 80][..], &self.port].concat();
        segment.extend_from_slice(&near(self.ours, *seq).to_be_bytes());
        segment.extend_from_slice(&near(self.theirs, *ack).to_be_bytes());
        segment.extend_from_slice(&[5 + (options.len() as u8 / 4) << 4, flags, *window, kind, 0, 0, 0, 0]);
        segment.extend_from_slice(options);
        segment.extend_from_slice(payload);
        self.ours = self.ours.wrapping_add(payload.len() as u32 + u32::from(flags & 2 != 0));
        let total = (20 + segment.len()) as u16;
        let mut header =
            [&[0x45, 0][..], &total.to_be_bytes(), &[0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 2, 15]].concat();
        header.extend_from_slice(&self.source);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let frame = [&GATEWAY[..], &GUEST, &[8, 0], &header, &segment].concat();
        card.send(&frame, Checksum::Missing { start: 34, offset: 16 });
        rest
    }
}
