use std::collections::VecDeque;

use super::super::ring::SMALLEST;
use super::*;

const LARGEST_PAYLOAD: u16 = 1460;
const GUEST: u32 = 1000;
const OURS: u32 = 0xffff_fff0;

/// A time that the test moves.
struct Clock(Instant);

impl Clock {
    fn pass(&mut self, time: Duration) {
        self.0 += time;
    }
}

fn syn() -> Segment<'static> {
    Segment { seq: GUEST, syn: true, window: 60_000, mss: Some(1000), scale: Some(7), ..Segment::default() }
}

/// The guest's, with its window in units of 128 bytes.
fn from_guest(seq: u32, ack: u32, payload: &[u8]) -> Segment<'_> {
    Segment { seq, ack: Some(ack), window: 500, payload, ..Segment::default() }
}

/// A connection that the guest has opened.
fn open(clock: &Clock) -> Endpoint {
    let mut endpoint = Endpoint::called(&syn(), OURS, 536, LARGEST_PAYLOAD, clock.0);
    assert_eq!(endpoint.next(0, LARGEST_PAYLOAD, clock.0), None);
    endpoint.greet(clock.0);
    let (greeting, ..) = endpoint.next(0, LARGEST_PAYLOAD, clock.0).unwrap();
    assert_eq!((greeting.seq, greeting.ack, greeting.syn), (OURS, Some(GUEST + 1), true));
    assert_eq!((greeting.mss, greeting.scale), (Some(1460), Some(SCALE)));
    let arrival = receive(&mut endpoint, from_guest(GUEST + 1, OURS + 1, b""), clock);
    assert_eq!((arrival.verdict, endpoint.phase()), (Verdict::Goes, Phase::Open));
    endpoint
}

fn receive<'a>(endpoint: &mut Endpoint, segment: Segment<'a>, clock: &Clock) -> Arrival<'a> {
    endpoint.receive(&segment, LARGEST_PAYLOAD, clock.0)
}

/// What it sends until it has nothing more.
fn sent(endpoint: &mut Endpoint, limit: usize, clock: &Clock) -> Vec<(u32, usize)> {
    let mut sent = Vec::new();
    while let Some((segment, _, len)) = endpoint.next(limit, LARGEST_PAYLOAD, clock.0) {
        sent.push((segment.seq.wrapping_sub(OURS + 1), len));
    }
    sent
}

fn give(endpoint: &mut Endpoint, count: usize) {
    let mut budget = Budget::new(usize::MAX);
    assert_eq!(endpoint.outgoing().push(&vec![7; count], &mut budget), count);
}

#[test]
fn what_is_sent_fits_the_guest() {
    let clock = Clock(Instant::now());
    let mut endpoint = open(&clock);
    give(&mut endpoint, 4500);
    // In segments of the guest's size, and with offload in whole multiples of it.
    assert_eq!(
        sent(&mut endpoint, 0, &clock),
        [(0, 1000), (1000, 1000), (2000, 1000), (3000, 1000), (4000, 500)]
    );
    receive(&mut endpoint, from_guest(GUEST + 1, OURS.wrapping_add(4501), b""), &clock);
    give(&mut endpoint, 4500);
    assert_eq!(sent(&mut endpoint, 2900, &clock), [(4500, 2000), (6500, 2500)]);
}

#[test]
fn the_window_is_kept_and_slivers_are_not_sent() {
    let mut clock = Clock(Instant::now());
    let mut endpoint = open(&clock);
    let ack =
        |count: u32, window| Segment { window, ..from_guest(GUEST + 1, OURS.wrapping_add(1 + count), b"") };
    receive(&mut endpoint, ack(0, 20), &clock);
    give(&mut endpoint, 5000);
    assert_eq!(sent(&mut endpoint, 0, &clock), [(0, 1000), (1000, 1000)]);
    receive(&mut endpoint, ack(2000, 0), &clock);
    assert_eq!(sent(&mut endpoint, 0, &clock), []);
    // The guest has to say when its window opens; if that is lost, a probe finds out.
    for _ in 0..40 {
        let deadline = endpoint.deadline().unwrap();
        clock.pass(deadline - clock.0);
        assert!(endpoint.timeout(clock.0));
        assert_eq!(sent(&mut endpoint, 0, &clock), [(1999, 0)]);
        receive(&mut endpoint, ack(2000, 0), &clock);
        assert_eq!(sent(&mut endpoint, 0, &clock), []);
    }
    receive(&mut endpoint, ack(2000, 500), &clock);
    assert_eq!(sent(&mut endpoint, 0, &clock), [(2000, 1000), (3000, 1000), (4000, 1000)]);
}

