//! XSAVE and XRSTOR.

use vcpu::FpuState;
use x86::register::gpr;
use x86::{Cr0, Cr4, Exception, Xcr0};

use super::{Bench, layout as l};

/// xsave64, xsavec64, xrstor64 [rdi]
const XSAVE: &[u8] = &[0x48, 0x0f, 0xae, 0x27];
const XSAVEC: &[u8] = &[0x48, 0x0f, 0xc7, 0x27];
const XRSTOR: &[u8] = &[0x48, 0x0f, 0xae, 0x2f];

fn bench() -> Bench {
    let mut bench = Bench::long(3);
    bench.cpu.cr4 |= Cr4::OSXSAVE;
    bench.cpu.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    bench.cpu.gpr[gpr::RAX] = u64::MAX;
    bench.cpu.gpr[gpr::RDX] = u64::MAX;
    bench.cpu.gpr[gpr::RDI] = l::DATA;
    for (at, byte) in bench.cpu.fpu.area[32..416].iter_mut().enumerate() {
        *byte = at as u8;
    }
    bench.cpu.fpu.area[576..832].fill(0x77);
    bench.cpu.fpu.area[512] = 7;
    bench
}

fn saved(bench: &Bench, range: std::ops::Range<usize>) -> Vec<u8> {
    let start = l::DATA as usize;
    bench.machine.image()[start + range.start..start + range.end].to_vec()
}

#[test]
fn what_is_saved_comes_back() {
    for save in [XSAVE, XSAVEC] {
        let mut bench = bench();
        let fpu = bench.cpu.fpu.clone();
        bench.expect(save, |_| {});
        assert_eq!(saved(&bench, 0..416), fpu.area[..416]);
        assert_eq!(saved(&bench, 576..832), fpu.area[576..832]);
        bench.cpu.fpu = FpuState::default();
        bench.expect(XRSTOR, |cpu| cpu.fpu = fpu);
    }
}

#[test]
fn compaction_leaves_out_what_is_not_used() {
    let mut bench = bench();
    bench.cpu.fpu.area[512] = 4;
    bench.put(l::DATA, 8, &[u64::MAX; 104]);
    bench.expect(XSAVEC, |_| {});
    // XSTATE_BV has AVX only, XCOMP_BV all three and its top bit.
    assert_eq!(bench.stack(l::DATA + 512, 8, 3), [4, 7 | 1 << 63, u64::MAX]);
    assert_eq!(saved(&bench, 160..416), [0xff; 256]);
    assert_eq!(saved(&bench, 576..832), [0x77; 256]);
    // On restoring, the others start over.
    bench.machine.poke(l::DATA + 528, 8, 0);
    bench.cpu.fpu.area[512] = 7;
    bench.put(l::DATA + 528, 8, &[0; 6]);
    bench.expect(XRSTOR, |cpu| {
        cpu.fpu.area[..24].copy_from_slice(&FpuState::default().area[..24]);
        cpu.fpu.area[32..416].fill(0);
        cpu.fpu.area[512] = 4;
    });
}

#[test]
fn only_what_is_asked_for() {
    let mut bench = bench();
    bench.cpu.gpr[gpr::RAX] = 4;
    bench.put(l::DATA, 8, &[u64::MAX; 104]);
    bench.put(l::DATA + 512, 8, &[1, 0, 0, 0, 0, 0, 0, 0]);
    bench.expect(XSAVE, |_| {});
    assert_eq!(saved(&bench, 0..24), [0xff; 24]);
    // MXCSR goes with AVX, too.
    assert_eq!(saved(&bench, 24..28), FpuState::MXCSR_RESET.to_le_bytes());
    assert_eq!(saved(&bench, 32..512), vec![0xff; 480]);
    assert_eq!(bench.stack(l::DATA + 512, 8, 2), [1 | 4, 0]);
}

#[test]
fn outside_64_bit_mode_there_are_eight_registers() {
    let mut bench = Bench::compatibility();
    let full = super::xsave::bench();
    bench.cpu.fpu = full.cpu.fpu.clone();
    bench.cpu.xcr0 = full.cpu.xcr0;
    bench.cpu.cr4 |= Cr4::OSXSAVE;
    bench.cpu.gpr = full.cpu.gpr;
    bench.put(l::DATA, 8, &[u64::MAX; 104]);
    bench.put(l::DATA + 512, 8, &[0; 8]);
    bench.expect(&[0x0f, 0xae, 0x27], |_| {});
    assert_eq!(saved(&bench, 160..288), full.cpu.fpu.area[160..288]);
    assert_eq!(saved(&bench, 288..416), [0xff; 128]);
    assert_eq!(saved(&bench, 704..832), [0xff; 128]);
}

#[test]
fn bad_areas_are_refused() {
    let mut good = bench();
    assert!(good.run(XSAVE).is_ok());
    let image: Vec<u64> = good.stack(l::DATA, 8, 104);
    let spoil: [(u64, usize, u64); 6] = [
        // XSTATE_BV beyond XCR0, XCOMP_BV without its top bit, reserved bytes, MXCSR.
        (512, 8, 1 << 5),
        (520, 8, 4),
        (520, 8, 1 << 63 | 1 << 9),
        (528, 8, 1),
        (24, 4, 0x8000_0000),
        // XSTATE_BV with a component that XCOMP_BV lacks.
        (520, 8, 1 << 63 | 3),
    ];
    for (at, size, value) in spoil {
        let mut bench = bench();
        bench.put(l::DATA, 8, &image);
        bench.machine.poke(l::DATA + at, size, value);
        bench.expect_fault(XRSTOR, Exception::gp(0));
    }
    let mut bench = bench();
    bench.cpu.gpr[gpr::RDI] += 8;
    bench.expect_fault(XSAVE, Exception::gp(0));
    bench.expect_fault(XRSTOR, Exception::gp(0));
    bench.cpu.cr0 |= Cr0::TS;
    bench.expect_fault(XSAVE, Exception::NM);
    bench.cpu.cr4 -= Cr4::OSXSAVE;
    bench.expect_fault(XSAVE, Exception::UD);
}

#[test]
fn a_fault_on_its_second_page_leaves_nothing() {
    let mut bench = bench();
    bench.cpu.gpr[gpr::RDI] = l::DATA + 0x1000 - 640;
    bench.machine.set_pte(l::DATA + 0x1000, 0x65);
    bench.expect_fault(XSAVE, Exception::page_fault(l::DATA + 0x1000, 7));
}
