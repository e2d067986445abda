//! Segment registers.

use vcpu::Shadow;
use x86::register::gpr;
use x86::{Cr4, Exception, Segment, SegmentRegister, Vector};

use super::machine::{DATA, flat};
use super::{Bench, layout as l};

/// mov ds, ax; mov ss, ax.
const TO_DS: &[u8] = &[0x8e, 0xd8];
const TO_SS: &[u8] = &[0x8e, 0xd0];

#[test]
fn loads_in_protected_mode() {
    let mut bench = Bench::protected(0);
    bench.cpu.gpr[gpr::RAX] = l::DATA_3.into();
    bench.expect(TO_DS, |cpu| *cpu.segment_mut(SegmentRegister::Ds) = flat(l::DATA_3, DATA));
    bench.cpu.gpr[gpr::RAX] = 3;
    bench.expect(TO_DS, |cpu| {
        *cpu.segment_mut(SegmentRegister::Ds) = Segment { selector: 3, ..Segment::default() };
    });
    for (selector, fault) in [
        (0x200, Exception::gp(0x200)),
        (l::TSS_SELECTOR, Exception::gp(0x30)),
        (l::ABSENT, Exception::with_code(Vector::SegmentNotPresent, 0x68)),
        // No LDT is loaded.
        (0xc, Exception::gp(0xc)),
    ] {
        bench.cpu.gpr[gpr::RAX] = selector.into();
        bench.expect_fault(TO_DS, fault);
    }
    let mut user = Bench::protected(3);
    user.cpu.gpr[gpr::RAX] = l::DATA_0.into();
    user.expect_fault(TO_DS, Exception::gp(0x10));
    // Conforming code may be read from anywhere.
    user.cpu.gpr[gpr::RAX] = l::CONFORMING.into();
    assert!(user.run(TO_DS).is_ok());
    // mov cs, ax
    user.expect_fault(&[0x8e, 0xc8], Exception::UD);
}

#[test]
fn loads_of_the_stack_segment() {
    let mut bench = Bench::protected(0);
    bench.cpu.gpr[gpr::RAX] = l::DATA16_0.into();
    bench.expect(TO_SS, |cpu| {
        *cpu.segment_mut(SegmentRegister::Ss) =
            Segment { base: 0, limit: 0xffff, selector: l::DATA16_0, attributes: 0x93 };
        cpu.shadow = Shadow::MovSs;
    });
    // A second one right after holds nothing off.
    bench.expect(TO_SS, |cpu| cpu.shadow = Shadow::None);
    for (selector, fault) in [
        (0, Exception::gp(0)),
        (l::DATA_3, Exception::gp(0x20)),
        (l::CODE32_0, Exception::gp(0x40)),
        (l::ABSENT, Exception::ss(0x68)),
    ] {
        bench.cpu.gpr[gpr::RAX] = selector.into();
        bench.expect_fault(TO_SS, fault);
    }
    // 64-bit code may do without.
    let mut long = Bench::long(0);
    long.cpu.gpr[gpr::RAX] = 0;
    long.expect(TO_SS, |cpu| {
        *cpu.segment_mut(SegmentRegister::Ss) = Segment::default();
        cpu.shadow = Shadow::MovSs;
    });
    let mut user = Bench::long(3);
    user.cpu.gpr[gpr::RAX] = 3;
    user.expect_fault(TO_SS, Exception::gp(0));
}

#[test]
fn the_accessed_bit_is_set_in_memory() {
    let mut bench = Bench::protected(0);
    bench.machine.set_descriptor(l::SPARE, 0x1240_9200_5678_9abc);
    bench.cpu.gpr[gpr::RAX] = l::SPARE.into();
    bench.expect(TO_DS, |cpu| {
        *cpu.segment_mut(SegmentRegister::Ds) =
            Segment { base: 0x1200_5678, limit: 0x9abc, selector: l::SPARE, attributes: 0x4093 };
    });
    assert_eq!(bench.machine.peek(l::GDT + u64::from(l::SPARE) + 5, 1), 0x93);
}

#[test]
fn a_descriptor_is_reached_by_the_supervisor() {
    let mut bench = Bench::long(3);
    bench.machine.set_pte(l::GDT, 0x63);
    bench.cpu.gpr[gpr::RAX] = l::DATA_3.into();
    assert!(bench.run(TO_DS).is_ok());
    bench.machine.set_pte(l::GDT, 0);
    bench.expect_fault(TO_DS, Exception::page_fault(l::GDT + 0x20, 0));
}

#[test]
fn real_mode_keeps_the_limit() {
    let mut bench = Bench::real();
    let ds = bench.cpu.segment_mut(SegmentRegister::Ds);
    (ds.limit, ds.attributes) = (u32::MAX, DATA);
    bench.cpu.gpr[gpr::RAX] = 0x1234;
    bench.expect(TO_DS, |cpu| {
        let ds = cpu.segment_mut(SegmentRegister::Ds);
        (ds.selector, ds.base) = (0x1234, 0x1_2340);
    });
}

#[test]
fn moves_from_segment_registers() {
    let mut bench = Bench::long(3);
    let rax = bench.cpu.gpr[gpr::RAX];
    bench.expect(&[0x66, 0x8c, 0xc8], |cpu| cpu.gpr[gpr::RAX] = rax & !0xffff | 0x2b);
    bench.expect(&[0x8c, 0xd0], |cpu| cpu.gpr[gpr::RAX] = 0x23);
    bench.cpu.gpr[gpr::RCX] = l::DATA;
    bench.machine.poke(l::DATA, 8, u64::MAX);
    bench.expect(&[0x8c, 0x09], |_| {});
    assert_eq!(bench.machine.peek(l::DATA, 8), 0xffff_ffff_ffff_002b);
}

