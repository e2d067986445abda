//! VMs on one switch: threads of this process, and processes of their own that end as they like.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use backends::net::{Checksum, Handlers, Mac, Network, Offload, Offloads, SegmentKind, Segments, Switch};

/// What nothing here takes on any machine.
const LIMIT: Duration = Duration::from_secs(60);
const ALL: Mac = Mac([0xff; 6]);
/// Where a process of its own finds its switch.
const FOLDER: &str = "POPF_TEST_SWITCH";

fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

fn frame(to: Mac, from: Mac, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend_from_slice(payload);
    frame
}

#[derive(Default)]
struct Card {
    frames: Mutex<Vec<(Vec<u8>, Offload)>>,
    arrived: Condvar,
    /// It has no buffers.
    closed: AtomicBool,
    /// How often it was told of room.
    drained: Mutex<u32>,
    room: Condvar,
}

/// A card on the switch.
struct Member {
    switch: Switch,
    card: Arc<Card>,
    mac: Mac,
}

impl Member {
    fn join(folder: &Path, number: u8) -> Self {
        let switch = Switch::join(folder).unwrap();
        let card = Arc::new(Card::default());
        let (receiver, sender) = (card.clone(), card.clone());
        let handlers = Handlers {
            receive: Box::new(move |frame, offload| {
                if receiver.closed.load(Ordering::Acquire) {
                    return false;
                }
                receiver.frames.lock().unwrap().push((frame.to_vec(), offload));
                receiver.arrived.notify_all();
                true
            }),
            drained: Box::new(move || {
                *sender.drained.lock().unwrap() += 1;
                sender.room.notify_all();
            }),
        };
        switch.start(handlers).unwrap();
        Self { switch, card, mac: mac(number) }
    }

    fn send(&self, to: Mac, payload: &[u8]) -> bool {
        self.switch.send(&frame(to, self.mac, payload), Offload::default())
    }

    /// Sends, waiting for room as a card does.
    fn send_all(&self, to: Mac, payload: &[u8]) {
        loop {
            let before = *self.card.drained.lock().unwrap();
            if self.send(to, payload) {
                return;
            }
            let drained = self.card.drained.lock().unwrap();
            let (now, _) = self.card.room.wait_timeout_while(drained, LIMIT, |now| *now == before).unwrap();
            assert!(*now != before, "nobody says that there is room");
        }
    }

    /// The next `count` frames.
    fn take(&self, count: usize) -> Vec<(Vec<u8>, Offload)> {
        let frames = self.card.frames.lock().unwrap();
        let (mut frames, late) =
            self.card.arrived.wait_timeout_while(frames, LIMIT, |frames| frames.len() < count).unwrap();
        assert!(!late.timed_out(), "{} of {count} frames have come", frames.len());
        frames.drain(..count).collect()
    }

    fn payloads(&self, count: usize) -> Vec<Vec<u8>> {
        self.take(count).into_iter().map(|(frame, _)| frame[14..].to_vec()).collect()
    }

    fn has_nothing(&self) -> bool {
        self.card.frames.lock().unwrap().is_empty()
    }

    /// Waits until so many others are connected.
    fn meet(&self, others: usize) {
        let end = Instant::now() + LIMIT;
        while self.switch.peers() != others {
            assert!(Instant::now() < end, "{} others of {others}", self.switch.peers());
            thread::yield_now();
        }
    }
}

/// Members 1 to `count`, who all know where each other is.
fn members(folder: &Path, count: u8) -> Vec<Member> {
    let members: Vec<_> = (1..=count).map(|number| Member::join(folder, number)).collect();
    for member in &members {
        member.meet(members.len() - 1);
    }
    for member in &members {
        assert!(member.send(ALL, b"here"));
    }
    for member in &members {
        assert_eq!(member.payloads(members.len() - 1), vec![b"here".to_vec(); members.len() - 1]);
    }
    members
}

#[test]
fn frames_go_where_their_address_is() {
    let folder = tempfile::tempdir().unwrap();
    let members = members(folder.path(), 3);
    assert!(members[0].send(mac(2), b"for two"));
    assert!(members[0].send(mac(99), b"for somebody"));
    assert!(members[0].send(ALL, b"for all"));
    // No frame too short or too long to be one comes out anywhere.
    for odd in [&[][..], &[2; 5], &[2; 13], &vec![0xff; 70_000]] {
        assert!(members[0].switch.send(odd, Offload::default()));
    }
    assert!(members[2].send(mac(1), b"for one"));
    assert_eq!(members[1].payloads(3), [b"for two".to_vec(), b"for somebody".to_vec(), b"for all".to_vec()]);
    assert_eq!(members[2].payloads(2), [b"for somebody".to_vec(), b"for all".to_vec()]);
    assert_eq!(members[0].payloads(1), [b"for one".to_vec()]);
    assert!(members.iter().all(Member::has_nothing));
}

#[test]
fn all_who_join_at_once_are_connected_once() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let members: Vec<_> = thread::scope(|scope| {
            let path = folder.path();
            let joining: Vec<_> =
                (1..=6).map(|number| scope.spawn(move || Member::join(path, number))).collect();
            joining.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // A second connection of the same two may come and go; in the end each has one, and a frame arrives.
        for member in &members {
            for other in members.iter().filter(|other| other.mac != member.mac) {
                let end = Instant::now() + LIMIT;
                let probe = frame(ALL, member.mac, &[other.mac.0[5]]);
                let arrived = || other.card.frames.lock().unwrap().iter().any(|(frame, _)| *frame == probe);
                while !arrived() {
                    assert!(Instant::now() < end, "{:?} does not reach {:?}", member.mac, other.mac);
                    member.switch.send(&probe, Offload::default());
                    thread::yield_now();
                }
            }
            member.meet(5);
        }
        for member in &members {
            member.card.frames.lock().unwrap().clear();
        }
    }
}

