//! Devices among the accesses of stack, string and gather instructions.
//!
//! Such an instruction is left for each access that a device has to answer, and done again from its start with
//! the answers so far; what it writes to RAM in the meantime it writes the same again. An element of a repeated
//! string instruction or of a gather is an instruction of its own here.

use vcpu::Mmio;

use super::Slow;
use super::linear::{Access, Target};
use crate::engine::Translator;

/// What devices have said to the instruction that is being done.
#[derive(Debug, Default)]
pub struct Answers {
    given: Vec<u64>,
    taken: usize,
}

impl Answers {
    /// Another instruction, or element, begins.
    pub fn forget(&mut self) {
        self.given.clear();
        self.taken = 0;
    }

    /// One more; the instruction begins again.
    pub fn add(&mut self, value: u64) {
        self.given.push(value);
        self.taken = 0;
    }

    fn take(&mut self) -> Option<u64> {
        let answer = self.given.get(self.taken).copied()?;
        self.taken += 1;
        Some(answer)
    }

    fn or_ask(&mut self, mmio: Mmio) -> Result<u64, Slow> {
        self.take().ok_or(Slow::Ask(mmio))
    }
}

impl Translator {
    /// Reads up to 8 bytes at a linear address.
    pub(super) fn read_linear(&mut self, access: Access) -> Result<u64, Slow> {
        let pages = self.pages(access).map_err(Slow::Fault)?;
        let mut bytes = [0; 8];
        for part in parts(access, pages) {
            let Part { at, len, target } = part;
            if target.host.is_some() {
                if self.guest.ram.read(target.physical, &mut bytes[at..at + len]).is_err() {
                    return Err(Slow::Unsupported);
                }
                continue;
            }
            for (gpa, at, size) in part.device_accesses() {
                let value = self.answers.or_ask(Mmio { gpa, size: size as u8, write: None })?;
                bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            }
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes up to 8 bytes at a linear address; both pages are checked before either is written.
    pub(super) fn write_linear(&mut self, access: Access, value: u64) -> Result<(), Slow> {
        let pages = self.pages(access).map_err(Slow::Fault)?;
        let bytes = value.to_le_bytes();
        for part in parts(access, pages) {
            let Part { at, len, target } = part;
            if target.host.is_some() {
                self.write_ram(target.physical, &bytes[at..at + len]);
                continue;
            }
            for (gpa, at, size) in part.device_accesses() {
                let mut written = [0; 8];
                written[..size].copy_from_slice(&bytes[at..at + size]);
                let write = Some(u64::from_le_bytes(written));
                self.answers.or_ask(Mmio { gpa, size: size as u8, write })?;
            }
        }
        Ok(())
    }
}

/// What of an access lies in one page.
#[derive(Clone, Copy)]
struct Part {
    /// Offset in the access.
    at: usize,
    len: usize,
    target: Target,
}

impl Part {
    /// Address, offset in the whole access and size of the accesses a device sees: powers of two.
    fn device_accesses(self) -> impl Iterator<Item = (u64, usize, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let left = self.len.checked_sub(done).filter(|left| *left > 0)?;
            let size = 1 << left.ilog2();
            let access = (self.target.physical + done as u64, self.at + done, size);
            done += size;
            Some(access)
        })
    }
}

/// The one or two parts of an access.
fn parts(access: Access, pages: [Option<Target>; 2]) -> impl Iterator<Item = Part> {
    let size = access.size as usize;
    let first = size.min(4096 - (access.linear & 0xfff) as usize);
    let places = [(0, first), (first, size - first)];
    places
        .into_iter()
        .zip(pages)
        .filter_map(|((at, len), page)| page.filter(|_| len > 0).map(|target| Part { at, len, target }))
}
