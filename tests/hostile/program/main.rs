//! A guest without a kernel that finds every virtio function on PCI bus 0 and does to it whatever a driver must not:
//! rings and buffers where there is no memory, at its end, in devices, over each other and over code; chains that
//! loop, nest and lie about their length; sizes and queues that do not exist; resets in the midst of requests;
//! registers moved about, interrupts sent anywhere.
//!
//! Then it sets each function up as it should be, and ends popf by the debug-exit port: with 0 if all of them still
//! work, otherwise with the number of what did not, and leaves a disk with more to do than it can. What popf itself
//! must not do in the meantime, the test sees.
//!
//! Chance decides what is done, and is the same every time; `ROUNDS` of it take some seconds.

#![no_std]
#![no_main]

#[path = "../../../control/images/guest/bare.rs"]
#[allow(dead_code, reason = "system calls are for programs with a kernel")]
mod bare;
mod boot;
mod device;
mod leaving;
mod machine;

use device::{Device, Rings};
use machine::{Chance, Slot, out, read, store, write};

/// Acts on each function.
const ROUNDS: u32 = 4000;
/// What devices may write to: rings and buffers. Everything else of this program lies below.
const ARENA: u64 = 0x80_0000;
const ARENA_LENGTH: u64 = 0x40_0000;
/// A page of code, which rings are laid over.
const CODE: u64 = ARENA + ARENA_LENGTH;
/// What a balloon reads: rings and a page of page numbers, to which nothing else is led. Numbers that come about by
/// accident may be those of this program's pages, and a balloon takes a page that it is given.
const BALLOON: u64 = MEMORY_END - 0x1_0000;
const PAGES: u64 = BALLOON + 0x8000;
/// One past the last byte of memory (`MEMORY` in the crate).
const MEMORY_END: u64 = 32 << 20;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    end(101)
}

/// Ends popf.
fn end(status: u8) -> ! {
    loop {
        out(0xf4, 1, status.into());
    }
}

extern "C" fn main() -> ! {
    boot::set_up_interrupts();
    let mut chance = Chance(0x706f_7066_2065_7363);
    let (mut found, mut count) = ([None; 32], 0);
    for number in 1..32 {
        let slot = Slot(number);
        if slot.get(0) & 0xffff == 0x1af4 {
            found[count] = Some(Device::new(slot));
            count += 1;
        }
    }
    if count == 0 {
        end(1);
    }
    for round in 0..ROUNDS {
        for at in 0..count {
            let Some(device) = &mut found[at] else { continue };
            act(device, &mut chance);
        }
        if round % 8 == 0 {
            // A device that was reset writes nowhere any more, so that the page of code is ours.
            found[..count].iter().flatten().for_each(Device::reset);
            boot::breathe();
            run_code();
        }
        if round % 16 == 0 {
            pile_up(&found[..count]);
        }
    }
    for device in found[..count].iter().flatten() {
        device.put_back();
        let rings = Rings::sound(ARENA);
        if !device.set_up(&rings, true) {
            end(2);
        }
        if device.is_entropy() && !yields_bytes(device, &rings) {
            end(3);
        }
        device.reset();
    }
    // What is under way when the guest ends must not hold popf up.
    found[..count].iter().flatten().filter(|device| device.is_disk()).for_each(leaving::read_without_end);
    end(0)
}

/// One thing that no driver does.
fn act(device: &mut Device, chance: &mut Chance) {
    // Without rings anywhere for a balloon: see `BALLOON`.
    let first = if device.is_balloon() { 3 } else { 0 };
    match first + chance.below(12 - first) {
        0 | 1 => {
            let rings = Rings {
                size: chance.of(&[0, 1, 2, 3, 16, 255, 256, 0x8000, 0xffff]),
                desc: address(chance),
                driver: address(chance),
                device: address(chance),
            };
            device.set_up(&rings, false);
            device.notify_all();
        }
        2 => {
            // The used ring over code that has been translated.
            let rings = Rings { device: CODE + chance.below(0x400) * 4, ..Rings::sound(ARENA) };
            device.set_up(&rings, true);
            fill(&rings, chance, buffer);
            device.notify_all();
        }
        3..=6 => {
            // Well-placed rings, so that what is in them counts.
            let balloon = device.is_balloon();
            let base = if balloon { BALLOON } else { ARENA + chance.below(8) * 0x1_0000 };
            let rings = Rings::sound(base);
            if balloon {
                number_pages(chance);
            }
            device.set_up(&rings, chance.below(2) == 0);
            for queue in 0..4 {
                fill(&rings.of(queue), chance, if balloon { page_numbers } else { buffer });
            }
            device.notify_all();
            if chance.below(2) == 0 {
                device.reset();
            }
        }
        7 => {
            for queue in [0, 1, 7, 64, 1023, 1024] {
                device.notify(queue);
            }
            let offset = chance.below(0x8000);
            write(device.registers + (offset & !7), chance.of(&[1, 2, 4, 8]), chance.next());
            read(device.registers + (offset & !7), chance.of(&[1, 2, 4, 8]));
        }
        8 => {
            // Messages to anywhere, for any cause.
            for vector in 0..8 {
                let entry = device.registers + 0x4000 + 16 * vector;
                store(entry, chance.of(&[0xfee0_0000, 0xfeef_fffc, 0xfec0_0000, ARENA, CODE, 0, !3]));
                // Any vector and any trigger, but fixed or to the lowest priority: an INIT would be the end of it.
                store(entry + 8, chance.below(0x1_0000) & 0xc1ff);
            }
            device.set_messages(chance.below(2) == 0);
            device.write(0x10, 2, chance.below(12));
        }
        9 => {
            // Its registers over memory, over other devices, or nowhere.
            device.move_to(chance.of(&[
                0,
                ARENA,
                0xfee0_0000,
                0xfec0_0000,
                0xc000_0000,
                0xffff_8000,
                1 << 40,
                !0,
            ]));
            read(device.registers, 4);
            device.put_back();
        }
        10 => {
            let offset = chance.below(256) as u8;
            device.slot.set(offset, chance.of(&[1, 2, 4]), chance.next() as u32);
            device.put_back();
        }
        _ => {
            // Through the window in configuration space.
            device.through_window(
                chance.below(0x8000) as u32,
                chance.of(&[0, 1, 2, 3, 4, 8]),
                chance.next() as u32,
            );
        }
    }
}