#[test]
fn what_is_lost_is_sent_again() {
    let mut clock = Clock(Instant::now());
    let mut endpoint = open(&clock);
    give(&mut endpoint, 3000);
    assert_eq!(sent(&mut endpoint, 0, &clock).len(), 3);
    let duplicate = from_guest(GUEST + 1, OURS.wrapping_add(1001), b"");
    for _ in 0..3 {
        receive(&mut endpoint, duplicate, &clock);
        assert_eq!(sent(&mut endpoint, 0, &clock), []);
    }
    receive(&mut endpoint, duplicate, &clock);
    assert_eq!(sent(&mut endpoint, 0, &clock), [(1000, 1000), (2000, 1000)]);
    // Copies make duplicates of their own, which mean nothing.
    for _ in 0..10 {
        receive(&mut endpoint, duplicate, &clock);
        assert_eq!(sent(&mut endpoint, 0, &clock), []);
    }
    let mut total = Duration::ZERO;
    loop {
        let wait = endpoint.deadline().unwrap() - clock.0;
        total += wait;
        clock.pass(wait);
        if !endpoint.timeout(clock.0) {
            break;
        }
        assert_eq!(sent(&mut endpoint, 0, &clock).len(), 2);
    }
    assert!((60..180).contains(&total.as_secs()), "gave up after {total:?}");
}

#[test]
fn bytes_are_taken_once_and_in_order() {
    let clock = Clock(Instant::now());
    let mut budget = Budget::new(usize::MAX);
    let mut endpoint = open(&clock);
    let ack = OURS + 1;
    let arrival = receive(&mut endpoint, from_guest(GUEST + 1, ack, b"hello"), &clock);
    assert_eq!((arrival.payload, arrival.fin, arrival.at_once), (&b"hello"[..], false, false));
    // The host takes two; three wait.
    assert_eq!(endpoint.accept(arrival.payload, 2, false, &mut budget), 5);
    assert_eq!(endpoint.incoming().peek(0, 3).0, b"llo");
    assert_eq!(endpoint.next(0, 1460, clock.0).unwrap().0.ack, Some(GUEST + 6));
    // Again, ahead, and overlapping.
    for (seq, payload, new) in [(1, "hello", ""), (7, "x", ""), (3, "llo, ", ", ")] {
        let arrival = receive(&mut endpoint, from_guest(GUEST + seq, ack, payload.as_bytes()), &clock);
        assert_eq!((arrival.payload, arrival.at_once), (new.as_bytes(), new.is_empty()), "{seq}");
    }
    assert_eq!(endpoint.accept(b", ", 0, false, &mut budget), 2);
    let last = Segment { fin: true, ..from_guest(GUEST + 8, ack, b"world") };
    let arrival = receive(&mut endpoint, last, &clock);
    assert!(arrival.fin);
    endpoint.accept(arrival.payload, 0, true, &mut budget);
    assert!(!endpoint.guest_done());
    let mut out = Vec::new();
    while !endpoint.incoming().is_empty() {
        endpoint.incoming().drain(&mut out).unwrap();
    }
    assert_eq!((&out[..], endpoint.guest_done(), endpoint.done()), (&b"llo, world"[..], true, false));
    assert_eq!(endpoint.next(0, 1460, clock.0).unwrap().0.ack, Some(GUEST + 14));
    endpoint.end();
    let (fin, ..) = endpoint.next(0, 1460, clock.0).unwrap();
    assert!(fin.fin);
    receive(&mut endpoint, from_guest(GUEST + 14, OURS + 2, b""), &clock);
    assert!(endpoint.done());
    assert_eq!(endpoint.deadline(), None);
}

