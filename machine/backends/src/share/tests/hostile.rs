//! Requests that make no sense.

use std::fs;

use super::guest::*;
use crate::share::nodes::ROOT;
use crate::share::wire::opcode;
use crate::share::{MAX_REPLY, MAX_REQUEST};

/// Numbers that look random and are the same each time (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn what_has_no_header_has_no_answer() {
    let mut guest = Shared::new();
    let whole = guest.request(opcode::LOOKUP, ROOT, Body::default().name("x"));
    for length in 0..40 {
        assert_eq!(guest.raw(&whole[..length], 4096), [], "{length}");
    }
    for room in 0..16 {
        assert_eq!(guest.raw(&whole, room), [], "{room}");
    }
    assert_eq!(guest.raw(&whole, 16).len(), 16);
}

#[test]
fn a_length_that_lies_leaves_nothing() {
    let mut guest = Shared::new();
    fs::write(guest.path("x"), "").unwrap();
    for length in [0, 39, 41, 43, u32::MAX] {
        let mut request = guest.request(opcode::LOOKUP, ROOT, Body::default().name("x"));
        request[..4].copy_from_slice(&length.to_le_bytes());
        let reply = guest.raw(&request, 4096);
        assert_eq!(u32_at(&reply, 4) as i32, -EINVAL, "{length}");
    }
}

#[test]
fn requests_that_end_early_are_errors() {
    let mut guest = Shared::new();
    let (entry, _) = guest.create(ROOT, "file", O_RDWR, 0o600).unwrap();
    for opcode in 1..60 {
        for length in [0, 1, 4, 7] {
            let body = Body::default().bytes(vec![b'x'; length]);
            let request = guest.request(opcode, entry.node, body);
            let reply = guest.raw(&request, 4096);
            // STATFS needs only the number.
            assert!(matches!(reply.len(), 0 | 16 | 96), "{opcode}: {}", reply.len());
        }
    }
}

#[test]
fn unknown_requests_are_said_to_be() {
    let mut guest = Shared::new();
    for opcode in [0, 7, 19, 31, 32, 33, 37, 39, 40, 41, 48, 49, 51, 52, 4096, u32::MAX] {
        assert_eq!(guest.call(opcode, ROOT, Body::default().bytes([0; 64])), Err(ENOSYS), "{opcode}");
    }
    let interrupt = guest.request(opcode::INTERRUPT, 0, Body::default().u64(2));
    assert_eq!(guest.raw(&interrupt, 4096), []);
}

#[test]
fn numbers_that_mean_nothing_are_stale() {
    let mut guest = Shared::new();
    for node in [0, 2, 3, 1 << 32, u64::MAX] {
        assert_eq!(guest.attributes(node), Err(ESTALE), "{node:#x}");
        assert_eq!(guest.lookup(node, "x"), Err(ESTALE), "{node:#x}");
        assert_eq!(guest.open(node, 0), Err(ESTALE), "{node:#x}");
        assert_eq!(guest.read(node, 0, 1), Err(EBADF), "{node:#x}");
    }
}

#[test]
fn versions_are_settled() {
    let mut guest = Shared::new();
    const EPROTO: i32 = 71;
    let init = |guest: &mut Guest, major: u32, minor: u32| {
        let body = Body::default().u32(major).u32(minor).u32(4096).u32(u32::MAX);
        guest
            .call(opcode::INIT, 0, body)
            .map(|answer| (u32_at(&answer, 0), u32_at(&answer, 4), u32_at(&answer, 12)))
    };
    assert_eq!(init(&mut guest, 6, 99), Err(EPROTO));
    assert_eq!(init(&mut guest, 7, 30), Err(EPROTO));
    let (major, minor, flags) = init(&mut guest, 7, 31).unwrap();
    assert_eq!((major, minor), (7, 38));
    const WRITEBACK_CACHE: u32 = 1 << 16;
    assert_eq!(flags & WRITEBACK_CACHE, 0);
    assert_eq!(init(&mut guest, 8, 0), Ok((7, 38, 0)), "it asks again");
    // A session that begins anew knows nothing of the one before.
    let (entry, handle) = guest.create(ROOT, "file", O_RDWR, 0o600).unwrap();
    init(&mut guest, 7, 37).unwrap();
    assert_eq!((guest.attributes(entry.node), guest.read(handle, 0, 1)), (Err(ESTALE), Err(EBADF)));
    assert_eq!(guest.call(opcode::DESTROY, 0, Body::default()), Ok(vec![]));
}

#[test]
fn open_files_are_bounded() {
    // 64 of them.
    let mut guest = Shared::with(false, 128);
    fs::write(guest.path("file"), "").unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().node;
    let mut handles = Vec::new();
    let refused = loop {
        match guest.open(node, 0) {
            Ok(handle) => handles.push(handle),
            Err(error) => break error,
        }
    };
    assert_eq!((refused, handles.len()), (ENFILE, 64));
    assert_eq!(guest.open_folder(ROOT), Err(ENFILE));
    // A file that is made is there then, but not known for ever.
    assert_eq!(guest.create(ROOT, "new", O_RDWR, 0o600).unwrap_err(), ENFILE);
    guest.release(handles[7]).unwrap();
    assert!(guest.open(node, 0).is_ok());
}

#[test]
fn noise_is_answered_within_bounds() {
    let mut guest = Shared::new();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let known = ["a", "b"].map(|name| guest.create(ROOT, name, O_RDWR, 0o600).unwrap());
    let [(a, handle), (b, _)] = known;
    for round in 0..20_000 {
        let opcode = (noise.next() % 54) as u32;
        let node = [ROOT, a.node, b.node, noise.next()][noise.next() as usize % 4];
        let mut body = Body::default();
        if noise.next().is_multiple_of(2) {
            body = body.u64([handle, a.node][noise.next() as usize % 2]);
        }
        for _ in 0..noise.next() % 12 {
            // Small numbers are flags and sizes that mean something.
            body = body.u32([noise.next() as u32, 1, 2, 0][noise.next() as usize % 4]);
        }
        body = body.name(["a", "b", "..", "c/d"][noise.next() as usize % 4]);
        if noise.next().is_multiple_of(2) {
            body = body.name("b");
        }
        // Room for gigabytes may be asked for, and that the session ends.
        if [opcode::FALLOCATE, opcode::DESTROY, opcode::INIT].contains(&opcode) {
            continue;
        }
        let request = guest.request(opcode, node, body);
        let room = [0, 16, 100, 4096, 8 << 20][noise.next() as usize % 5];
        let reply = guest.raw(&request, room);
        assert!(reply.len() <= room.min(MAX_REPLY), "{round}");
        if !reply.is_empty() {
            assert_eq!(u32_at(&reply, 0) as usize, reply.len());
        }
    }
    let huge = guest.request(opcode::WRITE, ROOT, Body::default().bytes(vec![0; MAX_REQUEST]));
    assert_eq!(u32_at(&guest.raw(&huge, 4096), 4) as i32, -EINVAL);
}
