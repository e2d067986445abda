//! Memory, ports and configuration space by number, and chance that is the same every time.

use core::arch::asm;

/// Writes 1, 2, 4 or 8 bytes. In assembly, since devices look at memory and addresses need not be aligned.
pub fn write(address: u64, size: u8, value: u64) {
    // SAFETY: all of memory is this program's; it goes on from whatever it has broken but itself, which lies below
    // everything it is told to write to.
    unsafe {
        match size {
            1 => asm!("mov [{}], {:l}", in(reg) address, in(reg_abcd) value, options(nostack)),
            2 => asm!("mov [{}], {:x}", in(reg) address, in(reg) value, options(nostack)),
            4 => asm!("mov [{}], {:e}", in(reg) address, in(reg) value, options(nostack)),
            _ => asm!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack)),
        }
    }
}

/// Writes 8 bytes.
pub fn store(address: u64, value: u64) {
    write(address, 8, value);
}

/// Reads 1, 2, 4 or 8 bytes.
pub fn read(address: u64, size: u8) -> u64 {
    let value: u64;
    // SAFETY: as for `write`.
    unsafe {
        match size {
            1 => asm!("movzx {:e}, byte ptr [{}]", out(reg) value, in(reg) address, options(nostack)),
            2 => asm!("movzx {:e}, word ptr [{}]", out(reg) value, in(reg) address, options(nostack)),
            4 => asm!("mov {:e}, [{}]", out(reg) value, in(reg) address, options(nostack)),
            _ => asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack)),
        }
    }
    value
}

/// Writes to a port.
pub fn out(port: u16, size: u8, value: u32) {
    // SAFETY: ports are the machine's, as is memory.
    unsafe {
        match size {
            1 => asm!("out dx, al", in("dx") port, in("al") value as u8, options(nomem, nostack)),
            2 => asm!("out dx, ax", in("dx") port, in("ax") value as u16, options(nomem, nostack)),
            _ => asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)),
        }
    }
}

/// Reads 4 bytes from a port.
pub fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: as for `out`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack)) };
    value
}

/// A function on PCI bus 0.
#[derive(Clone, Copy)]
pub struct Slot(pub u8);

impl Slot {
    fn select(self, offset: u8) {
        out(0xcf8, 4, 0x8000_0000 | u32::from(self.0) << 11 | u32::from(offset & !3));
    }

    /// A doubleword of its configuration space.
    pub fn get(self, offset: u8) -> u32 {
        self.select(offset);
        inl(0xcfc)
    }

    /// Writes 1, 2 or 4 bytes of it.
    pub fn set(self, offset: u8, size: u8, value: u32) {
        self.select(offset);
        out(0xcfc + u16::from(offset & 3), size, value);
    }
}

/// Chance (xorshift64*).
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    pub fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}