#[test]
fn a_slow_host_shuts_the_guests_window_and_opens_it_again() {
    let clock = Clock(Instant::now());
    let mut budget = Budget::new(usize::MAX);
    let mut endpoint = open(&clock);
    let mut seq = GUEST + 1;
    let chunk = [1; 32 << 10];
    let mut taken = 0;
    loop {
        let arrival = receive(&mut endpoint, from_guest(seq, OURS + 1, &chunk), &clock);
        let count = endpoint.accept(arrival.payload, 0, false, &mut budget);
        if count == 0 {
            break;
        }
        taken += count;
        seq = seq.wrapping_add(count as u32);
        endpoint.acknowledgement();
    }
    assert_eq!(taken, LARGEST);
    assert_eq!(endpoint.acknowledgement().window, 0);
    // A little room is not worth a segment, much is.
    endpoint.incoming().consume(100);
    endpoint.drained();
    assert_eq!(endpoint.next(0, 1460, clock.0), None);
    endpoint.incoming().consume(LARGEST / 4);
    endpoint.drained();
    let (update, ..) = endpoint.next(0, 1460, clock.0).unwrap();
    assert_eq!(usize::from(update.window) << SCALE, (LARGEST / 4 + 100) >> SCALE << SCALE);
}

#[test]
fn without_memory_nothing_is_promised_that_is_not_kept() {
    let clock = Clock(Instant::now());
    let mut budget = Budget::new(0);
    let mut endpoint = open(&clock);
    let chunk = vec![1; 60_000];
    let arrival = receive(&mut endpoint, from_guest(GUEST + 1, OURS + 1, &chunk), &clock);
    assert_eq!(endpoint.accept(arrival.payload, 0, true, &mut budget), SMALLEST);
    assert_eq!(endpoint.acknowledgement().ack, Some(GUEST + 1 + SMALLEST as u32));
    assert!(!endpoint.guest_done());
}

#[test]
fn only_what_can_be_meant_ends_a_connection() {
    let clock = Clock(Instant::now());
    let mut endpoint = open(&clock);
    let reset = |seq| Segment { seq, rst: true, ..Segment::default() };
    assert_eq!(receive(&mut endpoint, reset(GUEST), &clock).verdict, Verdict::Goes);
    assert_eq!(receive(&mut endpoint, reset(GUEST + 1), &clock).verdict, Verdict::Reset);
    // A guest that has forgotten, and one that has not had our answer.
    let other = Segment { seq: 77, ..syn() };
    assert_eq!(receive(&mut endpoint, other, &clock).verdict, Verdict::Anew);
    assert!(receive(&mut endpoint, syn(), &clock).at_once);
    // Acknowledging what was never sent.
    let arrival = receive(&mut endpoint, from_guest(GUEST + 1, OURS + 9, b"x"), &clock);
    assert_eq!((arrival.payload, arrival.at_once), (&b""[..], true));
    let mut calling = Endpoint::calling(OURS, 536, clock.0);
    calling.next(0, 1460, clock.0).unwrap();
    let refusal = |ack| Segment { ack: Some(ack), ..reset(0) };
    assert_eq!(receive(&mut calling, refusal(OURS), &clock).verdict, Verdict::Goes);
    assert_eq!(receive(&mut calling, refusal(OURS + 1), &clock).verdict, Verdict::Reset);
}

/// Two of our own talk to each other over a line that loses and repeats.
#[test]
fn a_bad_line_loses_nothing() {
    for seed in 1..20 {
        let mut line = BadLine::new(seed);
        line.run();
        for (end, sent) in [(0, 1), (1, 0)] {
            assert_eq!(line.ends[end].received.len(), line.ends[sent].text.len(), "{seed}");
            assert!(line.ends[end].received == line.ends[sent].text, "{seed}: bytes are wrong");
        }
    }
}