#[test]
fn pushes_and_pops() {
    let mut bench = Bench::protected(0);
    // AMD's processors write the whole slot, Intel's half of it.
    for (amd, slot) in [(true, 0x40), (false, 0xffff_0040)] {
        bench.machine.amd = amd;
        bench.cpu.gpr[gpr::RSP] = l::STACK;
        bench.machine.poke(l::STACK - 4, 4, 0xffff_ffff);
        bench.expect(&[0x0e], |cpu| cpu.gpr[gpr::RSP] -= 4);
        assert_eq!(bench.machine.peek(l::STACK - 4, 4), slot);
    }
    bench.machine.poke(l::STACK - 4, 4, u64::from(l::DATA_3) | 0xaaaa_0000);
    bench.expect(&[0x07], |cpu| {
        cpu.gpr[gpr::RSP] += 4;
        *cpu.segment_mut(SegmentRegister::Es) = flat(l::DATA_3, DATA);
    });
    bench.machine.poke(l::STACK, 4, l::ABSENT.into());
    bench.expect_fault(&[0x07], Exception::with_code(Vector::SegmentNotPresent, 0x68));
    let mut long = Bench::long(3);
    long.expect(&[0x0f, 0xa8], |cpu| cpu.gpr[gpr::RSP] -= 8);
    assert_eq!(long.machine.peek(l::STACK - 8, 8), l::DATA_3.into());
}

#[test]
fn far_pointers() {
    let mut bench = Bench::protected(0);
    bench.machine.poke(l::DATA, 6, 0x0023_dead_beef);
    bench.cpu.gpr[gpr::RAX] = l::DATA;
    // les ecx, [eax]; lss is 0f b2.
    bench.expect(&[0xc4, 0x08], |cpu| {
        cpu.gpr[gpr::RCX] = 0xdead_beef;
        *cpu.segment_mut(SegmentRegister::Es) = flat(l::DATA_3, DATA);
    });
    bench.expect_fault(&[0x0f, 0xb2, 0x08], Exception::gp(0x20));
    bench.machine.poke(l::DATA, 6, 0x0010_dead_beef);
    bench.expect(&[0x0f, 0xb2, 0x08], |cpu| {
        cpu.gpr[gpr::RCX] = 0xdead_beef;
        cpu.shadow = Shadow::MovSs;
    });
}

#[test]
fn bases_in_64_bit_mode() {
    let mut bench = Bench::long(0);
    bench.cpu.msrs.kernel_gs_base = 0xffff_8000_0000_0000;
    bench.cpu.segment_mut(SegmentRegister::Gs).base = 0x1234;
    const SWAPGS: &[u8] = &[0x0f, 0x01, 0xf8];
    bench.expect(SWAPGS, |cpu| {
        cpu.segment_mut(SegmentRegister::Gs).base = 0xffff_8000_0000_0000;
        cpu.msrs.kernel_gs_base = 0x1234;
    });
    Bench::long(3).expect_fault(SWAPGS, Exception::gp(0));
    Bench::compatibility().expect_fault(SWAPGS, Exception::UD);
    // rdgsbase rax; wrfsbase rax, eax
    const RDGSBASE: &[u8] = &[0xf3, 0x48, 0x0f, 0xae, 0xc8];
    const WRFSBASE: &[u8] = &[0xf3, 0x48, 0x0f, 0xae, 0xd0];
    bench.expect_fault(RDGSBASE, Exception::UD);
    bench.cpu.cr4 |= Cr4::FSGSBASE;
    bench.expect(RDGSBASE, |cpu| cpu.gpr[gpr::RAX] = 0xffff_8000_0000_0000);
    bench.expect(WRFSBASE, |cpu| {
        cpu.segment_mut(SegmentRegister::Fs).base = 0xffff_8000_0000_0000;
    });
    bench.expect(&[0xf3, 0x0f, 0xae, 0xc8], |cpu| cpu.gpr[gpr::RAX] = 0);
    bench.cpu.gpr[gpr::RAX] = 1 << 63;
    bench.expect_fault(WRFSBASE, Exception::gp(0));
}

#[test]
fn limits_and_types_are_held() {
    // mov [eax], cs through DS: a read-only, an expand-down and a null segment.
    let mut bench = Bench::protected(0);
    const STORE: &[u8] = &[0x8c, 0x08];
    bench.cpu.gpr[gpr::RAX] = l::DATA;
    let ds = *bench.cpu.segment(SegmentRegister::Ds);
    let with = |attributes, limit| Segment { attributes, limit, ..ds };
    for (segment, good) in [
        (with(0xc091, u32::MAX), false),
        (with(0xc093, 0x2_0000), false),
        (with(0xc093, 0x2_0001), true),
        (with(0xc097, 0x1_ffff), true),
        (with(0xc097, 0x2_0000), false),
        (Segment::default(), false),
    ] {
        *bench.cpu.segment_mut(SegmentRegister::Ds) = segment;
        if good {
            bench.expect(STORE, |_| {});
        } else {
            bench.expect_fault(STORE, Exception::gp(0));
        }
    }
    let mut long = Bench::long(0);
    long.cpu.gpr[gpr::RAX] = 1 << 62;
    long.expect_fault(STORE, Exception::gp(0));
    long.cpu.gpr[gpr::RBP] = 1 << 62;
    long.expect_fault(&[0x8c, 0x4d, 0], Exception::ss(0));
}