/// An address that a ring may be said to have.
fn address(chance: &mut Chance) -> u64 {
    let base = chance.of(&[
        ARENA,
        ARENA + 0x1_0000,
        MEMORY_END - 0x1000,
        MEMORY_END - 16,
        MEMORY_END,
        0xc000_0000,
        0xfee0_0000,
        0xfec0_0000,
        0xffff_fff0,
        1 << 32,
        1 << 52,
        u64::MAX - 15,
        u64::MAX - 0xfff,
    ]);
    base.wrapping_add(chance.of(&[0, 0, 0, 1, 2, 4, 8]))
}

/// Where a buffer may be said to lie.
fn buffer(chance: &mut Chance) -> u64 {
    match chance.below(3) {
        0 => address(chance),
        _ => ARENA + chance.below(ARENA_LENGTH - 0x1_0000),
    }
}

/// Where a balloon's may be.
fn page_numbers(chance: &mut Chance) -> u64 {
    chance.of(&[PAGES, PAGES + 0x7ff, MEMORY_END - 16, MEMORY_END, !15])
}

/// Writes the numbers of pages to be given away: some there are, twice or already gone, and more there are not.
fn number_pages(chance: &mut Chance) {
    for at in (0..0x1000).step_by(4) {
        let page = chance.of(&[
            ARENA >> 12,
            (ARENA >> 12) + 5,
            0,
            MEMORY_END >> 12,
            0xf_ee00,
            1 << 20,
            0x7fff_ffff,
            !0,
        ]);
        write(PAGES + at, 4, page);
    }
}

/// Fills a queue's table and available ring with chains that make no sense.
fn fill(rings: &Rings, chance: &mut Chance, buffer: fn(&mut Chance) -> u64) {
    const NEXT: u64 = 1;
    const INDIRECT: u64 = 4;
    let size = u64::from(rings.size);
    for index in 0..size {
        // The last ones lead back to the first: a loop, if the flags are such.
        let (next, flags) = (chance.below(size + 2), chance.below(8));
        // Indirect tables, among them this one, nested and of odd length.
        let (at, length) = match flags & INDIRECT {
            0 => (
                buffer(chance),
                chance.of(&[0, 1, 16, 511, 1024, 0x1000, 0x10_0000, 0x8000_0000, 0xffff_ffff]),
            ),
            _ => (
                chance.of(&[rings.desc, rings.desc + 8, PAGES, MEMORY_END - 16, !15]),
                chance.of(&[0, 15, 16, 160, 0x10_0000]),
            ),
        };
        let flags = if chance.below(4) == 0 { flags | NEXT } else { flags };
        store(rings.desc + 16 * index, at);
        store(rings.desc + 16 * index + 8, length | flags << 32 | next << 48);
    }
    // What a device reads first: a small number may be a kind of request.
    store(ARENA, chance.below(16));
    for index in 0..size {
        // Now and then one that does not exist.
        let head = if chance.below(64) == 0 { size } else { chance.below(size) };
        write(rings.driver + 4 + 2 * index, 2, head);
    }
    let available = chance.of(&[1, 1, size, size, size - 1, size + 1, 0x8000, 0xffff]);
    write(rings.driver + 2, 2, available);
}

/// Moves all functions' registers to one place, and then one after the other back.
fn pile_up(devices: &[Option<Device>]) {
    let devices = || devices.iter().flatten();
    devices().for_each(|device| device.move_to(0xd000_0000));
    write(0xd000_0014, 1, 0);
    read(0xd000_0000, 4);
    devices().for_each(Device::put_back);
}

/// Runs the page of code, freshly written: one instruction that returns, at its end.
fn run_code() {
    for at in (0..0x1000).step_by(8) {
        // nop
        store(CODE + at, 0x9090_9090_9090_9090);
    }
    write(CODE + 0xfff, 1, 0xc3);
    // SAFETY: it does nothing and returns.
    unsafe { core::mem::transmute::<u64, extern "C" fn()>(CODE)() };
}

/// Whether the entropy device fills a buffer.
fn yields_bytes(device: &Device, rings: &Rings) -> bool {
    let buffer = ARENA + 0x10_0000;
    for at in [0, 8, 16, 24] {
        store(buffer + at, 0);
    }
    store(rings.desc, buffer);
    store(rings.desc + 8, 32 | 2 << 32);
    write(rings.driver + 4, 2, 0);
    write(rings.driver + 2, 2, 1);
    device.notify(0);
    for _ in 0..10_000_000_u64 {
        if read(rings.device + 2, 2) == 1 {
            return (0..4).any(|word| read(buffer + 8 * word, 8) != 0);
        }
    }
    false
}
