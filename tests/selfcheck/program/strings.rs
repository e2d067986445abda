//! String instructions against loops of bytes, with every alignment, overlap, width and direction.

use core::arch::asm;

use crate::report::Outcome;
use crate::sys::{self, PAGE, READ, WRITE};

/// The tests' room: two pages, with the edge between them in the middle of what is used.
const ROOM: usize = 256;

struct Room {
    bytes: &'static mut [u8],
    model: [u8; ROOM],
}

impl Room {
    fn new() -> Self {
        let at = sys::map(2, READ | WRITE) + PAGE - ROOM as u64 / 2;
        // SAFETY: fresh pages, which nothing else refers to.
        Self { bytes: unsafe { core::slice::from_raw_parts_mut(at as *mut u8, ROOM) }, model: [0; ROOM] }
    }

    fn fill(&mut self) {
        for at in 0..ROOM {
            self.bytes[at] = (at * 7 + 3) as u8;
            self.model[at] = self.bytes[at];
        }
    }

    fn at(&mut self, index: usize) -> u64 {
        (&raw mut self.bytes[index]) as u64
    }
}

macro_rules! repeated {
    ($instruction:literal, $down:expr, $rcx:ident, $rsi:ident, $rdi:ident, $rax:expr) => {
        // SAFETY: the callers keep all of it within the room; the direction flag is cleared again.
        unsafe {
            if $down {
                asm!("std", $instruction, "cld", inout("rcx") $rcx, inout("rsi") $rsi, inout("rdi") $rdi, in("rax") $rax);
            } else {
                asm!($instruction, inout("rcx") $rcx, inout("rsi") $rsi, inout("rdi") $rdi, in("rax") $rax);
            }
        }
    };
}

/// Where an element begins that the instruction reaches after `number` steps.
fn step(start: usize, number: usize, width: usize, down: bool) -> usize {
    if down { start - number * width } else { start + number * width }
}

pub fn moves() -> Outcome {
    let mut room = Room::new();
    for width in [1usize, 2, 4, 8] {
        for down in [false, true] {
            for from in 112..128 {
                // Overlaps in both directions, and distances to either side.
                for to in (from - 20..from + 20).chain([from - 48, from + 48]) {
                    for count in [0usize, 1, 2, 5] {
                        room.fill();
                        for number in 0..count {
                            let (source, target) =
                                (step(from, number, width, down), step(to, number, width, down));
                            let mut element = [0; 8];
                            element[..width].copy_from_slice(&room.model[source..source + width]);
                            room.model[target..target + width].copy_from_slice(&element[..width]);
                        }
                        let (mut rcx, mut rsi, mut rdi) = (count as u64, room.at(from), room.at(to));
                        match width {
                            1 => repeated!("rep movsb", down, rcx, rsi, rdi, 0),
                            2 => repeated!("rep movsw", down, rcx, rsi, rdi, 0),
                            4 => repeated!("rep movsd", down, rcx, rsi, rdi, 0),
                            _ => repeated!("rep movsq", down, rcx, rsi, rdi, 0),
                        }
                        ensure!(
                            room.bytes[..] == room.model[..],
                            "{count} of {width} bytes from {from} to {to}, down: {down}"
                        );
                        same!(rcx, 0, "rcx after a move");
                        same!(rsi, room.at(step(from, count, width, down)), "rsi after a move");
                        same!(rdi, room.at(step(to, count, width, down)), "rdi after a move");
                    }
                }
            }
        }
    }
    long(&mut room)
}

/// Lengths that a copy in blocks would be made for, with overlaps that forbid it.
fn long(room: &mut Room) -> Outcome {
    for distance in [1usize, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64] {
        room.fill();
        let length = ROOM - distance;
        for at in 0..length {
            room.model[at + distance] = room.model[at];
        }
        let (mut rcx, mut rsi, mut rdi) = (length as u64, room.at(0), room.at(distance));
        repeated!("rep movsb", false, rcx, rsi, rdi, 0);
        ensure!(room.bytes[..] == room.model[..], "{length} bytes up by {distance}");
        same!(rcx + rsi + rdi, room.at(0) + room.at(0) + 2 * length as u64 + distance as u64, "registers");
    }
    Ok(())
}

