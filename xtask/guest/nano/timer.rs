//! How late a processor that waits is woken by its local APIC's timer.

use core::arch::asm;

use crate::handlers::TIMER_AT;
use crate::machine::{read, write};
use crate::tables::halt;

/// Sleeps.
const SLEEPS: usize = 300;
/// How long each is, and how long the timer is compared with the time-stamp counter, in cycles of the latter.
const LENGTH: u64 = 600_000;
const COMPARISON: u64 = 100_000_000;

const APIC: u64 = 0xfee0_0000;
const LVT_TIMER: u64 = APIC + 0x320;
const INITIAL_COUNT: u64 = APIC + 0x380;
const CURRENT_COUNT: u64 = APIC + 0x390;
const DIVIDE: u64 = APIC + 0x3e0;
const MASKED: u64 = 1 << 16;
const VECTOR: u64 = 0x41;

/// From the moment that the timer is due to the handler's first instructions, in cycles, for each sleep.
pub fn wake_ups() -> [u64; SLEEPS] {
    // By one; one-shot.
    write(DIVIDE, 4, 0b1011);
    let (cycles, counts) = compare();
    let in_cycles = |count: u64| (u128::from(count) * u128::from(cycles) / u128::from(counts)) as u64;
    let length = LENGTH * counts / cycles;
    write(LVT_TIMER, 4, VECTOR);
    core::array::from_fn(|_| {
        write(INITIAL_COUNT, 4, length);
        // The access takes as long as it takes on either side of the moment it tells of.
        let (at, left) = look();
        halt();
        TIMER_AT.get(0).saturating_sub(at + in_cycles(left))
    })
}

/// Cycles of the time-stamp counter, and how far the timer counts meanwhile.
fn compare() -> (u64, u64) {
    write(LVT_TIMER, 4, MASKED | VECTOR);
    write(INITIAL_COUNT, 4, 0xffff_ffff);
    // The first time costs what is never paid again.
    look();
    let (began, from) = look();
    while rdtsc() - began < COMPARISON {}
    let (ended, to) = look();
    (ended - began, from - to)
}

/// The time-stamp counter in the midst of reading the current count, and that.
fn look() -> (u64, u64) {
    let before = rdtsc();
    let count = read(CURRENT_COUNT, 4);
    (before + (rdtsc() - before) / 2, count)
}

fn rdtsc() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: it is only read.
    unsafe { asm!("rdtsc", out("rax") low, out("rdx") high, options(nomem, nostack)) };
    low | high << 32
}
