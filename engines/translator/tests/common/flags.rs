//! The status flags, as the decoder numbers them.

use iced_x86::RflagsBits;

/// iced-x86's bit numbers to the processor's.
pub fn rflags(bits: u32) -> u64 {
    [
        (RflagsBits::OF, 0x800),
        (RflagsBits::SF, 0x80),
        (RflagsBits::ZF, 0x40),
        (RflagsBits::AF, 0x10),
        (RflagsBits::CF, 1),
        (RflagsBits::PF, 4),
    ]
    .into_iter()
    .filter(|(from, _)| bits & from != 0)
    .fold(0, |sum, (_, to)| sum | to)
}
