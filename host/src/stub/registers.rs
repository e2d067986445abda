//! A stub's registers.

/// Registers of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// General registers, by their numbers in instruction encodings.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// RFLAGS. IF stays set; ID and NT as they were.
    pub rflags: u64,
    /// Bases of FS and GS.
    pub bases: [u64; 2],
    /// ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
}