struct End {
    endpoint: Option<Endpoint>,
    text: Vec<u8>,
    given: usize,
    received: Vec<u8>,
    /// What is on its way to it.
    line: VecDeque<(Segment<'static>, Vec<u8>)>,
}

struct BadLine {
    ends: [End; 2],
    random: u64,
    clock: Clock,
    budget: Budget,
}

impl BadLine {
    fn new(seed: u64) -> Self {
        let clock = Clock(Instant::now());
        let end = |len: u32, endpoint| End {
            endpoint,
            text: (0..len).map(|index| (index * 7 + index / 251) as u8).collect(),
            given: 0,
            received: Vec::new(),
            line: VecDeque::new(),
        };
        let ends = [end(300_000, Some(Endpoint::calling(OURS, 536, clock.0))), end(200_000, None)];
        Self { ends, random: seed * 0x9e37_79b9, clock, budget: Budget::new(1 << 20) }
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.is_multiple_of(one_in)
    }

    fn run(&mut self) {
        for _ in 0..100_000 {
            let done = |end: &End| end.endpoint.as_ref().is_some_and(Endpoint::done);
            if self.ends.iter().all(done) {
                return;
            }
            self.step(0);
            self.step(1);
            if self.ends.iter().all(|end| end.line.is_empty()) {
                self.wait();
            }
        }
        panic!("it never ends");
    }

    /// Nothing is under way: time passes until one of them does something about it.
    fn wait(&mut self) {
        let endpoints = self.ends.iter_mut().filter_map(|end| end.endpoint.as_mut());
        let Some(first) =
            endpoints.min_by_key(|endpoint| endpoint.deadline().unwrap_or(self.clock.0 + LONGEST_PATIENCE))
        else {
            return;
        };
        if let Some(deadline) = first.deadline() {
            self.clock.0 = self.clock.0.max(deadline);
            assert!(first.timeout(self.clock.0), "gave up");
        }
    }

    fn step(&mut self, side: usize) {
        let now = self.clock.0;
        let arrived: Vec<_> = self.ends[side].line.drain(..).collect();
        for (header, payload) in arrived {
            let segment = Segment { payload: &payload, ..header };
            let end = &mut self.ends[side];
            let endpoint = end.endpoint.get_or_insert_with(|| {
                let mut endpoint = Endpoint::called(&segment, 5, 536, LARGEST_PAYLOAD, now);
                endpoint.greet(now);
                endpoint
            });
            let arrival = endpoint.receive(&segment, LARGEST_PAYLOAD, now);
            assert_eq!(arrival.verdict, Verdict::Goes);
            let taken = arrival.payload.len() / 2;
            end.received.extend_from_slice(&arrival.payload[..taken]);
            endpoint.accept(arrival.payload, taken, arrival.fin, &mut self.budget);
            while !endpoint.incoming().is_empty() {
                endpoint.incoming().drain(&mut end.received).unwrap();
            }
            endpoint.drained();
            if arrival.at_once {
                let acknowledgement = endpoint.acknowledgement();
                self.put(1 - side, acknowledgement, Vec::new());
            }
        }
        loop {
            let end = &mut self.ends[side];
            let Some(endpoint) = end.endpoint.as_mut() else { return };
            if endpoint.room(&mut self.budget) > 0 {
                end.given += endpoint.outgoing().fill(&end.text[end.given..]).unwrap();
                if end.given == end.text.len() {
                    endpoint.end();
                }
            }
            let Some((segment, offset, len)) = endpoint.next(20_000, LARGEST_PAYLOAD, now) else { return };
            let (first, second) = endpoint.outgoing().peek(offset, len);
            let payload = [first, second].concat();
            self.put(1 - side, segment, payload);
        }
    }

    fn put(&mut self, side: usize, segment: Segment<'static>, payload: Vec<u8>) {
        if self.chance(10) {
            return;
        }
        if self.chance(10) {
            self.ends[side].line.push_back((segment, payload.clone()));
        }
        self.ends[side].line.push_back((segment, payload));
    }
}
