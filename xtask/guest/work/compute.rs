//! Loops that need nothing of the operating system, one for each thing that processors are good or bad at.

use std::arch::asm;
use std::hint::black_box;

/// A small generator of numbers; the constants are Knuth's.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Fibonacci's numbers by calling oneself: calls and returns.
pub fn calls(count: u64) -> u64 {
    fn fibonacci(n: u64) -> u64 {
        if n < 2 { n } else { black_box(fibonacci(n - 1)) + fibonacci(n - 2) }
    }
    fibonacci(count)
}

/// A machine of eight operations: indirect jumps that are hard to foresee.
pub fn dispatch(count: u64) -> u64 {
    let mut seed = 1;
    let program: Vec<u8> = (0..1024).map(|_| (next(&mut seed) & 7) as u8).collect();
    let operations: [fn(u64, u64) -> u64; 8] = [
        |a, b| a.wrapping_add(b),
        |a, b| a ^ b,
        |a, b| a.wrapping_mul(b | 1),
        |a, b| a.rotate_left(b as u32 & 63),
        |a, b| a.wrapping_sub(b),
        |a, b| a | b >> 3,
        |a, b| a & !(b << 5),
        |a, _| !a,
    ];
    let operations = black_box(operations);
    let mut value = 1;
    for n in 0..count {
        let operation = program[n as usize & 1023];
        value = operations[usize::from(operation)](value, n);
    }
    value
}

/// Conditional jumps that depend on data.
pub fn branches(count: u64) -> u64 {
    let (mut state, mut sum) = (1, 0_u64);
    for _ in 0..count {
        let value = next(&mut state);
        if value & 0x40 != 0 {
            sum = sum.wrapping_add(black_box(value));
        } else if value & 0x80 != 0 {
            sum ^= black_box(value);
        } else {
            sum = sum.wrapping_sub(3);
        }
    }
    sum
}

/// Products of matrices of 128 by 128, in double precision.
pub fn matrix(count: u64) -> u64 {
    const N: usize = 128;
    let mut seed = 1;
    let mut fill = || (0..N * N).map(|_| next(&mut seed) as f64 / 2_147_483_648.0).collect::<Vec<f64>>();
    let (a, mut b) = (fill(), fill());
    for _ in 0..count {
        let mut product = vec![0.0; N * N];
        for (row, out) in a.chunks_exact(N).zip(product.chunks_exact_mut(N)) {
            for (factor, line) in row.iter().zip(b.chunks_exact(N)) {
                for (sum, value) in out.iter_mut().zip(line) {
                    *sum += factor * value;
                }
            }
        }
        // Keeps the values near 1 from product to product.
        b = product.iter().map(|value| value / (N as f64 / 2.0)).collect();
    }
    b.iter().fold(0, |sum, value| sum ^ value.to_bits())
}

/// A polynomial in the registers of the 80387.
pub fn x87(count: u64) -> u64 {
    let mut value = 0.5_f64;
    let factor = 1.000_000_1_f64;
    // SAFETY: leaves the register stack as it was.
    unsafe {
        asm!(
            "fld qword ptr [{value}]",
            "2:",
            "fmul qword ptr [{factor}]",
            "fld st(0)",
            "fsqrt",
            "faddp st(1), st",
            "fmul qword ptr [{half}]",
            "dec {count}",
            "jnz 2b",
            "fstp qword ptr [{value}]",
            value = in(reg) &raw mut value,
            factor = in(reg) &raw const factor,
            half = in(reg) &raw const HALF,
            count = inout(reg) count.max(1) => _,
        );
    }
    value.to_bits()
}

static HALF: f64 = 0.5;

/// 8 MiB copied by the C library.
pub fn copy(count: u64) -> u64 {
    const BYTES: usize = 8 << 20;
    let from = vec![7_u8; BYTES];
    let mut to = vec![0_u8; BYTES];
    for _ in 0..count {
        black_box(&mut to).copy_from_slice(black_box(&from));
    }
    to.iter().step_by(4096).map(|byte| u64::from(*byte)).sum()
}

/// Where each of a million entries leads, in 4 MiB: loads that depend on one another, all over the pages.
pub fn chase(count: u64) -> u64 {
    const ENTRIES: usize = 1 << 20;
    let mut next_of: Vec<u32> = (0..ENTRIES as u32).collect();
    let mut seed = 7;
    // Sattolo's: one cycle through all.
    for i in (1..ENTRIES).rev() {
        next_of.swap(i, (next(&mut seed) % i as u64) as usize);
    }
    let mut at = 0;
    for _ in 0..count {
        at = next_of[at as usize];
    }
    u64::from(at)
}

/// COUNT MiB of fresh memory, one byte written of each page.
pub fn touch(count: u64) -> u64 {
    let mut memory: Vec<u8> = Vec::with_capacity((count as usize) << 20);
    let spare = memory.spare_capacity_mut();
    for page in spare.chunks_mut(4096) {
        page[0].write(1);
    }
    black_box(&spare);
    spare.len() as u64 >> 20
}
