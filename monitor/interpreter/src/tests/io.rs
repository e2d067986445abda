//! IN, OUT, INS, OUTS.

use x86::register::gpr;
use x86::{Exception, Rflags};

use super::{Bench, layout};
use crate::Outcome;

#[test]
fn in_and_out_of_every_width() {
    let mut bench = Bench::long(0);
    bench.machine.ports.insert(0x60, 0x1234_5678);
    let rax = bench.cpu.gpr[gpr::RAX];
    bench.expect(&[0xe4, 0x60], |cpu| cpu.gpr[gpr::RAX] = rax & !0xff | 0x78);
    bench.cpu.gpr[gpr::RDX] = 0x60;
    bench.expect(&[0x66, 0xed], |cpu| cpu.gpr[gpr::RAX] = rax & !0xffff | 0x5678);
    // 32 bits clear the upper half.
    bench.expect(&[0xed], |cpu| cpu.gpr[gpr::RAX] = 0x1234_5678);
    bench.expect(&[0xe6, 0x80], |_| {});
    bench.expect(&[0xef], |_| {});
    assert_eq!(
        bench.machine.port_log,
        [
            (0x60, 1, None),
            (0x60, 2, None),
            (0x60, 4, None),
            (0x80, 1, Some(0x78)),
            (0x60, 4, Some(0x1234_5678)),
        ]
    );
}

#[test]
fn ring_3_asks_the_permission_map() {
    let mut bench = Bench::long(3);
    // A TSS without a map.
    bench.expect_fault(&[0xe4, 0x60], Exception::gp(0));
    // A map at 0x68 with its closing byte, ports 0x60 to 0x63 allowed.
    bench.machine.poke(layout::TSS + 102, 2, 0x68);
    bench.cpu.tr.limit = 0x68 + 0x10;
    bench.put(layout::TSS + 0x68, 1, &[0xff; 17]);
    bench.machine.poke(layout::TSS + 0x68 + 0xc, 1, 0xf0);
    bench.machine.ports.insert(0x60, 7);
    let rax = bench.cpu.gpr[gpr::RAX];
    bench.expect(&[0xe4, 0x60], |cpu| cpu.gpr[gpr::RAX] = rax & !0xff | 7);
    bench.expect(&[0xe5, 0x60], |cpu| cpu.gpr[gpr::RAX] = 7);
    // Two bytes at 0x63 reach 0x64; 0x80 is beyond the limit.
    bench.expect_fault(&[0x66, 0xe5, 0x63], Exception::gp(0));
    bench.expect_fault(&[0xe4, 0x80], Exception::gp(0));
    bench.cpu.rflags |= Rflags::IOPL;
    bench.expect(&[0xe6, 0x80], |_| {});
}

#[test]
fn virtual_8086_asks_the_map_whatever_iopl_says() {
    let mut bench = Bench::virtual_8086(3);
    bench.expect_fault(&[0xe4, 0x60], Exception::gp(0));
    let mut bench = Bench::real();
    bench.expect(&[0xe6, 0x60], |_| {});
}

#[test]
fn rep_insw_fills_memory_and_counts() {
    let mut bench = Bench::long(0);
    bench.machine.ports.insert(0x1f0, 0xabcd);
    bench.cpu.gpr[gpr::RDX] = 0x1f0;
    bench.cpu.gpr[gpr::RDI] = layout::DATA + 0xffc;
    bench.cpu.gpr[gpr::RCX] = 4;
    bench.expect(&[0xf3, 0x66, 0x6d], |cpu| {
        cpu.gpr[gpr::RDI] += 8;
        cpu.gpr[gpr::RCX] = 0;
    });
    assert_eq!(bench.machine.peek(layout::DATA + 0xffc, 8), 0xabcd_abcd_abcd_abcd);
    assert_eq!(bench.machine.port_log.len(), 4);
}

#[test]
fn rep_outsb_backwards() {
    let mut bench = Bench::protected(0);
    bench.put(layout::DATA, 1, &[1, 2, 3]);
    bench.cpu.rflags |= Rflags::DF;
    bench.cpu.gpr[gpr::RDX] = 0xe9;
    bench.cpu.gpr[gpr::RSI] = layout::DATA + 2;
    bench.cpu.gpr[gpr::RCX] = 3;
    bench.expect(&[0xf3, 0x6e], |cpu| {
        cpu.gpr[gpr::RSI] = layout::DATA - 1;
        cpu.gpr[gpr::RCX] = 0;
    });
    let written: Vec<_> = bench.machine.port_log.iter().map(|entry| entry.2).collect();
    assert_eq!(written, [Some(3), Some(2), Some(1)]);
}

