//! Programs in real mode and in 16- and 32-bit protected mode: what of them the comparison with the processor
//! cannot reach, because a host process has no such mode or no ring 0.

mod common;

use common::{Bench, CODE, DATA, DATA_LOW, STACK, STACK_LOW};
use iced_x86::code_asm::*;
use x86::register::gpr::*;
use x86::{Exception, Rflags, Segment, SegmentRegister};

#[test]
fn real_mode_stack_calls_and_loops() {
    let mut bench = Bench::real_mode();
    bench.load(|a| {
        let mut function = a.create_label();
        let mut top = a.create_label();
        let mut none = a.create_label();
        let mut over = a.create_label();
        a.mov(cx, 10u32).unwrap();
        a.xor(ax, ax).unwrap();
        a.set_label(&mut top).unwrap();
        a.call(function).unwrap();
        a.loop_(top).unwrap();
        a.jcxz(none).unwrap();
        a.mov(ax, 0u32).unwrap();
        a.set_label(&mut none).unwrap();
        a.jmp(over).unwrap();
        a.set_label(&mut function).unwrap();
        a.push(cx).unwrap();
        a.mov(ebx, 0x1234_5678u32).unwrap();
        a.push(ebx).unwrap();
        a.xor(ebx, ebx).unwrap();
        a.pop(ebx).unwrap();
        a.pop(dx).unwrap();
        a.add(ax, dx).unwrap();
        a.ret().unwrap();
        a.set_label(&mut over).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 55);
    assert_eq!(bench.cpu.gpr[RBX], 0x1234_5678);
    assert_eq!(bench.cpu.gpr[RSP], 0x1000);
    assert_eq!(bench.ram.read_u16(STACK_LOW + 0xffe).unwrap(), 8, "the return address");
}

#[test]
fn real_mode_addresses_wrap_in_their_segment() {
    let mut bench = Bench::real_mode();
    bench.ram.write_u16(DATA_LOW + 1, 0xbeef).unwrap();
    bench.load(|a| {
        a.mov(bx, 0xffffu32).unwrap();
        a.mov(si, 2u32).unwrap();
        a.mov(ax, word_ptr(bx + si)).unwrap();
        a.mov(dx, word_ptr(si - 1)).unwrap();
        a.lea(cx, word_ptr(bx + si + 0x10)).unwrap();
        a.xor(sp, sp).unwrap();
        a.push(ax).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 0xbeef);
    assert_eq!(bench.cpu.gpr[RDX], 0xbeef);
    assert_eq!(bench.cpu.gpr[RCX], 0x11);
    assert_eq!(bench.cpu.gpr[RSP], 0xfffe);
    assert_eq!(bench.ram.read_u16(STACK_LOW + 0xfffe).unwrap(), 0xbeef);
}

#[test]
fn real_mode_limits_fault() {
    for (code, expected) in [
        // mov ax, [0xffff]: the second byte is beyond.
        (&[0xa1, 0xff, 0xff][..], Exception::gp(0)),
        // mov al, [0x10000] by a 32-bit address.
        (&[0x67, 0xa0, 0, 0, 1, 0], Exception::gp(0)),
        // mov eax, [bp-1] with bp 0: the stack segment's.
        (&[0x66, 0x8b, 0x46, 0xff], Exception::ss(0)),
        // mov sp, 1; push ax.
        (&[0xbc, 1, 0, 0x50], Exception::ss(0)),
    ] {
        let mut bench = Bench::real_mode();
        bench.load_bytes(code);
        let exception = bench.fault();
        assert_eq!(exception, expected, "{code:02x?}");
    }
}

#[test]
fn real_mode_strings_wrap() {
    let mut bench = Bench::real_mode();
    let base = DATA_LOW + 0x1_0000;
    bench.cpu.gpr = [0; 16];
    bench.cpu.gpr[RDI] = 0xaaaa_fff0;
    bench.cpu.gpr[RCX] = 0xbbbb_0020;
    bench.cpu.gpr[RAX] = 0x77;
    bench.load(|a| {
        a.rep().stosb().unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RDI], 0xaaaa_0010, "only di moves");
    assert_eq!(bench.cpu.gpr[RCX], 0xbbbb_0000, "only cx counts");
    let mut bytes = [0; 16];
    for at in [base, base + 0xfff0] {
        bench.ram.read(at, &mut bytes).unwrap();
        assert_eq!(bytes, [0x77; 16]);
    }
    assert_eq!(bench.ram.read_u8(base + 16).unwrap(), 0);
}

#[test]
fn real_mode_compares_backwards() {
    let mut bench = Bench::real_mode();
    bench.ram.write(DATA_LOW + 0x100, b"same tail").unwrap();
    bench.ram.write(DATA_LOW + 0x1_0200, b"came tail").unwrap();
    bench.load(|a| {
        a.mov(si, 0x108u32).unwrap();
        a.mov(di, 0x208u32).unwrap();
        a.mov(cx, 9u32).unwrap();
        a.std().unwrap();
        a.repe().cmpsb().unwrap();
        a.cld().unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RCX], 0, "the first letter differs, the last compared");
    assert_eq!(bench.cpu.gpr[RSI], 0xff);
    assert_eq!(bench.cpu.gpr[RDI], 0x1ff);
    assert!(!bench.cpu.rflags.contains(Rflags::ZF));
}

#[test]
fn instruction_pointer_beyond_the_limit() {
    let mut bench = Bench::real_mode();
    // jmp short to 0xffff, where the second byte of an instruction would lie beyond the limit.
    bench.ram.write(CODE + 0xffff, &[0xb0]).unwrap();
    bench.load_bytes(&[0xe9, 0xfc, 0xff]);
    assert_eq!(bench.fault(), Exception::gp(0));
    assert_eq!(bench.cpu.rip, 0xffff);
}

#[test]
fn protected_segments_have_bases_and_limits() {
    let mut bench = Bench::protected(32);
    let data = bench.cpu.segment_mut(SegmentRegister::Ds);
    (data.base, data.limit) = (DATA, 0xfff);
    let extra = bench.cpu.segment_mut(SegmentRegister::Es);
    // Expand-down: valid from 0x1000 up.
    (extra.base, extra.limit) = (DATA, 0xfff);
    extra.attributes |= Segment::CONFORMING_OR_EXPAND_DOWN;
    bench.load(|a| {
        a.mov(dword_ptr(0xffc), 0x1111_1111).unwrap();
        a.mov(dword_ptr(0x1000).es(), 0x2222_2222).unwrap();
        a.mov(ebx, 0xfffu32).unwrap();
        a.mov(al, byte_ptr(ebx)).unwrap();
        a.inc(byte_ptr(ebx + 1).es()).unwrap();
        a.inc(byte_ptr(ebx + 1)).unwrap();
    });
    assert_eq!(bench.fault(), Exception::gp(0));
    assert_eq!(bench.cpu.gpr[RAX] & 0xff, 0x11);
    assert_eq!(bench.ram.read_u64(DATA + 0xffc).unwrap(), 0x2222_2223_1111_1111);
    let mut bench = Bench::protected(32);
    let extra = bench.cpu.segment_mut(SegmentRegister::Es);
    (extra.base, extra.limit) = (DATA, 0xfff);
    extra.attributes |= Segment::CONFORMING_OR_EXPAND_DOWN;
    bench.load(|a| {
        a.mov(al, byte_ptr(0xfff).es()).unwrap();
    });
    assert_eq!(bench.fault(), Exception::gp(0));
}

#[test]
fn sixteen_bit_stacks_keep_the_upper_half() {
    let mut bench = Bench::protected(32);
    let stack = bench.cpu.segment_mut(SegmentRegister::Ss);
    (stack.base, stack.limit) = (DATA, 0xffff);
    stack.attributes &= !Segment::BIG;
    bench.cpu.gpr[RSP] = 0x5555_0000;
    bench.cpu.gpr[RBP] = 0x6666_0100;
    bench.ram.write_u32(DATA + 0x100, 0x7777_8888).unwrap();
    bench.load(|a| {
        let mut function = a.create_label();
        let mut over = a.create_label();
        a.push(0x42).unwrap();
        a.call(function).unwrap();
        a.jmp(over).unwrap();
        a.set_label(&mut function).unwrap();
        a.ret_1(4).unwrap();
        a.set_label(&mut over).unwrap();
        a.mov(edx, esp).unwrap();
        a.leave().unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RDX], 0x5555_0000);
    assert_eq!(bench.ram.read_u32(DATA + 0xfffc).unwrap(), 0x42);
    assert_eq!(bench.cpu.gpr[RSP], 0x5555_0104);
    assert_eq!(bench.cpu.gpr[RBP], 0x7777_8888);
}

#[test]
fn stack_faults_leave_everything() {
    let mut bench = Bench::protected(32);
    bench.cpu.segment_mut(SegmentRegister::Ss).limit = STACK as u32 - 1;
    bench.cpu.gpr[RSP] = STACK + 2;
    bench.cpu.gpr[RCX] = 7;
    for code in [
        // push ecx; pop ecx; call; ret; push [eax]; leave with ebp beyond.
        &[0x51][..],
        &[0x59],
        &[0xe8, 0, 0, 0, 0],
        &[0xc3],
        &[0xff, 0x30],
    ] {
        bench.cpu.rip = CODE;
        bench.cpu.gpr[RAX] = DATA;
        bench.load_bytes(code);
        assert_eq!(bench.fault(), Exception::ss(0), "{code:02x?}");
        assert_eq!(bench.cpu.rip, CODE);
        assert_eq!(bench.cpu.gpr[RSP], STACK + 2);
        assert_eq!(bench.cpu.gpr[RCX], 7);
    }
}

#[test]
fn thirty_two_bit_addresses_wrap_at_four_gigabytes() {
    let mut bench = Bench::protected(32);
    bench.ram.write_u32(0x1000, 0x1234_5678).unwrap();
    bench.load(|a| {
        a.mov(ebx, 0xffff_f000u32).unwrap();
        a.mov(ecx, 0x800u32).unwrap();
        a.mov(eax, dword_ptr(ebx + ecx * 4)).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 0x1234_5678);
    let mut bench = Bench::protected(32);
    bench.cpu.segment_mut(SegmentRegister::Ds).base = 0xffff_f000;
    bench.ram.write_u32(0x1000, 0x9abc_def0).unwrap();
    bench.load(|a| {
        a.mov(eax, dword_ptr(0x2000)).unwrap();
    });
    bench.run();
    assert_eq!(bench.cpu.gpr[RAX], 0x9abc_def0);
}

#[test]
fn faults_in_the_middle_of_strings_are_precise() {
    let mut bench = Bench::protected(32);
    bench.cpu.segment_mut(SegmentRegister::Es).limit = DATA as u32 + 0x1233;
    bench.load(|a| {
        a.mov(esi, DATA as u32 + 0x8000).unwrap();
        a.mov(edi, DATA as u32).unwrap();
        a.mov(ecx, 0x1000u32).unwrap();
        a.rep().movsd().unwrap();
    });
    assert_eq!(bench.fault(), Exception::gp(0));
    assert_eq!(bench.cpu.gpr[RDI], DATA + 0x1234);
    assert_eq!(bench.cpu.gpr[RSI], DATA + 0x8000 + 0x1234);
    assert_eq!(bench.cpu.gpr[RCX], 0x1000 - 0x1234 / 4);
}
