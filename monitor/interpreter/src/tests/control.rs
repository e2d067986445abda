//! Control and debug registers.

use vcpu::Invalidation;
use x86::register::gpr;
use x86::{Cr0, Cr4, Efer, Exception, Vector, Xcr0};

use super::{Bench, layout};

fn mov_to_cr(number: u8) -> [u8; 3] {
    // mov crN, rax
    [0x0f, 0x22, 0xc0 | number << 3]
}

fn set(bench: &mut Bench, number: u8, value: u64) -> Result<(), Exception> {
    bench.cpu.gpr[gpr::RAX] = value;
    bench.run(&mov_to_cr(number)).map(|_| ())
}

#[test]
fn registers_read_back() {
    let mut bench = Bench::long(0);
    bench.cpu.cr2 = 0xdead_beef_0000;
    for (number, value) in
        [(0, bench.cpu.cr0.bits()), (2, bench.cpu.cr2), (3, bench.cpu.cr3), (4, bench.cpu.cr4.bits())]
    {
        bench.expect(&[0x0f, 0x20, 0xc0 | number << 3], |cpu| cpu.gpr[gpr::RAX] = value);
    }
    bench.machine.task_priority = 9;
    bench.expect(&[0x44, 0x0f, 0x20, 0xc0], |cpu| cpu.gpr[gpr::RAX] = 9);
    bench.cpu.gpr[gpr::RAX] = 3;
    bench.expect(&[0x44, 0x0f, 0x22, 0xc0], |_| {});
    assert_eq!(bench.machine.task_priority, 3);
    bench.cpu.gpr[gpr::RAX] = 16;
    bench.expect_fault(&[0x44, 0x0f, 0x22, 0xc0], Exception::gp(0));
    Bench::long(3).expect_fault(&mov_to_cr(0), Exception::gp(0));
}

#[test]
fn cr0_refuses_impossible_values() {
    for value in [
        Cr0::PG.bits(),
        (Cr0::PE | Cr0::NW).bits(),
        (Cr0::PE | Cr0::PG).bits() | 1 << 32,
        // 64-bit code cannot switch paging off.
        Cr0::PE.bits(),
    ] {
        let mut bench = Bench::long(0);
        bench.cpu.gpr[gpr::RAX] = value;
        bench.expect_fault(&mov_to_cr(0), Exception::gp(0));
    }
}

#[test]
fn cr0_ignores_reserved_bits_and_flushes_for_wp() {
    let mut bench = Bench::long(0);
    let new = bench.cpu.cr0 - Cr0::WP;
    bench.cpu.gpr[gpr::RAX] = new.bits() & !0x10 | 0x40;
    bench.expect(&mov_to_cr(0), |cpu| cpu.cr0 = new);
    assert_eq!(bench.effects.invalidations.drain().collect::<Vec<_>>(), [Invalidation::AllPages]);
    bench.expect(&mov_to_cr(0), |_| {});
    assert!(bench.effects.invalidations.is_empty());
}

#[test]
fn long_mode_is_entered_and_left_by_paging() {
    let mut bench = Bench::protected(0);
    bench.cpu.efer = Efer::LME;
    let paging = (Cr0::PE | Cr0::PG).bits();
    // Without PAE: no.
    bench.cpu.gpr[gpr::RAX] = paging;
    bench.expect_fault(&mov_to_cr(0), Exception::gp(0));
    bench.cpu.cr4 = Cr4::PAE;
    bench.cpu.cr3 = layout::PML4;
    bench.expect(&mov_to_cr(0), |cpu| {
        cpu.cr0 = Cr0::PE | Cr0::PG | Cr0::ET;
        cpu.efer = Efer::LME | Efer::LMA;
    });
    bench.cpu.gpr[gpr::RAX] = Cr0::PE.bits();
    bench.expect(&mov_to_cr(0), |cpu| {
        cpu.cr0 = Cr0::PE | Cr0::ET;
        cpu.efer = Efer::LME;
    });
    // PAE cannot be cleared while long mode is on.
    let mut bench = Bench::long(0);
    bench.cpu.gpr[gpr::RAX] = Cr4::PGE.bits();
    bench.expect_fault(&mov_to_cr(4), Exception::gp(0));
}

#[test]
fn pae_checks_its_directory_pointers() {
    let mut bench = Bench::protected(0);
    bench.cpu.cr4 = Cr4::PAE;
    bench.cpu.cr3 = 0x3_0000;
    bench.machine.poke(0x3_0008, 8, 0x3_1000 | 1 | 2);
    bench.cpu.gpr[gpr::RAX] = (Cr0::PE | Cr0::PG).bits();
    bench.expect_fault(&mov_to_cr(0), Exception::gp(0));
    bench.machine.poke(0x3_0008, 8, 0x3_1000 | 1);
    assert!(bench.run(&mov_to_cr(0)).is_ok());
    // Absent ones may hold anything.
    bench.machine.poke(0x3_0020, 8, 0xffff_fffe);
    assert_eq!(set(&mut bench, 3, 0x3_0020), Ok(()));
    assert_eq!(bench.cpu.cr3, 0x3_0020);
}

#[test]
fn cr3_flushes_what_is_not_global() {
    let mut bench = Bench::long(0);
    bench.cpu.gpr[gpr::RAX] = 0x4_0018;
    bench.expect(&mov_to_cr(3), |cpu| cpu.cr3 = 0x4_0018);
    let done: Vec<_> = bench.effects.invalidations.drain().collect();
    assert_eq!(done, [Invalidation::AddressSpace]);
    for bad in [1 << 63, 1 << 40] {
        bench.cpu.gpr[gpr::RAX] = bad;
        bench.expect_fault(&mov_to_cr(3), Exception::gp(0));
    }
}

