//! A descriptor chain (2.7.5): what the driver gives a device to read, then what it gives it to write.

use memory::GuestRam;
use thiserror::Error;
use virtio_queue::desc::split::Descriptor;

/// Why a chain cannot be used as the device would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// There is less in it than was asked for.
    #[error("the descriptor chain is too short")]
    Short,
    /// A buffer lies where there is no RAM.
    #[error("a buffer of the descriptor chain is not in RAM")]
    Wild,
}

/// A buffer in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its guest-physical address.
    pub gpa: u64,
    /// Its length.
    pub len: u32,
}

/// Buffers, and how far they have been used.
#[derive(Clone, Debug, Default)]
struct Cursor {
    buffers: Vec<Buffer>,
    /// Index of the current buffer.
    at: usize,
    /// Bytes of it that have been used.
    offset: u32,
    /// Bytes left in all; a chain has less than 4 GiB.
    left: u32,
}

impl Cursor {
    fn push(&mut self, buffer: Buffer) {
        self.buffers.push(buffer);
        self.left += buffer.len;
    }

    /// Takes the next piece of at most `limit` bytes, which lies within one buffer.
    fn take(&mut self, limit: u32) -> Option<Buffer> {
        loop {
            let buffer = self.buffers.get(self.at)?;
            let rest = buffer.len - self.offset;
            if rest == 0 {
                self.at += 1;
                self.offset = 0;
                continue;
            }
            let len = rest.min(limit);
            let piece = Buffer { gpa: buffer.gpa.wrapping_add(self.offset.into()), len };
            self.offset += len;
            self.left -= len;
            return Some(piece);
        }
    }

    /// Calls `each` with the pieces that make up the next `len` bytes and where among them each begins.
    fn pieces(
        &mut self,
        len: usize,
        mut each: impl FnMut(Buffer, usize) -> Result<(), ChainError>,
    ) -> Result<(), ChainError> {
        if u32::try_from(len).map_or(true, |len| len > self.left) {
            return Err(ChainError::Short);
        }
        let mut done = 0;
        while done < len {
            // Less than 4 GiB, as has been seen.
            let piece = self.take((len - done) as u32).ok_or(ChainError::Short)?;
            each(piece, done)?;
            done += piece.len as usize;
        }
        Ok(())
    }
}

/// A chain that has been taken out of its queue and is to be given back to it, by [`super::Virtqueue::push`].
#[derive(Debug)]
pub struct Chain {
    head: u16,
    ram: GuestRam,
    readable: Cursor,
    writable: Cursor,
}

impl Chain {
    /// Walks the descriptors of a chain; `None` if one to be read follows one to be written (2.7.4.2), or there are
    /// more than `most`.
    pub(super) fn new(
        head: u16,
        descriptors: impl Iterator<Item = Descriptor>,
        most: u16,
        ram: &GuestRam,
    ) -> Option<Self> {
        let mut chain =
            Self { head, ram: ram.clone(), readable: Cursor::default(), writable: Cursor::default() };
        for (number, descriptor) in descriptors.enumerate() {
            if number >= usize::from(most) {
                return None;
            }
            let buffer = Buffer { gpa: descriptor.addr().0, len: descriptor.len() };
            if descriptor.is_write_only() {
                chain.writable.push(buffer);
            } else if chain.writable.buffers.is_empty() {
                chain.readable.push(buffer);
            } else {
                return None;
            }
        }
        Some(chain)
    }

    /// The index of its first descriptor, which no other chain in flight of its queue has.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that are left to read.
    pub fn readable(&self) -> u32 {
        self.readable.left
    }

    /// Bytes that are left to write.
    pub fn writable(&self) -> u32 {
        self.writable.left
    }

    /// Fills all of `data` with what comes next. On an error its contents are unspecified.
    pub fn read(&mut self, data: &mut [u8]) -> Result<(), ChainError> {
        let Self { ram, readable, .. } = self;
        readable.pieces(data.len(), |piece, at| {
            ram.read(piece.gpa, &mut data[at..at + piece.len as usize]).map_err(|_| ChainError::Wild)
        })
    }

    /// The next `N` bytes.
    pub fn read_array<const N: usize>(&mut self) -> Result<[u8; N], ChainError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes all of `data` behind what has been written.
    pub fn write(&mut self, data: &[u8]) -> Result<(), ChainError> {
        let Self { ram, writable, .. } = self;
        writable.pieces(data.len(), |piece, at| {
            ram.write(piece.gpa, &data[at..at + piece.len as usize]).map_err(|_| ChainError::Wild)
        })
    }

    /// The rest of the current buffer that could be written, whatever it is for; not before all of it was taken is there
    /// a next.
    pub fn next_writable(&mut self) -> Option<Buffer> {
        self.writable.take(u32::MAX)
    }

    /// Leaves out `len` bytes that could be read.
    pub fn skip_readable(&mut self, len: usize) -> Result<(), ChainError> {
        self.readable.pieces(len, |_, _| Ok(()))
    }

    /// Leaves out `len` bytes that could be written; they stay as they are.
    pub fn skip_writable(&mut self, len: usize) -> Result<(), ChainError> {
        self.writable.pieces(len, |_, _| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{Driver, RAM};

    #[test]
    fn reads_and_writes_cross_buffers() {
        let mut driver = Driver::new(8);
        driver.ram().write(0x8000, b"hello").unwrap();
        driver.ram().write(0x9000, b", world").unwrap();
        let chain = driver.offer(&[(0x8000, 5), (0x9000, 0), (0x9000, 7)], &[(0xa000, 3), (0xb000, 9)]);
        let mut queue = driver.queue();
        let mut chain = { queue.pop().filter(|it| it.head() == chain).unwrap() };
        assert_eq!((chain.readable(), chain.writable()), (12, 12));
        assert_eq!(&chain.read_array::<7>().unwrap(), b"hello, ");
        chain.skip_readable(1).unwrap();
        assert_eq!(chain.read(&mut [0; 5]), Err(ChainError::Short));
        assert_eq!(&chain.read_array::<4>().unwrap(), b"orld");
        chain.write(b"ab").unwrap();
        chain.skip_writable(2).unwrap();
        chain.write(b"cd").unwrap();
        assert_eq!((chain.readable(), chain.writable()), (0, 6));
        assert_eq!(chain.write(&[0; 7]), Err(ChainError::Short));
        let mut written = [0; 4];
        driver.ram().read(0xa000, &mut written[..3]).unwrap();
        assert_eq!(written, *b"ab\0\0");
        driver.ram().read(0xb000, &mut written).unwrap();
        assert_eq!(written, *b"\0cd\0");
    }

    #[test]
    fn buffers_that_are_not_there_are_errors() {
        let mut driver = Driver::new(8);
        driver.offer(&[(RAM - 2, 4)], &[(u64::MAX - 1, 4), (0x8000, 4)]);
        let mut chain = driver.queue().pop().unwrap();
        assert_eq!(chain.read(&mut [0; 4]), Err(ChainError::Wild));
        assert_eq!(chain.write(&[1; 4]), Err(ChainError::Wild));
        assert_eq!(chain.write(&[1; 4]), Ok(()));
    }
}