pub fn stores() -> Outcome {
    let mut room = Room::new();
    let value = 0xa1b2_c3d4_e5f6_0718u64;
    for width in [1usize, 2, 4, 8] {
        for down in [false, true] {
            for to in 110..130 {
                for count in [0usize, 1, 3, 8] {
                    room.fill();
                    for number in 0..count {
                        let target = step(to, number, width, down);
                        room.model[target..target + width].copy_from_slice(&value.to_le_bytes()[..width]);
                    }
                    let (mut rcx, mut rsi, mut rdi) = (count as u64, 0u64, room.at(to));
                    match width {
                        1 => repeated!("rep stosb", down, rcx, rsi, rdi, value),
                        2 => repeated!("rep stosw", down, rcx, rsi, rdi, value),
                        4 => repeated!("rep stosd", down, rcx, rsi, rdi, value),
                        _ => repeated!("rep stosq", down, rcx, rsi, rdi, value),
                    }
                    ensure!(
                        room.bytes[..] == room.model[..],
                        "{count} of {width} bytes at {to}, down: {down}"
                    );
                    same!(rcx, 0, "rcx after a store");
                    same!(rsi, 0, "rsi after a store");
                    same!(rdi, room.at(step(to, count, width, down)), "rdi after a store");
                }
            }
        }
    }
    // With the address-size prefix the registers are 32 bits wide.
    let low = sys::map_low(1, READ | WRITE);
    let (mut rcx, mut rdi) = (0xffff_ffff_0000_0003u64, 0xffff_ffff_0000_0000 | low);
    // SAFETY: three bytes of the page.
    unsafe { asm!(".byte 0x67", "rep stosb", inout("rcx") rcx, inout("rdi") rdi, in("rax") 7u64) };
    same!(rcx, 0, "rcx, 32 bits wide");
    same!(rdi, low + 3, "rdi, 32 bits wide");
    same!(crate::faults::peek(low), 0x07_0707, "what was stored");
    Ok(())
}

pub fn compares() -> Outcome {
    let mut room = Room::new();
    for differs in 0..24usize {
        for from in 120..130 {
            room.fill();
            // Twenty equal bytes, or fewer where one differs.
            for at in 0..20 {
                room.bytes[at + 20] = room.bytes[from + at];
            }
            if differs < 20 {
                room.bytes[20 + differs] ^= 0x80;
            }
            let (mut rcx, mut rsi, mut rdi, flags) = (20u64, room.at(from), room.at(20), 0u64);
            let mut flags: u64 = flags;
            // SAFETY: within the room.
            unsafe {
                asm!("repe cmpsb", "pushfq", "pop {}", out(reg) flags, inout("rcx") rcx, inout("rsi") rsi, inout("rdi") rdi);
            }
            let steps = (differs as u64 + 1).min(20);
            same!(rcx, 20 - steps, "repe cmpsb: rcx");
            same!(rsi, room.at(from) + steps, "repe cmpsb: rsi");
            same!(flags >> 6 & 1, (differs >= 20) as u64, "repe cmpsb: ZF");
            same!(rdi, room.at(20) + steps, "repe cmpsb: rdi");
            let looked_for = room.bytes[from + 9];
            let first = (0..20).find(|at| room.bytes[from + at] == looked_for).map_or(20, |at| at as u64 + 1);
            let (mut rcx, mut rdi) = (20u64, room.at(from));
            // SAFETY: within the room.
            unsafe { asm!("repne scasb", inout("rcx") rcx, inout("rdi") rdi, in("al") looked_for) };
            same!(rcx, 20 - first, "repne scasb: rcx");
            same!(rdi, room.at(from) + first, "repne scasb: rdi");
            // SAFETY: within the room.
            unsafe { asm!("lodsq", inout("rsi") room.at(from) => rsi, out("rax") flags) };
            let expected = u64::from_le_bytes(room.bytes[from..from + 8].try_into().unwrap_or_default());
            same!(flags, expected, "lodsq");
            same!(rsi, room.at(from + 8), "lodsq: rsi");
        }
    }
    Ok(())
}
