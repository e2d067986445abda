//! Descriptor tables and the instructions that look at them.

use x86::register::gpr;
use x86::{Cr4, Exception, Rflags, Segment, TableRegister, Vector};

use super::{Bench, layout as l};

#[test]
fn lgdt_sgdt_lidt_sidt() {
    let mut bench = Bench::long(0);
    bench.cpu.gpr[gpr::RAX] = l::DATA;
    bench.machine.poke(l::DATA, 2, 0x1234);
    bench.machine.poke(l::DATA + 2, 8, 0xffff_8000_0000_1000);
    let table = TableRegister { base: 0xffff_8000_0000_1000, limit: 0x1234 };
    bench.expect(&[0x0f, 0x01, 0x18], |cpu| cpu.idtr = table);
    bench.expect(&[0x0f, 0x01, 0x10], |cpu| cpu.gdtr = table);
    bench.cpu.gpr[gpr::RAX] = l::DATA + 0x100;
    bench.expect(&[0x0f, 0x01, 0x08], |_| {});
    assert_eq!(bench.stack(l::DATA + 0x100, 2, 5), [0x1234, 0x1000, 0, 0x8000, 0xffff]);
    bench.machine.poke(l::DATA + 0x102, 8, 1 << 60);
    bench.expect_fault(&[0x0f, 0x01, 0x10], Exception::gp(0));
    // 16-bit operands load 24 bits of base.
    let mut legacy = Bench::protected(0);
    legacy.cpu.gpr[gpr::RAX] = l::DATA;
    legacy.machine.poke(l::DATA, 6, 0x1234_5678_9abc);
    legacy.expect(&[0x66, 0x0f, 0x01, 0x10], |cpu| {
        cpu.gdtr = TableRegister { base: 0x34_5678, limit: 0x9abc };
    });
    let mut user = Bench::long(3);
    user.cpu.gpr[gpr::RAX] = l::DATA;
    user.expect_fault(&[0x0f, 0x01, 0x10], Exception::gp(0));
    user.expect(&[0x0f, 0x01, 0x00], |_| {});
    user.cpu.cr4 |= Cr4::UMIP;
    user.expect_fault(&[0x0f, 0x01, 0x00], Exception::gp(0));
}

#[test]
fn ltr_marks_the_task_busy() {
    let mut bench = Bench::long(0);
    bench.cpu.tr = Segment::default();
    bench.machine.poke(l::GDT + u64::from(l::TSS_SELECTOR) + 8, 8, 0xffff_8000);
    bench.cpu.gpr[gpr::RAX] = l::TSS_SELECTOR.into();
    const LTR: &[u8] = &[0x0f, 0x00, 0xd8];
    bench.expect(LTR, |cpu| {
        cpu.tr = Segment {
            base: 0xffff_8000_0000_0000 | l::TSS,
            limit: 0x67,
            selector: l::TSS_SELECTOR,
            attributes: 0x8b,
        };
    });
    assert_eq!(bench.machine.peek(l::GDT + u64::from(l::TSS_SELECTOR) + 5, 1), 0x8b);
    // Busy now.
    bench.expect_fault(LTR, Exception::gp(l::TSS_SELECTOR.into()));
    for (selector, fault) in [
        (0, Exception::gp(0)),
        (l::DATA_0, Exception::gp(0x10)),
        (l::LDT_SELECTOR, Exception::gp(0x58)),
        (l::TSS_SELECTOR | 4, Exception::gp(0x34)),
    ] {
        bench.cpu.gpr[gpr::RAX] = selector.into();
        bench.expect_fault(LTR, fault);
    }
    Bench::long(3).expect_fault(LTR, Exception::gp(0));
    Bench::real().expect_fault(LTR, Exception::UD);
}

