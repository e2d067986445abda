//! The file system device, with a server that takes requests and answers them when it likes.
//!
//! What it hands out is a request, and no longer than was agreed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use devices::virtio::fs::{FileSystem, Taken};
use devices::wiring::lock;
use memory::GuestRam;

use super::{Arm, Host};
use crate::driver::{BUFFERS, Driver};
use crate::input::Input;

/// The longest request that is any good.
const MOST: usize = 0x2_0000;
/// Of `struct fuse_in_header`.
const HEADER: usize = 40;
/// A server has so many hands.
const MOST_TAKEN: usize = 64;
const REQUEST: u64 = BUFFERS;
const REPLY: u64 = BUFFERS + 0x4_0000;

struct Server {
    device: Arc<Mutex<FileSystem>>,
    request: Vec<u8>,
    taken: VecDeque<Taken>,
}

impl Server {
    /// `false` if there is nothing to do.
    fn take(&mut self) -> bool {
        let taken = lock(&self.device).take(&mut self.request);
        if taken.is_some() {
            assert!((HEADER..=MOST).contains(&self.request.len()), "no request");
        }
        let some = taken.is_some();
        self.taken.extend(taken);
        some
    }

    fn answer_all(&mut self) {
        for taken in self.taken.drain(..) {
            lock(&self.device).answer(taken, &[]);
        }
    }
}

impl Host for Server {
    fn act(&mut self, input: &mut Input) {
        let choice = input.byte();
        if choice & 1 == 0 && self.taken.len() < MOST_TAKEN {
            self.take();
            return;
        }
        let taken = if choice & 2 == 0 { self.taken.pop_front() } else { self.taken.pop_back() };
        let Some(taken) = taken else { return };
        // As much as there is room for, a little of it, nothing, too much.
        let length = match choice >> 2 & 3 {
            0 => taken.room,
            1 => taken.room.min(16),
            2 => 0,
            _ => taken.room.saturating_add(1),
        };
        lock(&self.device).answer(taken, &vec![0x5a; length.min(2 * MOST)]);
    }

    fn request(&mut self, driver: &mut Driver, input: &mut Input) -> u16 {
        let queue = u16::from(input.byte() % 2);
        let (body, room) = (u32::from(input.half()), u32::from(input.half()));
        let header = (REQUEST, HEADER as u32);
        driver.ram.write(REQUEST, input.bytes(HEADER)).expect("it is RAM");
        driver.offer(queue, &[header, (REQUEST + 0x100, 2 * body)], &[(REPLY, 16), (REPLY + 16, room)]);
        queue
    }

    fn settle(&mut self) {
        self.answer_all();
        while self.take() {
            self.answer_all();
        }
    }
}

pub(super) fn fs(_: &GuestRam, _: u8) -> Arm {
    let device = Arc::new(Mutex::new(FileSystem::new("share0", MOST)));
    Arm::new(&device, Server { device: device.clone(), request: Vec::new(), taken: VecDeque::new() })
}
