//! Status flags as sets, in iced-x86's bit numbers.

use iced_x86::RflagsBits;

/// OF, SF, ZF, AF, CF and PF.
pub const ALL: u8 =
    (RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF)
        as u8;

/// The status flags among iced's.
pub fn of(bits: u32) -> u8 {
    bits as u8 & ALL
}
