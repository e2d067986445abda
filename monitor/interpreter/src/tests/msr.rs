//! RDMSR, WRMSR, CPUID, RDTSC.

use vcpu::Invalidation;
use x86::register::gpr;
use x86::{Cr4, Efer, Exception, SegmentRegister};

use super::Bench;

const RDMSR: &[u8] = &[0x0f, 0x32];
const WRMSR: &[u8] = &[0x0f, 0x30];

fn name(bench: &mut Bench, msr: u32, value: u64) {
    bench.cpu.gpr[gpr::RCX] = msr.into();
    bench.cpu.gpr[gpr::RAX] = 0xdead_0000_0000_0000 | value & 0xffff_ffff;
    bench.cpu.gpr[gpr::RDX] = 0xdead_0000_0000_0000 | value >> 32;
}

#[track_caller]
fn write(bench: &mut Bench, msr: u32, value: u64, change: impl FnOnce(&mut vcpu::CpuState)) {
    name(bench, msr, value);
    bench.expect(WRMSR, change);
}

#[track_caller]
fn refuse(bench: &mut Bench, msr: u32, value: u64) {
    name(bench, msr, value);
    bench.expect_fault(WRMSR, Exception::gp(0));
}

#[track_caller]
fn read(bench: &mut Bench, msr: u32) -> u64 {
    name(bench, msr, 0x5555);
    bench.run(RDMSR).expect("a known MSR");
    assert_eq!((bench.cpu.gpr[gpr::RAX] | bench.cpu.gpr[gpr::RDX]) >> 32, 0);
    bench.cpu.gpr[gpr::RDX] << 32 | bench.cpu.gpr[gpr::RAX]
}

#[test]
fn plain_values_come_back() {
    let kernel = 0xffff_8000_1234_5678;
    for (msr, value) in [
        (0xc000_0081, 0x0023_0010_0000_0000),
        (0xc000_0082, kernel),
        (0xc000_0083, kernel),
        (0xc000_0084, 0x4_7700),
        (0xc000_0100, kernel),
        (0xc000_0101, kernel),
        (0xc000_0102, kernel),
        (0xc000_0103, 7),
        (0x174, 0x10),
        (0x175, kernel),
        (0x176, kernel),
        (0x277, 0x0007_0106_0007_0106),
        (0x2ff, 0xc06),
        (0x200, 0xc000_0000),
        (0x20f, 0xff_ffff_f800),
        (0x250, 0x0606_0606_0606_0606),
        (0x26f, 0x0505_0505_0505_0505),
        (0x1a0, 0x850),
        (0x48, 1),
        (0x6e0, 12345),
        (0x80b, 0),
        (0x1b, 0xfee0_0d00),
    ] {
        let mut bench = Bench::long(0);
        name(&mut bench, msr, value);
        assert!(bench.run(WRMSR).is_ok(), "write of {msr:#x}");
        assert_eq!(read(&mut bench, msr), value, "{msr:#x}");
    }
}

#[test]
fn bases_are_the_segments_own() {
    let mut bench = Bench::long(0);
    write(&mut bench, 0xc000_0101, 0xffff_8880_0000_0000, |cpu| {
        cpu.segment_mut(SegmentRegister::Gs).base = 0xffff_8880_0000_0000;
    });
    write(&mut bench, 0xc000_0102, 0x1000, |cpu| cpu.msrs.kernel_gs_base = 0x1000);
}

#[test]
fn bad_values_are_refused() {
    let mut bench = Bench::long(0);
    for (msr, value) in [
        (0xc000_0082, 1 << 60),
        (0xc000_0100, 0x8000_0000_0000),
        (0xc000_0103, 1 << 32),
        (0x277, 2),
        (0x2ff, 7),
        (0x200, 2),
        (0x201, 1 << 45),
        (0x250, 3),
        (0x48, 1 << 9),
        (0xfe, 0),
        (0x179, 0),
    ] {
        refuse(&mut bench, msr, value);
    }
    // Ring 3, an x2APIC register that does not exist, unknown numbers.
    let mut user = Bench::long(3);
    user.expect_fault(RDMSR, Exception::gp(0));
    user.expect_fault(WRMSR, Exception::gp(0));
    for msr in [0x8ff, 0x400, 0xc1, 0x4000_0000, 0xc001_0200, 0xdead_beef] {
        refuse(&mut bench, msr, 0);
        name(&mut bench, msr, 0);
        bench.expect_fault(RDMSR, Exception::gp(0));
    }
}

#[test]
fn bases_have_the_width_of_the_processor() {
    let mut bench = Bench::long(0);
    for msr in [0xc000_0082, 0xc000_0083, 0xc000_0100, 0xc000_0101, 0xc000_0102, 0x175, 0x176] {
        bench.machine.la57 = false;
        refuse(&mut bench, msr, 1 << 47);
        // Though CR4.LA57 is clear.
        bench.machine.la57 = true;
        refuse(&mut bench, msr, 1 << 56);
        name(&mut bench, msr, 1 << 47);
        assert!(bench.run(WRMSR).is_ok(), "write of {msr:#x}");
        assert_eq!(read(&mut bench, msr), 1 << 47, "{msr:#x}");
    }
}