#[test]
fn a_stepped_outsb_goes_one_element_at_a_time() {
    let mut bench = Bench::protected(0);
    bench.cpu.rflags |= Rflags::TF;
    bench.cpu.gpr[gpr::RSI] = layout::DATA;
    bench.cpu.gpr[gpr::RCX] = 2;
    assert_eq!(bench.run(&[0xf3, 0x6e]), Ok(Outcome::Repeat));
    assert_eq!((bench.cpu.gpr[gpr::RCX], bench.effects.debug_trap), (1, 1 << 14));
    assert_eq!(bench.run(&[0xf3, 0x6e]), Ok(Outcome::Done));
    assert_eq!((bench.cpu.rip, bench.effects.debug_trap), (layout::CODE + 2, 1 << 14));
}

#[test]
fn a_fault_in_its_midst_is_restartable() {
    let mut bench = Bench::long(0);
    bench.machine.set_pte(layout::DATA + 0x1000, 0);
    bench.cpu.gpr[gpr::RDX] = 0x1f0;
    bench.cpu.gpr[gpr::RDI] = layout::DATA + 0xffc;
    bench.cpu.gpr[gpr::RCX] = 4;
    let mut expected = bench.cpu.clone();
    expected.gpr[gpr::RDI] = layout::DATA + 0x1000;
    expected.gpr[gpr::RCX] = 2;
    let fault = bench.run(&[0xf3, 0x66, 0x6d]);
    assert_eq!(fault, Err(Exception::page_fault(layout::DATA + 0x1000, 2)));
    assert_eq!(bench.cpu, expected);
    assert_eq!(bench.machine.port_log.len(), 2);
    bench.machine.set_pte(layout::DATA + 0x1000, 0x63);
    bench.expect(&[0xf3, 0x66, 0x6d], |cpu| {
        cpu.gpr[gpr::RDI] += 4;
        cpu.gpr[gpr::RCX] = 0;
    });
}

#[test]
fn an_element_across_pages_reads_no_port_before_a_fault() {
    let mut bench = Bench::long(0);
    bench.machine.set_pte(layout::DATA + 0x1000, 0);
    bench.cpu.gpr[gpr::RDI] = layout::DATA + 0xfff;
    bench.expect_fault(&[0x66, 0x6d], Exception::page_fault(layout::DATA + 0x1000, 2));
    assert!(bench.machine.port_log.is_empty());
}

#[test]
fn a_long_run_comes_in_chunks() {
    let mut bench = Bench::long(0);
    bench.cpu.gpr[gpr::RDI] = layout::DATA;
    bench.cpu.gpr[gpr::RCX] = 5000;
    let rip = bench.cpu.rip;
    assert_eq!(bench.run(&[0xf3, 0x6c]), Ok(Outcome::Repeat));
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[gpr::RCX]), (rip, 5000 - 4096));
    assert_eq!(bench.run(&[0xf3, 0x6c]), Ok(Outcome::Done));
    assert_eq!((bench.cpu.rip, bench.cpu.gpr[gpr::RDI]), (rip + 2, layout::DATA + 5000));
}

#[test]
fn sixteen_bit_addresses_wrap() {
    let mut bench = Bench::real();
    bench.machine.ports.insert(0x60, 0x5a);
    bench.cpu.gpr[gpr::RDX] = 0x60;
    bench.cpu.gpr[gpr::RDI] = 0xdead_ffff;
    bench.cpu.gpr[gpr::RCX] = 0xbeef_0002;
    bench.expect(&[0xf3, 0x6c], |cpu| {
        cpu.gpr[gpr::RDI] = 0xdead_0001;
        cpu.gpr[gpr::RCX] = 0xbeef_0000;
    });
    assert_eq!(bench.machine.peek(0x2_ffff, 1), 0x5a);
    assert_eq!(bench.machine.peek(0x2_0000, 1), 0x5a);
}

#[test]
fn rep_with_zero_does_nothing() {
    let mut bench = Bench::long(0);
    bench.cpu.gpr[gpr::RCX] = 0;
    bench.cpu.gpr[gpr::RDI] = 1 << 62;
    bench.expect(&[0xf3, 0x6c], |_| {});
    assert!(bench.machine.port_log.is_empty());
}

#[test]
fn breakpoints_on_ports_and_on_a_routines_memory() {
    let mut bench = Bench::protected(0);
    bench.cpu.dr[1] = 0xe9;
    bench.cpu.dr[7] = 0x0020_0408;
    assert!(bench.run(&[0xe6, 0xe9]).is_ok());
    assert_eq!(bench.effects.debug_trap, 0, "there are none without CR4.DE");
    bench.cpu.cr4 |= x86::Cr4::DE;
    assert!(bench.run(&[0xe6, 0xe9]).is_ok());
    assert_eq!(bench.effects.debug_trap, 2);
    // A write of two bytes at the stack's top, by pushf.
    bench.cpu.dr[0] = layout::STACK - 2;
    bench.cpu.dr[7] = 0x0005_0402;
    assert!(bench.run(&[0x9c]).is_ok());
    assert_eq!(bench.effects.debug_trap, 1);
}
