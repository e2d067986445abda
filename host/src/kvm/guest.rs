//! The guest with which KVM is tried: `guest.s`, and the tables it stands on.
#![allow(unsafe_code)] // Reads the assembled bytes between two symbols.

use std::arch::global_asm;

global_asm!(include_str!("guest.s"), options(att_syntax));

unsafe extern "C" {
    static popf_kvm_probe_start: u8;
    static popf_kvm_probe_end: u8;
}

/// Where the guest is loaded and begins.
pub(super) const LOAD: u16 = 0x8000;
/// Its memory.
pub(super) const MEMORY: usize = 0x40_000;
/// Port of progress, and of exits whose speed is measured.
pub(super) const STAGE_PORT: u16 = 0x99;
pub(super) const EXIT_PORT: u16 = 0x98;
/// What the guest says when a result is wrong.
pub(super) const FAILED: u8 = 0xff;

/// What each stage tries; the first is stage 1.
pub(super) const STAGES: [&str; 9] = [
    "real mode",
    "the switch to protected mode",
    "the switch to long mode",
    "CPUID, the time stamp counter and SWAPGS",
    "changes to page tables",
    "exceptions",
    "ring 3 and SYSCALL",
    "port access",
    "an interrupt of the APIC's timer",
];

const PML4: usize = 0x3000;
const PDPT: usize = 0x4000;
const PD_LOW: usize = 0x5000;
const PT: usize = 0x6000;
const PD_APIC: usize = 0x7000;
/// Present, writable, user; the last for pages, too: ring 3 runs in the same ones.
const TABLE: u64 = 7;
/// Present, writable, cache disabled, 2 MiB.
const APIC_PAGE: u64 = 0xfee0_0000 | 0x93;
/// Pages that begin with their own address.
const MARKED: [usize; 2] = [0x30_000, 0x31_000];

/// Memory's contents: offsets and bytes.
pub(super) type Image = Vec<(usize, Vec<u8>)>;

/// The guest and its tables.
pub(super) fn image() -> Image {
    let entry = |table: usize, index: usize, value: u64| (table + index * 8, value.to_le_bytes().to_vec());
    let mut image = vec![
        (LOAD.into(), code().to_vec()),
        entry(PML4, 0, PDPT as u64 | TABLE),
        entry(PDPT, 0, PD_LOW as u64 | TABLE),
        entry(PDPT, 3, PD_APIC as u64 | TABLE),
        entry(PD_LOW, 0, PT as u64 | TABLE),
        entry(PD_APIC, (0xfee0_0000 >> 21) & 511, APIC_PAGE),
    ];
    image.extend((0..MEMORY / 4096).map(|page| entry(PT, page, (page * 4096) as u64 | TABLE)));
    image.extend(MARKED.map(|page| (page, (page as u32).to_le_bytes().to_vec())));
    image
}

fn code() -> &'static [u8] {
    let start = &raw const popf_kvm_probe_start;
    let end = &raw const popf_kvm_probe_end;
    // SAFETY: both symbols delimit one piece of read-only data.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps_and_all_fits() {
        let mut ranges: Vec<_> =
            image().iter().map(|(offset, bytes)| (*offset, offset + bytes.len())).collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:x?}");
        assert!(ranges.last().unwrap().1 <= MEMORY);
        assert!(code().len() > 500 && usize::from(LOAD) + code().len() < 0x1_0000);
        assert_eq!(code()[0], 0xfa, "cli");
    }
}