#[test]
fn efer_keeps_its_rules() {
    let mut bench = Bench::long(0);
    let off = (Efer::LME | Efer::LMA | Efer::SCE).bits();
    write(&mut bench, 0xc000_0080, off, |cpu| cpu.efer -= Efer::NXE);
    assert_eq!(bench.effects.invalidations.drain().collect::<Vec<_>>(), [Invalidation::AllPages]);
    // LMA is not software's to write; LME cannot change while paging is on; SVME does not exist.
    write(&mut bench, 0xc000_0080, off & !(1 << 10), |_| {});
    refuse(&mut bench, 0xc000_0080, Efer::SCE.bits());
    refuse(&mut bench, 0xc000_0080, off | Efer::SVME.bits());
    refuse(&mut bench, 0xc000_0080, off | 1 << 40);
    write(&mut bench, 0xc000_0080, off | 1 << 21, |cpu| cpu.efer |= Efer::AIBRSE);
    bench.machine.amd = false;
    refuse(&mut bench, 0xc000_0080, off | 1 << 21);
}

#[test]
fn the_time_stamp_counter_is_set_and_adjusted() {
    let mut bench = Bench::long(0);
    const RDTSC: &[u8] = &[0x0f, 0x31];
    bench.cpu.tsc_offset = 500;
    bench.expect(RDTSC, |cpu| (cpu.gpr[gpr::RAX], cpu.gpr[gpr::RDX]) = (1_000_500, 0));
    write(&mut bench, 0x10, 500, |cpu| {
        cpu.tsc_offset = 500_u64.wrapping_sub(1_000_000);
        cpu.msrs.tsc_adjust = 1_000_000_u64.wrapping_neg();
    });
    assert_eq!(read(&mut bench, 0x10), 500);
    write(&mut bench, 0x3b, 0, |cpu| {
        cpu.tsc_offset = 500;
        cpu.msrs.tsc_adjust = 0;
    });
    bench.cpu.msrs.tsc_aux = 3;
    bench.expect(&[0x0f, 0x01, 0xf9], |cpu| {
        (cpu.gpr[gpr::RAX], cpu.gpr[gpr::RDX], cpu.gpr[gpr::RCX]) = (1_000_500, 0, 3);
    });
    bench.expect(&[0xf3, 0x0f, 0xc7, 0xf8], |cpu| cpu.gpr[gpr::RAX] = 3);
    let mut user = Bench::long(3);
    user.cpu.cr4 |= Cr4::TSD;
    user.expect_fault(RDTSC, Exception::gp(0));
    user.expect_fault(&[0x0f, 0x01, 0xf9], Exception::gp(0));
}

#[test]
fn what_linux_reads_of_amd_unasked() {
    let mut bench = Bench::long(0);
    // HWCR: the TSC counts with P0. DE_CFG: LFENCE serialises.
    assert_eq!(read(&mut bench, 0xc001_0015), 1 << 24);
    assert_eq!(read(&mut bench, 0xc001_1029), 2);
    for msr in [0xc001_0010, 0xc001_001d, 0xc001_001f, 0xc001_0055, 0xc001_0140, 0xc001_1020] {
        assert_eq!(read(&mut bench, msr), 0);
        if msr != 0xc001_0140 {
            write(&mut bench, msr, 1, |_| {});
        }
    }
    write(&mut bench, 0xc001_0015, 1 << 24 | 1 << 30, |cpu| cpu.msrs.hwcr |= 1 << 30);
    bench.machine.amd = false;
    name(&mut bench, 0xc001_0015, 0);
    bench.expect_fault(RDMSR, Exception::gp(0));
    assert_eq!(read(&mut bench, 0x3a), 1);
    assert_eq!(read(&mut bench, 0x17), 0);
}

#[test]
fn cpuid_clears_upper_halves() {
    let mut bench = Bench::long(3);
    bench.cpu.gpr[gpr::RAX] = 0xffff_ffff_8000_0008;
    bench.expect(&[0x0f, 0xa2], |cpu| {
        cpu.gpr[gpr::RAX] = 0x3028;
        for register in [gpr::RBX, gpr::RCX, gpr::RDX] {
            cpu.gpr[register] = 0;
        }
    });
    // OSXSAVE is the vCPU's own.
    bench.cpu.cr4 |= Cr4::OSXSAVE;
    bench.cpu.gpr[gpr::RAX] = 1;
    assert!(bench.run(&[0x0f, 0xa2]).is_ok());
    assert_ne!(bench.cpu.gpr[gpr::RCX] & 1 << 27, 0);
}

#[test]
fn what_is_not_there() {
    let mut bench = Bench::long(0);
    // VMMCALL, MONITOR, RSM, VMRUN, UD2; RDPMC.
    for bytes in
        [&[0x0f, 0x01, 0xd9][..], &[0x0f, 0x01, 0xc8], &[0x0f, 0xaa], &[0x0f, 0x01, 0xd8], &[0x0f, 0x0b]]
    {
        bench.expect_fault(bytes, Exception::UD);
    }
    bench.expect_fault(&[0x0f, 0x33], Exception::gp(0));
    // WBINVD does nothing, at ring 0.
    bench.expect(&[0x0f, 0x09], |_| {});
    Bench::long(3).expect_fault(&[0x0f, 0x09], Exception::gp(0));
}
