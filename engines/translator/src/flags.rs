//! Status flags as sets, in iced-x86's bit numbers.

use iced_x86::{Instruction, Mnemonic, RflagsBits};

/// OF, SF, ZF, AF, CF and PF.
pub const ALL: u8 =
    (RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF)
        as u8;

/// The status flags among iced's.
pub fn of(bits: u32) -> u8 {
    bits as u8 & ALL
}

/// Status flags that an instruction may read.
pub fn read(i: &Instruction) -> u8 {
    of(i.rflags_read()) | through_carry(i)
}

/// Status flags that an instruction may modify.
pub fn modified(i: &Instruction) -> u8 {
    of(i.rflags_modified()) | through_carry(i)
}

/// What a rotation through CF may read and modify. If its count comes to nothing, as 9 does for a byte, iced-x86 says that it
/// leaves flags alone; AMD's processors make OF of CF and the highest bit then.
fn through_carry(i: &Instruction) -> u8 {
    match i.mnemonic() {
        Mnemonic::Rcl | Mnemonic::Rcr => of(RflagsBits::CF | RflagsBits::OF),
        _ => 0,
    }
}
