//! More work for a disk than it could do in minutes, left behind by a guest that ends.

use crate::device::{Device, Rings};
use crate::machine::{store, write};
use crate::{ARENA, ARENA_LENGTH};

const QUEUES: u16 = 2;
/// As many as the device allows.
const SIZE: u16 = 256;
const NEXT: u64 = 1;
const WRITE: u64 = 2;
/// Where everything is read to, over and over; what the rings take lies before.
const BUFFER: u64 = ARENA + 0x10_0000;
const LENGTH: u64 = ARENA_LENGTH - 0x10_0000;
/// VIRTIO_BLK_T_IN from sector 0 on is all zeroes.
const HEADER: u64 = ARENA + 0xc000;
const STATUS: u64 = HEADER + 16;

/// Fills all queues with one request each, made available as often as there is room: to read as much as one
/// request can.
pub fn read_without_end(disk: &Device) {
    let rings = Rings { size: SIZE, desc: ARENA, driver: ARENA + 0x4000, device: ARENA + 0x8000 };
    store(HEADER, 0);
    store(HEADER + 8, 0);
    for queue in 0..QUEUES {
        let Rings { desc, driver, device, .. } = rings.of(queue);
        let last = u64::from(SIZE) - 1;
        for index in 0..=last {
            let (address, length, flags) = match index {
                0 => (HEADER, 16, NEXT),
                _ if index == last => (STATUS, 1, WRITE),
                _ => (BUFFER, LENGTH, NEXT | WRITE),
            };
            store(desc + 16 * index, address);
            store(desc + 16 * index + 8, length | flags << 32 | (index + 1) << 48);
        }
        for slot in 0..u64::from(SIZE) {
            write(driver + 4 + 2 * slot, 2, 0);
        }
        write(driver, 2, 0);
        write(driver + 2, 2, SIZE.into());
        store(device, 0);
    }
    disk.set_up(&rings, false);
    disk.notify_all();
}
