//! A trial's code around the instruction that is tried.

use super::probes::{Probe, Width};

/// What to run.
pub struct Assembled {
    pub code: Vec<u8>,
    pub gpr: [u64; 16],
    /// The instruction's time is taken.
    pub timed: bool,
}

/// Touches what the instruction may touch, so that no page fault is timed; notes the time in r8, and loads rax and
/// rdx from r10 and r11.
#[rustfmt::skip]
const BEFORE: &[u8] = &[
    0x80, 0x0f, 0x00,       // or byte [rdi], 0
    0x50, 0x58,             // push rax; pop rax
    0x0f, 0xae, 0xe8,       // lfence
    0x0f, 0x31,             // rdtsc
    0x48, 0xc1, 0xe2, 0x20, // shl rdx, 32
    0x48, 0x09, 0xc2,       // or rdx, rax
    0x49, 0x89, 0xd0,       // mov r8, rdx
    0x4c, 0x89, 0xd0,       // mov rax, r10
    0x4c, 0x89, 0xda,       // mov rdx, r11
];
/// Notes rax, rdx, the flags and the time in r10, r11, r12 and r9.
#[rustfmt::skip]
const BEHIND: &[u8] = &[
    0x49, 0x89, 0xc2,       // mov r10, rax
    0x49, 0x89, 0xd3,       // mov r11, rdx
    0x9c, 0x41, 0x5c,       // pushfq; pop r12
    0x0f, 0xae, 0xe8,       // lfence
    0x0f, 0x31,             // rdtsc
    0x48, 0xc1, 0xe2, 0x20, // shl rdx, 32
    0x48, 0x09, 0xc2,       // or rdx, rax
    0x49, 0x89, 0xd1,       // mov r9, rdx
];
/// Goes to 32-bit code: `push 23h; lea rax, [rip+3]; push rax; retfq`.
const NARROW: &[u8] = &[0x6a, 0x23, 0x48, 0x8d, 0x05, 0x03, 0x00, 0x00, 0x00, 0x50, 0x48, 0xcb];

impl Assembled {
    /// Of a probe.
    pub fn of(probe: &Probe) -> Self {
        let timed = probe.width == Width::Bits64;
        let (before, behind) = if timed { (BEFORE, BEHIND) } else { (NARROW, &[][..]) };
        let mut code = [probe.setup, before, probe.code].concat();
        if let Some(at) = probe.next {
            let distance = (code.len() - (at + 4)) as u32;
            code[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        code.extend_from_slice(behind);
        let (rax, rcx) = probe.input;
        let mut gpr = [0; 16];
        gpr[1] = rcx;
        gpr[10] = rax;
        Self { code, gpr, timed }
    }
}