#[test]
fn large_frames_pass_whole_or_are_cut_for_who_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    let members = members(folder.path(), 2);
    // TCP over IPv4, 3000 bytes in segments of 1400.
    let mut large = frame(mac(2), mac(1), &[]);
    large[12..14].copy_from_slice(&[8, 0]);
    large.extend([0x45, 0, 0x0b, 0xe0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    large.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    large.extend([7; 3000]);
    let offload = Offload {
        checksum: Checksum::Missing { start: 34, offset: 16 },
        segments: Some(Segments { kind: SegmentKind::Tcp4, size: 1400, header_len: 54, ecn: false }),
    };
    members[1].switch.guest_takes(Offloads::ALL);
    assert!(members[0].switch.send(&large, offload));
    assert_eq!(members[1].take(1), [(large.clone(), offload)]);
    members[1].switch.guest_takes(Offloads::NONE);
    assert!(members[0].switch.send(&large, offload));
    let cut = members[1].take(3);
    assert_eq!(cut.iter().map(|(frame, _)| frame.len()).collect::<Vec<_>>(), [1454, 1454, 254]);
    assert!(cut.iter().all(|(_, offload)| *offload == Offload::default()));
}

#[test]
fn a_slow_receiver_slows_the_sender_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let members = members(folder.path(), 2);
    let payload = |number: u32| [number.to_le_bytes().as_slice(), &[0; 8000]].concat();
    members[1].card.closed.store(true, Ordering::Release);
    // What is on its way is bounded, and soon nothing is taken any more.
    let first = (0..).find(|number| !members[0].send(mac(2), &payload(*number))).unwrap();
    assert!(first < 10_000, "{first} frames are on their way");
    members[1].card.closed.store(false, Ordering::Release);
    members[1].switch.room();
    thread::scope(|scope| {
        scope.spawn(|| (first..2000).for_each(|number| members[0].send_all(mac(2), &payload(number))));
        for number in 0..2000 {
            assert_eq!(members[1].payloads(1)[0], payload(number), "frame {number}");
            // It stops now and then, for less than anybody's patience.
            if number % 500 == 499 {
                members[1].card.closed.store(true, Ordering::Release);
                thread::sleep(Duration::from_millis(20));
                members[1].card.closed.store(false, Ordering::Release);
                members[1].switch.room();
            }
        }
    });
    assert!(members[1].has_nothing());
}

#[test]
fn who_takes_nothing_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let members = members(folder.path(), 3);
    members[1].card.closed.store(true, Ordering::Release);
    let started = Instant::now();
    // Many times what a socket holds; the first waits for as long as anybody is waited for.
    for _ in 0..1000 {
        members[0].send_all(mac(2), &[1; 30_000]);
        members[0].send_all(mac(3), b"still here");
    }
    assert!(started.elapsed() < LIMIT / 2, "{:?}", started.elapsed());
    assert_eq!(members[2].payloads(1000), vec![b"still here".to_vec(); 1000]);
    // And once it takes again it is sent to again.
    members[1].card.closed.store(false, Ordering::Release);
    members[1].switch.room();
    let end = Instant::now() + LIMIT;
    loop {
        members[0].send_all(mac(2), b"back?");
        if members[1].card.frames.lock().unwrap().iter().any(|(frame, _)| frame.ends_with(b"back?")) {
            break;
        }
        assert!(Instant::now() < end);
        thread::yield_now();
    }
}

/// A member in a process of its own: says that it has joined and answers every frame with its payload, until it is
/// killed. Does nothing as a test.
#[test]
fn process() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let member = Member::join(Path::new(&folder), 200);
    member.send(ALL, b"joined");
    println!("joined");
    loop {
        let (frame, _) = member.take(1).remove(0);
        let from = Mac(frame[6..12].try_into().unwrap());
        member.send_all(from, &frame[14..]);
    }
}

fn start_process(folder: &Path) -> Child {
    let program = env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "process", "--nocapture"]).env(FOLDER, folder);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("joined")), "the process has not joined");
    child
}

#[test]
fn killing_one_hurts_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let members = members(folder, 2);
    for _ in 0..5 {
        let mut child = start_process(folder);
        for member in &members {
            assert_eq!(member.payloads(1), [b"joined".to_vec()]);
        }
        // Killed while frames go in both directions.
        thread::scope(|scope| {
            scope.spawn(|| (0..500).for_each(|_| members[0].send_all(mac(200), &[5; 9000])));
            members[0].take(20);
            child.kill().unwrap();
            child.wait().unwrap();
        });
        members.iter().for_each(|member| member.meet(1));
        members[0].send_all(mac(2), b"alive");
        members[1].send_all(mac(1), b"alive");
        // Frames for an address that is no longer known go to all.
        for member in &members {
            while member.payloads(1)[0] != b"alive" {}
        }
    }
    // What the killed have left is gone with whoever joins next; two live, and the new one.
    let third = Member::join(folder, 3);
    third.meet(2);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 3);
    drop(members);
    third.meet(0);
}
