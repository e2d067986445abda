//! Page tables of five levels: when they can be chosen, and what is canonical with and without them.

use x86::register::gpr;
use x86::{Cr4, Exception, TableRegister};

use super::{Bench, layout as l};

const MOV_TO_CR4: &[u8] = &[0x0f, 0x22, 0xe0];

#[test]
fn five_levels_are_chosen_before_long_mode() {
    let la57 = (Cr4::PAE | Cr4::LA57).bits();
    let mut bench = Bench::long(0);
    bench.machine.la57 = true;
    bench.cpu.gpr[gpr::RAX] = la57;
    bench.expect_fault(MOV_TO_CR4, Exception::gp(0));
    let mut bench = Bench::protected(0);
    bench.cpu.gpr[gpr::RAX] = la57;
    bench.expect_fault(MOV_TO_CR4, Exception::gp(0));
    bench.machine.la57 = true;
    bench.expect(MOV_TO_CR4, |cpu| cpu.cr4 = Cr4::PAE | Cr4::LA57);
    assert_eq!(bench.effects.invalidations.drain().count(), 1);
    // And left alone in it.
    let mut bench = five_levels();
    bench.cpu.gpr[gpr::RAX] = bench.cpu.cr4.bits() & !Cr4::LA57.bits();
    bench.expect_fault(MOV_TO_CR4, Exception::gp(0));
}

/// In long mode, a level of tables above the usual four.
fn five_levels() -> Bench {
    const PML5: u64 = 0x3_0000;
    let mut bench = Bench::long(0);
    bench.machine.la57 = true;
    for slot in [0, 0xab] {
        bench.machine.poke(PML5 + slot * 8, 8, l::PML4 | 7);
    }
    bench.cpu.cr3 = PML5;
    bench.cpu.cr4 |= Cr4::LA57;
    bench
}

#[test]
fn what_is_canonical_goes_by_the_levels_in_use() {
    const HIGH: u64 = 0xab << 48;
    // LGDT [rbx], IRETQ.
    let (lgdt, iretq) = ([0x0f, 0x01, 0x13], [0x48, 0xcf]);
    let prepare = |bench: &mut Bench| {
        bench.cpu.gpr[gpr::RBX] = HIGH + l::DATA;
        for (n, word) in
            [HIGH + l::CODE, l::CODE64_0.into(), 2, l::STACK, l::DATA_0.into()].into_iter().enumerate()
        {
            bench.machine.poke(l::STACK - 64 + n as u64 * 8, 8, word);
        }
        bench.cpu.gpr[gpr::RSP] = l::STACK - 64;
        bench.machine.poke(l::DATA, 2, 0x27);
        bench.machine.poke(l::DATA + 2, 8, HIGH);
    };
    let mut bench = five_levels();
    prepare(&mut bench);
    bench.expect(&lgdt, |cpu| cpu.gdtr = TableRegister { base: HIGH, limit: 0x27 });
    bench.cpu.gdtr = Bench::long(0).cpu.gdtr;
    assert!(bench.run(&iretq).is_ok());
    assert_eq!(bench.cpu.rip, HIGH + l::CODE);
    // Beyond what five reach.
    bench.cpu.gpr[gpr::RBX] = 1 << 56;
    bench.expect_fault(&lgdt, Exception::gp(0));
    // With four.
    let mut bench = Bench::long(0);
    bench.machine.la57 = true;
    prepare(&mut bench);
    bench.expect_fault(&lgdt, Exception::gp(0));
    bench.expect_fault(&iretq, Exception::gp(0));
    // A register takes what the processor could use.
    bench.cpu.gpr[gpr::RBX] = l::DATA;
    bench.expect(&lgdt, |cpu| cpu.gdtr = TableRegister { base: HIGH, limit: 0x27 });
    bench.machine.la57 = false;
    bench.expect_fault(&lgdt, Exception::gp(0));
}
