//! Instructions on device memory: what the device sees, and what becomes of its answers.

mod common;

use common::{Bench, DATA};
use iced_x86::code_asm::*;
use vcpu::{Engine, Entry, Exit, Mmio};
use x86::Xcr0;
use x86::classify::Routine;
use x86::register::gpr::*;

/// Guest-physical memory without RAM, in the bench's mapping.
const DEVICE: u64 = 0x3000_0000;

/// Runs to the HLT with a device whose byte at offset n reads as n plus one; gives what it saw.
fn run(bench: &mut Bench) -> Vec<Mmio> {
    let mut seen = Vec::new();
    let mut exit = bench.exit();
    loop {
        match exit {
            Exit::Mmio(mmio) => {
                seen.push(mmio);
                let mut answer = [0; 8];
                for (n, byte) in answer.iter_mut().enumerate().take(usize::from(mmio.size)) {
                    *byte = (mmio.gpa as u8).wrapping_add(n as u8).wrapping_add(1);
                }
                exit = bench.engine.run(&mut bench.cpu, Entry::Complete(u64::from_le_bytes(answer)));
            }
            Exit::Sensitive(insn) if insn.routine == Routine::Hlt => return seen,
            other => panic!("{other:?} at {:#x}", bench.cpu.rip),
        }
    }
}

fn read(offset: u64, size: u8) -> Mmio {
    Mmio { gpa: DEVICE + offset, size, write: None }
}

fn write(offset: u64, size: u8, value: u64) -> Mmio {
    Mmio { gpa: DEVICE + offset, size, write: Some(value) }
}

#[test]
fn moves_and_arithmetic() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(rbx, DEVICE).unwrap();
        a.mov(r9d, dword_ptr(rbx)).unwrap();
        a.mov(byte_ptr(rbx + 8), 0x5a).unwrap();
        a.add(word_ptr(rbx + 16), 1).unwrap();
        a.movzx(ecx, byte_ptr(rbx + 1)).unwrap();
        a.movdqu(xmm0, xmmword_ptr(rbx + 0x20)).unwrap();
        a.movq(rdx, xmm0).unwrap();
    });
    let seen = run(&mut bench);
    let expected = [
        read(0, 4),
        write(8, 1, 0x5a),
        read(16, 2),
        write(16, 2, 0x1212),
        read(1, 1),
        read(0x20, 8),
        read(0x28, 8),
    ];
    assert_eq!(seen, expected);
    assert_eq!(bench.cpu.gpr[R9], 0x0403_0201);
    assert_eq!(bench.cpu.gpr[RCX], 2);
    assert_eq!(bench.cpu.gpr[RDX], 0x2827_2625_2423_2221);
}

#[test]
fn moves_of_every_width() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(rbx, DEVICE).unwrap();
        a.mov(rax, -1_i64).unwrap();
        a.mov(rcx, rax).unwrap();
        a.mov(rdx, rax).unwrap();
        a.mov(al, byte_ptr(rbx)).unwrap();
        a.mov(ch, byte_ptr(rbx + 1)).unwrap();
        a.mov(dx, word_ptr(rbx + 2)).unwrap();
        a.mov(r10, qword_ptr(rbx + 8)).unwrap();
        a.mov(esi, dword_ptr(rbx + 4)).unwrap();
        a.mov(byte_ptr(rbx), ch).unwrap();
        a.mov(byte_ptr(rbx + 1), dl).unwrap();
        a.mov(word_ptr(rbx + 2), ax).unwrap();
        a.mov(qword_ptr(rbx + 8), -2).unwrap();
        a.mov(qword_ptr(rbx + 16), r10).unwrap();
    });
    let seen = run(&mut bench);
    let expected = [
        read(0, 1),
        read(1, 1),
        read(2, 2),
        read(8, 8),
        read(4, 4),
        write(0, 1, 2),
        write(1, 1, 3),
        write(2, 2, 0xff01),
        write(8, 8, -2_i64 as u64),
        write(16, 8, 0x100f_0e0d_0c0b_0a09),
    ];
    assert_eq!(seen, expected);
    let found = [RAX, RCX, RDX, RSI, R10].map(|n| bench.cpu.gpr[n]);
    assert_eq!(
        found,
        [
            0xffff_ffff_ffff_ff01,
            0xffff_ffff_ffff_02ff,
            0xffff_ffff_ffff_0403,
            0x0807_0605,
            0x100f_0e0d_0c0b_0a09
        ]
    );
}

