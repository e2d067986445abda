//! Frames of signals, as the kernel puts them on a stack and takes them from there (asm/sigcontext.h, asm/ucontext.h).

use std::ops::Range;

use super::Registers;

/// Bytes from the registers in a frame to what is said of the signal.
pub const INFO: usize = size_of::<Ucontext>();
/// And to where that ends, as far as it is of interest.
pub const INFO_BYTES: usize = 24;
/// Where software may keep something in an XSAVE area, and the kernel keeps what makes it one of a frame (`struct _fpx_sw_bytes`).
pub const SOFTWARE: Range<usize> = 464..512;
/// Where among those is which components it may have.
pub const COMPONENTS: Range<usize> = 8..16;
/// Behind the area: `FP_XSTATE_MAGIC2`.
pub const MAGIC2: u32 = 0x4650_5845;
/// `FP_XSTATE_MAGIC1`.
const MAGIC1: u32 = 0x4650_5853;

/// `UC_FP_XSTATE`, `UC_SIGCONTEXT_SS`, `UC_STRICT_RESTORE_SS`.
const FLAGS: u64 = 7;
/// Selectors of 64-bit code, of 32-bit code, and of data (asm/segment.h).
const CODE: u16 = 0x33;
const CODE32: u16 = 0x23;
const DATA: u16 = 0x2b;
/// What ring 3 can change of RFLAGS: status, TF, DF, NT, RF, AC, ID.
const OWN_FLAGS: u64 = 0x0025_4dd5;
/// And what is set all the same: IF, and the bit that always is.
const SET_FLAGS: u64 = 0x202;

/// `struct ucontext`, with `struct sigcontext` in it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Ucontext {
    flags: u64,
    link: u64,
    stack: [u64; 3],
    /// r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp.
    general: [u64; 16],
    rip: u64,
    rflags: u64,
    /// CS, GS, FS, SS.
    selectors: [u16; 4],
    /// Error code, vector, mask, CR2.
    trap: [u64; 4],
    /// Address of the XSAVE area, or 0.
    pub vectors: u64,
    reserved: [u64; 8],
    mask: u64,
}

const _: () = assert!(size_of::<Ucontext>() == 304);

/// By number in instruction encodings: where a register is among the general ones above.
const ORDER: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];

impl Ucontext {
    /// What brings these registers about, with no signal blocked, and this stack for the next.
    pub fn new(registers: &Registers, stack: [u64; 3], vectors: u64) -> Self {
        let mut context = Self { flags: FLAGS, stack, vectors, ..Self::default() };
        for (at, value) in ORDER.into_iter().zip(registers.gpr) {
            context.general[at] = value;
        }
        (context.rip, context.rflags) = (registers.rip, registers.rflags);
        context.selectors = [registers.selectors[1], 0, 0, registers.selectors[2]];
        context
    }

    /// The error code, if the signal is of a page fault.
    pub fn page_fault(&self) -> Option<u32> {
        const PAGE_FAULT: u64 = 14;
        let [error, vector, ..] = self.trap;
        (vector == PAGE_FAULT).then_some(error as u32)
    }

    /// The registers of a program that stands, with these bases: nothing that ring 3 cannot bring about, whatever is here.
    pub fn registers(&self, bases: [u64; 2], data: [u16; 2]) -> Registers {
        let code = if self.selectors[0] == CODE32 { CODE32 } else { CODE };
        Registers {
            gpr: ORDER.map(|at| self.general[at]),
            rip: canonical(self.rip),
            rflags: self.rflags & OWN_FLAGS | SET_FLAGS,
            bases: bases.map(canonical),
            selectors: [data[0], code, DATA, data[1], 0, 0],
        }
    }
}

/// With four levels of page tables.
fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}

/// What is said of a signal.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    pub signal: i32,
    pub code: i32,
    pub address: u64,
}

impl Info {
    pub fn of(bytes: &[u8; INFO_BYTES]) -> Self {
        let int = |at: usize| i32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let address = u64::from_le_bytes(std::array::from_fn(|n| bytes[16 + n]));
        Self { signal: int(0), code: int(8), address }
    }
}

/// The length of the XSAVE area with these bytes of the kernel's at [`SOFTWARE`], if they are such.
pub fn vector_bytes(software: &[u8]) -> Option<usize> {
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| software[at + n]));
    (word(0) == MAGIC1).then_some(word(16) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_come_back_as_they_went() {
        let mut registers = Registers { rip: 0x1234, rflags: 0xa97, ..Registers::default() };
        registers.gpr = std::array::from_fn(|n| n as u64 + 100);
        (registers.bases, registers.selectors) = ([1, 2], [0, CODE, DATA, 0, 0, 0]);
        let context = Ucontext::new(&registers, [0; 3], 0);
        assert_eq!(context.registers([1, 2], [0, 0]), registers);
        // rsp and rip, by their numbers in sys/ucontext.h.
        // SAFETY: both are plain words, of one size.
        let words: [u64; 38] = unsafe { std::mem::transmute(context) };
        assert_eq!((words[5 + libc::REG_RSP as usize], words[5 + libc::REG_RIP as usize]), (104, 0x1234));
    }

    #[test]
    fn what_ring_3_cannot_bring_about_is_not_believed() {
        let forged = Registers {
            rip: 0x0123_8000_0000_0000,
            rflags: !0,
            selectors: [0, 0x10, 0x18, 0, 0, 0],
            ..Registers::default()
        };
        let registers = Ucontext::new(&forged, [0; 3], 0).registers([1 << 60; 2], [0, 0]);
        assert_eq!((registers.rip, registers.bases), (0xffff_8000_0000_0000, [0; 2]));
        assert_eq!((registers.selectors[1], registers.selectors[2]), (CODE, DATA));
        // Neither IOPL nor VM, VIF and VIP.
        assert_eq!(registers.rflags & 0x001a_3000, 0);
    }
}