#[test]
fn lldt_and_what_lies_in_the_ldt() {
    let mut bench = Bench::protected(0);
    const LLDT: &[u8] = &[0x0f, 0x00, 0xd0];
    bench.cpu.gpr[gpr::RAX] = l::LDT_SELECTOR.into();
    bench.expect(LLDT, |cpu| {
        cpu.ldtr = Segment { base: l::LDT, limit: 0xff, selector: l::LDT_SELECTOR, attributes: 0x82 };
    });
    bench.machine.poke(l::LDT + 8, 8, 0x00cf_9300_0000_ffff);
    bench.cpu.gpr[gpr::RAX] = 0xc;
    assert!(bench.run(&[0x8e, 0xd8]).is_ok());
    bench.cpu.gpr[gpr::RAX] = 0;
    bench.expect(LLDT, |cpu| cpu.ldtr = Segment::default());
    bench.machine.set_descriptor(l::SPARE, 0x0000_0200_0000_00ff);
    bench.cpu.gpr[gpr::RAX] = l::SPARE.into();
    bench.expect_fault(LLDT, Exception::with_code(Vector::SegmentNotPresent, 0x70));
    // sldt eax; str [ecx]
    let mut long = Bench::long(3);
    long.cpu.ldtr.selector = l::LDT_SELECTOR;
    long.expect(&[0x0f, 0x00, 0xc0], |cpu| cpu.gpr[gpr::RAX] = l::LDT_SELECTOR.into());
    long.cpu.gpr[gpr::RCX] = l::DATA;
    long.expect(&[0x0f, 0x00, 0x09], |_| {});
    assert_eq!(long.machine.peek(l::DATA, 8), l::TSS_SELECTOR.into());
    long.cpu.cr4 |= Cr4::UMIP;
    long.expect_fault(&[0x0f, 0x00, 0xc0], Exception::gp(0));
}

#[test]
fn lar_and_lsl() {
    let mut bench = Bench::protected(3);
    // lar eax, ecx; lsl eax, ecx
    const LAR: &[u8] = &[0x0f, 0x02, 0xc1];
    const LSL: &[u8] = &[0x0f, 0x03, 0xc1];
    for (selector, rights, limit) in [
        (l::DATA_3, Some(0x00c0_f300), Some(u32::MAX)),
        (l::CONFORMING, Some(0x00c0_9f00), Some(u32::MAX)),
        (l::DATA_0, None, None),
        (0, None, None),
        (0x200, None, None),
    ] {
        bench.cpu.gpr[gpr::RCX] = selector.into();
        for (bytes, result) in [(LAR, rights), (LSL, limit)] {
            bench.expect(bytes, |cpu| {
                cpu.rflags.set(Rflags::ZF, result.is_some());
                if let Some(value) = result {
                    cpu.gpr[gpr::RAX] = value.into();
                }
            });
        }
    }
    let mut kernel = Bench::protected(0);
    kernel.cpu.gpr[gpr::RCX] = l::TSS_SELECTOR.into();
    kernel.expect(LSL, |cpu| {
        cpu.rflags |= Rflags::ZF;
        cpu.gpr[gpr::RAX] = 0x67;
    });
    // A call gate has rights but no limit.
    kernel.machine.set_descriptor(l::SPARE, 0x0000_8c00_0040_0000);
    kernel.cpu.gpr[gpr::RCX] = l::SPARE.into();
    kernel.expect(LAR, |cpu| cpu.gpr[gpr::RAX] = 0x8c00);
    kernel.expect(LSL, |cpu| cpu.rflags -= Rflags::ZF);
    Bench::real().expect_fault(LAR, Exception::UD);
    Bench::virtual_8086(3).expect_fault(LSL, Exception::UD);
    // A page fault in the look is a page fault.
    let mut long = Bench::long(3);
    long.machine.set_pte(l::GDT, 0);
    long.cpu.gpr[gpr::RCX] = l::DATA_3.into();
    long.expect_fault(LAR, Exception::page_fault(l::GDT + 0x20, 0));
}

#[test]
fn verr_and_verw() {
    let mut bench = Bench::protected(3);
    for (selector, readable, writable) in [
        (l::DATA_3, true, true),
        (l::CODE32_3, true, false),
        (l::CONFORMING, true, false),
        (l::DATA_0, false, false),
        (l::TSS_SELECTOR, false, false),
        (0, false, false),
    ] {
        bench.cpu.gpr[gpr::RAX] = selector.into();
        bench.expect(&[0x0f, 0x00, 0xe0], |cpu| cpu.rflags.set(Rflags::ZF, readable));
        bench.expect(&[0x0f, 0x00, 0xe8], |cpu| cpu.rflags.set(Rflags::ZF, writable));
    }
}

#[test]
fn arpl() {
    let mut bench = Bench::protected(3);
    bench.cpu.gpr[gpr::RAX] = 0xffff_0010;
    bench.cpu.gpr[gpr::RCX] = 3;
    bench.expect(&[0x63, 0xc8], |cpu| {
        cpu.gpr[gpr::RAX] = 0xffff_0013;
        cpu.rflags |= Rflags::ZF;
    });
    bench.expect(&[0x63, 0xc8], |cpu| cpu.rflags -= Rflags::ZF);
    Bench::real().expect_fault(&[0x63, 0xc8], Exception::UD);
}
