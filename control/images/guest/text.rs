//! Text put together without allocation, for paths and small files.
//!
//! Pure, so that the host's tests can call it.

use core::ffi::CStr;

/// Up to `N` - 1 bytes; what does not fit makes the whole unusable rather than shorter.
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
    overflowed: bool,
}

impl<const N: usize> Text<N> {
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut text = Self { bytes: [0; N], length: 0, overflowed: false };
        for part in parts {
            text.push(part);
        }
        text
    }

    pub fn push(&mut self, part: &[u8]) {
        let end = self.length + part.len();
        // One byte stays for the NUL.
        match self.bytes.get_mut(self.length..end).filter(|_| end < N) {
            Some(into) => {
                into.copy_from_slice(part);
                self.length = end;
            }
            None => self.overflowed = true,
        }
    }

    /// In decimal.
    pub fn push_number(&mut self, number: u32) {
        if number >= 10 {
            self.push_number(number / 10);
        }
        self.push(&[b'0' + (number % 10) as u8]);
    }

    /// `None` if not all of it fitted.
    pub fn bytes(&self) -> Option<&[u8]> {
        (!self.overflowed).then_some(&self.bytes[..self.length])
    }

    /// `None` if not all of it fitted, or there is a NUL in it.
    pub fn c_str(&self) -> Option<&CStr> {
        CStr::from_bytes_with_nul(self.bytes.get(..=self.length)?).ok().filter(|_| !self.overflowed)
    }
}