#[test]
fn cr4_follows_cpuid() {
    let mut bench = Bench::long(0);
    let offered = Cr4::PAE | Cr4::SMEP | Cr4::SMAP | Cr4::FSGSBASE | Cr4::OSXSAVE | Cr4::UMIP;
    bench.cpu.gpr[gpr::RAX] = offered.bits();
    bench.expect(&mov_to_cr(4), |cpu| cpu.cr4 = offered);
    assert_eq!(bench.effects.invalidations.drain().count(), 1);
    for absent in [Cr4::PCIDE, Cr4::PKE, Cr4::LA57, Cr4::VMXE, Cr4::CET] {
        bench.cpu.gpr[gpr::RAX] = (offered | absent).bits();
        bench.expect_fault(&mov_to_cr(4), Exception::gp(0));
    }
    bench.cpu.gpr[gpr::RAX] = offered.bits() | 1 << 50;
    bench.expect_fault(&mov_to_cr(4), Exception::gp(0));
}

#[test]
fn machine_status_word() {
    let mut bench = Bench::protected(0);
    bench.cpu.gpr[gpr::RAX] = 0xffff_fffe;
    // PE cannot be cleared by it, and bits above TS are not loaded.
    bench.expect(&[0x0f, 0x01, 0xf0], |cpu| cpu.cr0 |= Cr0::MP | Cr0::EM | Cr0::TS);
    let cr0 = bench.cpu.cr0.bits();
    bench.expect(&[0x0f, 0x01, 0xe1], |cpu| cpu.gpr[gpr::RCX] = cr0);
    bench.expect(&[0x0f, 0x06], |cpu| cpu.cr0 -= Cr0::TS);
    let mut bench = Bench::long(3);
    let cr0 = bench.cpu.cr0.bits();
    let rcx = bench.cpu.gpr[gpr::RCX];
    bench.expect(&[0x66, 0x0f, 0x01, 0xe1], |cpu| {
        cpu.gpr[gpr::RCX] = rcx & !0xffff | cr0 & 0xffff;
    });
    bench.cpu.cr4 |= Cr4::UMIP;
    bench.expect_fault(&[0x0f, 0x01, 0xe1], Exception::gp(0));
    bench.expect_fault(&[0x0f, 0x06], Exception::gp(0));
}

#[test]
fn xcr0_keeps_its_rules() {
    let mut bench = Bench::long(0);
    const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1];
    const XGETBV: &[u8] = &[0x0f, 0x01, 0xd0];
    bench.expect_fault(XSETBV, Exception::UD);
    bench.expect_fault(XGETBV, Exception::UD);
    bench.cpu.cr4 |= Cr4::OSXSAVE;
    bench.cpu.gpr[gpr::RCX] = 0;
    bench.cpu.gpr[gpr::RDX] = 0;
    for bad in [0, 2, 5, 0xff, 1 << 9 | 3] {
        bench.cpu.gpr[gpr::RAX] = bad;
        bench.expect_fault(XSETBV, Exception::gp(0));
    }
    bench.cpu.gpr[gpr::RAX] = 7;
    bench.expect(XSETBV, |cpu| cpu.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX);
    bench.cpu.gpr[gpr::RAX] = 99;
    bench.expect(XGETBV, |cpu| cpu.gpr[gpr::RAX] = 7);
    bench.cpu.gpr[gpr::RCX] = 2;
    bench.expect_fault(XGETBV, Exception::gp(0));
}

#[test]
fn debug_registers() {
    let mut bench = Bench::long(0);
    let mov_to = |number: u8| [0x0f, 0x23, 0xc0 | number << 3];
    bench.cpu.gpr[gpr::RAX] = 0xffff_ffff_8000_0000;
    bench.expect(&mov_to(1), |cpu| cpu.dr[1] = 0xffff_ffff_8000_0000);
    bench.expect_fault(&mov_to(7), Exception::gp(0));
    bench.cpu.gpr[gpr::RAX] = 0xffff_ffff;
    bench.expect(&mov_to(6), |cpu| cpu.dr[6] = 0xffff_efff);
    // DR4 is DR6 until CR4.DE.
    bench.expect(&[0x0f, 0x21, 0xe1], |cpu| cpu.gpr[gpr::RCX] = 0xffff_efff);
    bench.cpu.cr4 |= Cr4::DE;
    bench.expect_fault(&[0x0f, 0x21, 0xe1], Exception::UD);
    bench.cpu.gpr[gpr::RAX] = 1 << 13;
    bench.expect(&mov_to(7), |cpu| cpu.dr[7] = 1 << 13 | 0x400);
    let detect = Exception { detail: 1 << 13, ..Exception::new(Vector::Debug) };
    bench.expect_fault(&[0x0f, 0x21, 0xf9], detect);
    Bench::long(3).expect_fault(&mov_to(0), Exception::gp(0));
}

#[test]
fn invlpg_names_the_page() {
    let mut bench = Bench::long(0);
    bench.cpu.gpr[gpr::RAX] = 0xffff_8000_0000_1234;
    bench.expect(&[0x0f, 0x01, 0x38], |_| {});
    let done: Vec<_> = bench.effects.invalidations.drain().collect();
    assert_eq!(done, [Invalidation::Page { linear: 0xffff_8000_0000_1234 }]);
    // Not canonical: nothing, and no fault.
    bench.cpu.gpr[gpr::RAX] = 1 << 60;
    bench.expect(&[0x0f, 0x01, 0x38], |_| {});
    assert!(bench.effects.invalidations.is_empty());
    Bench::long(3).expect_fault(&[0x0f, 0x01, 0x38], Exception::gp(0));
}
