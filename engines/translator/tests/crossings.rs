//! What of the registers that XSAVE manages comes into guest code and back out of it, however the engine loads them.

mod common;

use common::Bench;
use vcpu::{CpuState, Engine, Entry, Exit};
use x86::classify::Routine;

const X87: usize = 0;
const SSE: usize = 1;
const XSTATE_BV: usize = 512;
const MXCSR: usize = 24;

/// Components of vector registers that the host has.
fn vectors() -> Vec<usize> {
    [SSE, 2, 5, 6, 7].into_iter().filter(|n| host::cpu::xcr0() >> n & 1 != 0).collect()
}

/// Where a component is in an area.
fn place(component: usize) -> std::ops::Range<usize> {
    match component {
        X87 => 0..160,
        SSE => 160..416,
        n => {
            let leaf = host::cpu::cpuid(0xd, n as u32);
            leaf.ebx as usize..(leaf.ebx + leaf.eax) as usize
        }
    }
}

/// A component as a processor would load it.
fn component(cpu: &CpuState, n: usize) -> Vec<u8> {
    let held = cpu.fpu.area[XSTATE_BV] >> n & 1 != 0;
    let mut bytes = cpu.fpu.area[place(n)].to_vec();
    if !held {
        bytes.fill(0);
    } else if n == X87 {
        // Which bits of MXCSR there are: the processor writes it.
        bytes[28..32].fill(0);
    }
    bytes
}

fn vector_state(cpu: &CpuState) -> Vec<Vec<u8>> {
    vectors().into_iter().map(|n| component(cpu, n)).collect()
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    (*seed ^ *seed >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Fills the area with any components of vector registers, and leaves garbage where it holds none.
fn fill_vectors(cpu: &mut CpuState, seed: &mut u64) {
    let held = random(seed) >> 32;
    for n in vectors() {
        for byte in &mut cpu.fpu.area[place(n)] {
            *byte = (random(seed) >> 40) as u8;
        }
        let bit = 1 << n;
        cpu.fpu.area[XSTATE_BV] = cpu.fpu.area[XSTATE_BV] & !bit | if held >> n & 1 != 0 { bit } else { 0 };
    }
    let mxcsr = 0x1f80 | (random(seed) >> 40) as u32 & 0x6000;
    cpu.fpu.area[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
}

/// Gives all eight x87 registers values, and the control word one that is not usual.
fn fill_x87(cpu: &mut CpuState, seed: &mut u64) {
    cpu.fpu.area[XSTATE_BV] |= 1;
    cpu.fpu.area[0..2].copy_from_slice(&(0x7f | (random(seed) >> 40) as u16 & 0xf00).to_le_bytes());
    cpu.fpu.area[4] = 0xff;
    for register in cpu.fpu.area[32..160].chunks_exact_mut(16) {
        register[..8].copy_from_slice(&(random(seed) | 1 << 63).to_le_bytes());
        register[8..10].copy_from_slice(&0x3fff_u16.to_le_bytes());
    }
}

/// Runs to the next OUT and steps over it.
fn run_to_out(bench: &mut Bench) {
    match bench.engine.run(&mut bench.cpu, Entry::Resume) {
        Exit::Sensitive(insn) if insn.routine == Routine::Out => bench.cpu.rip += 1,
        other => panic!("{other:?}"),
    }
}

/// A bench whose code is a long row of `out dx, al`.
fn bench() -> Bench {
    let mut bench = Bench::long_mode();
    bench.load_bytes(&[0xee; 600]);
    bench
}

#[test]
fn vectors_are_what_the_area_holds() {
    let (mut bench, mut seed) = (bench(), 7);
    run_to_out(&mut bench);
    for round in 0..500 {
        fill_vectors(&mut bench.cpu, &mut seed);
        // The x87 registers stay in most rounds, so that nothing else needs loading.
        if round % 7 == 0 {
            fill_x87(&mut bench.cpu, &mut seed);
        }
        let before = bench.cpu.clone();
        run_to_out(&mut bench);
        let held = [&before, &bench.cpu].map(|cpu| cpu.fpu.area[XSTATE_BV]);
        assert_eq!(vector_state(&bench.cpu), vector_state(&before), "round {round}, held {held:x?}");
        assert_eq!(component(&bench.cpu, X87), component(&before, X87), "round {round}");
    }
}

#[test]
fn guest_code_sees_and_changes_them() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        use iced_x86::code_asm::*;
        a.fld1().unwrap();
        a.mov(eax, 0x1234_5678_u32).unwrap();
        a.movd(xmm9, eax).unwrap();
        a.out(dx, al).unwrap();
        a.movd(ebx, xmm9).unwrap();
        a.fadd_2(st0, st0).unwrap();
        a.out(dx, al).unwrap();
        a.fistp(dword_ptr(common::DATA)).unwrap();
    });
    run_to_out(&mut bench);
    run_to_out(&mut bench);
    assert_eq!(bench.cpu.gpr[x86::register::gpr::RBX], 0x1234_5678);
    let exit = bench.engine.run(&mut bench.cpu, Entry::Resume);
    assert!(matches!(exit, Exit::Sensitive(insn) if insn.routine == Routine::Hlt), "{exit:?}");
    assert_eq!(bench.ram.read_u32(common::DATA).unwrap(), 2);
}

#[test]
fn vcpus_of_one_thread_keep_theirs() {
    let mut seed = 9;
    let mut benches = [bench(), bench()];
    benches.iter_mut().for_each(|bench| fill_x87(&mut bench.cpu, &mut seed));
    let before = benches.each_ref().map(|bench| component(&bench.cpu, X87));
    assert_ne!(before[0], before[1]);
    for turn in [0, 1, 0, 0, 1, 1, 0] {
        run_to_out(&mut benches[turn]);
        assert_eq!(benches.each_ref().map(|bench| component(&bench.cpu, X87)), before, "{turn}");
    }
}

#[test]
fn a_vcpu_takes_them_to_another_thread() {
    let mut bench = bench();
    bench.ram.write(common::CODE + 2, &[0xd9, 0xe8]).unwrap(); // fld1
    run_to_out(&mut bench);
    run_to_out(&mut bench);
    let mut bench = std::thread::spawn(move || {
        run_to_out(&mut bench);
        bench
    })
    .join()
    .unwrap();
    let after = component(&bench.cpu, X87);
    assert_eq!(after[32..42], [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f], "it has run");
    run_to_out(&mut bench);
    assert_eq!(component(&bench.cpu, X87), after);
}