#[test]
fn strings_element_by_element() {
    let mut bench = Bench::long_mode();
    bench.ram.write(DATA, b"abcdefgh").unwrap();
    bench.load(|a| {
        // From the device, to the device, along the device.
        a.mov(rsi, DEVICE).unwrap();
        a.mov(rdi, DATA + 0x100).unwrap();
        a.mov(ecx, 3u32).unwrap();
        a.rep().movsw().unwrap();
        a.mov(rsi, DATA).unwrap();
        a.mov(rdi, DEVICE + 0x10).unwrap();
        a.mov(ecx, 2u32).unwrap();
        a.rep().movsd().unwrap();
        a.mov(rsi, DEVICE + 0x20).unwrap();
        a.movsb().unwrap();
        a.mov(eax, 0x77u32).unwrap();
        a.mov(ecx, 2u32).unwrap();
        a.rep().stosb().unwrap();
        a.mov(rsi, DEVICE + 0x40).unwrap();
        a.lodsd().unwrap();
        a.mov(edx, eax).unwrap();
        // Until the byte that reads as 0x63.
        a.mov(rdi, DEVICE + 0x60).unwrap();
        a.mov(eax, 0x63u32).unwrap();
        a.mov(ecx, 9u32).unwrap();
        a.repne().scasb().unwrap();
    });
    let seen = run(&mut bench);
    let expected = [
        read(0, 2),
        read(2, 2),
        read(4, 2),
        write(0x10, 4, u64::from(u32::from_le_bytes(*b"abcd"))),
        write(0x14, 4, u64::from(u32::from_le_bytes(*b"efgh"))),
        read(0x20, 1),
        write(0x18, 1, 0x21),
        write(0x19, 1, 0x77),
        write(0x1a, 1, 0x77),
        read(0x40, 4),
        read(0x60, 1),
        read(0x61, 1),
        read(0x62, 1),
    ];
    assert_eq!(seen, expected);
    assert_eq!(bench.ram.read_u64(DATA + 0x100).unwrap(), 0x0605_0403_0201);
    assert_eq!(bench.cpu.gpr[RDX], 0x4443_4241);
    assert_eq!(bench.cpu.gpr[RCX], 6);
    assert_eq!(bench.cpu.gpr[RDI], DEVICE + 0x63);
}

#[test]
fn stacks_and_jumps() {
    let mut bench = Bench::long_mode();
    bench.load(|a| {
        a.mov(rbx, DEVICE).unwrap();
        a.push(qword_ptr(rbx + 8)).unwrap();
        a.pop(rcx).unwrap();
        a.mov(rbp, rsp).unwrap();
        // A stack in the device, one slot of it half in it.
        a.lea(rsp, qword_ptr(rbx + 0x40)).unwrap();
        a.mov(r9, 0x99u64).unwrap();
        a.push(r9).unwrap();
        a.pop(rdx).unwrap();
        a.mov(rsp, rbp).unwrap();
    });
    let seen = run(&mut bench);
    assert_eq!(seen, [read(8, 8), write(0x38, 8, 0x99), read(0x38, 8)]);
    assert_eq!(bench.cpu.gpr[RCX], 0x100f_0e0d_0c0b_0a09);
    assert_eq!(bench.cpu.gpr[RDX], 0x403f_3e3d_3c3b_3a39);
}

#[test]
fn gathers() {
    let mut bench = Bench::long_mode();
    if host::cpu::cpuid(7, 0).ebx & 1 << 5 == 0 {
        return;
    }
    bench.cpu.xcr0 |= Xcr0::AVX;
    for n in 0..4u32 {
        bench.ram.write_u32(DATA + u64::from(n) * 4, n * 0x10).unwrap();
        bench.ram.write_u32(DATA + 0x10 + u64::from(n) * 4, if n == 2 { 0 } else { u32::MAX }).unwrap();
    }
    bench.load(|a| {
        a.mov(rbx, DATA).unwrap();
        a.mov(rsi, DEVICE).unwrap();
        a.vmovdqu(xmm1, xmmword_ptr(rbx)).unwrap();
        a.vmovdqu(xmm2, xmmword_ptr(rbx + 16)).unwrap();
        a.vpcmpeqd(xmm0, xmm0, xmm0).unwrap();
        a.vpgatherdd_3(xmm0, dword_ptr(rsi + xmm1 * 1), xmm2).unwrap();
        a.vmovdqu(xmmword_ptr(rbx + 0x20), xmm0).unwrap();
        a.vmovdqu(xmmword_ptr(rbx + 0x30), xmm2).unwrap();
    });
    let seen = run(&mut bench);
    assert_eq!(seen, [read(0, 4), read(0x10, 4), read(0x30, 4)]);
    let word = |at: u64| bench.ram.read_u32(DATA + 0x20 + at).unwrap();
    assert_eq!([0, 4, 8, 12].map(word), [0x0403_0201, 0x1413_1211, u32::MAX, 0x3433_3231]);
    assert_eq!(bench.ram.read_u64(DATA + 0x30).unwrap(), 0);
}

#[test]
fn an_access_half_in_the_device() {
    let mut bench = Bench::long_mode();
    // The last bytes of RAM and what follows it.
    let end = 16 << 20;
    bench.ram.write(end - 4, &[1, 2, 3, 4]).unwrap();
    bench.load(|a| {
        a.mov(rbx, end).unwrap();
        a.mov(rax, qword_ptr(rbx - 4)).unwrap();
        a.mov(rsi, end - 2).unwrap();
        a.lodsq().unwrap();
        a.mov(rdx, rax).unwrap();
        a.mov(rdi, end - 1).unwrap();
        a.mov(rax, 0x8877_6655_4433_2211u64).unwrap();
        a.stosq().unwrap();
    });
    let at = |gpa: u64, size, write| Mmio { gpa, size, write };
    let seen = run(&mut bench);
    let expected = [
        at(end, 4, None),
        at(end, 4, None),
        at(end + 4, 2, None),
        at(end, 4, Some(0x5544_3322)),
        at(end + 4, 2, Some(0x7766)),
        at(end + 6, 1, Some(0x88)),
    ];
    assert_eq!(seen, expected);
    assert_eq!(bench.cpu.gpr[RDX], 0x0605_0403_0201_0403);
    assert_eq!(bench.ram.read_u8(end - 1).unwrap(), 0x11);
}
