//! The names that a Linux kernel carries in its read-only data (kernel/kallsyms.c, scripts/kallsyms.c).
//!
//! Nothing tells where they are; they are known by their shape. Names are compressed by 256 tokens, whose table
//! holds the ten digits one after the other; behind it stands the index of its tokens, which tells whether it is
//! one. Before it stand, in this order, how many names there are, the names, a marker for each 256th, and in some
//! versions the names' order by alphabet, three bytes each. Where the addresses stand depends on the version, too:
//! before all this up to Linux 6.3, behind the token index since.
//!
//! Not understood: 32-bit kernels.

use crate::Symbols;

/// Memory side by side that belongs to a kernel's data.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Linear address of the first byte.
    pub address: u64,
    /// What stands there; it begins at a multiple of 8.
    pub bytes: Vec<u8>,
}

/// Why there are no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KallsymsError {
    /// No token table.
    #[error("the kernel carries no table of symbols, or not in a form that is known here")]
    NoTokens,
    /// Something else is missing.
    #[error(
        "the kernel's table of symbols is not in a form that is known here: its {0} are not where they should be"
    )]
    Unknown(&'static str),
    /// It contradicts itself.
    #[error("the kernel's table of symbols is damaged")]
    Damaged,
}

/// Tokens 30h to 39h: a digit stands for itself.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
const TOKENS: usize = 256;
/// Names between two markers.
const GROUP: usize = 256;
/// More names than any kernel has.
const MOST_NAMES: usize = 1 << 20;
/// The kernel's own limit is 512.
const LONGEST_NAME: usize = 1024;
/// Bytes of all names, compressed, with their markers: a few MiB in fact.
const LONGEST_NAMES: usize = 32 << 20;
/// A kernel's half of the address space.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

/// The functions that a kernel names, at the addresses it runs at.
///
/// # Errors
/// If no piece holds a table that is whole.
pub fn find(pieces: &[Piece]) -> Result<Symbols, KallsymsError> {
    let mut reason = KallsymsError::NoTokens;
    for piece in pieces {
        let mut from = 0;
        while let Some(at) = position(&piece.bytes[from..], DIGITS) {
            match Tables::around(&piece.bytes, from + at).and_then(|tables| tables.symbols()) {
                Ok(symbols) => return Ok(symbols),
                Err(KallsymsError::NoTokens) => {}
                Err(other) => reason = other,
            }
            from += at + 1;
        }
    }
    Err(reason)
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = needle[0];
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| *byte == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Where the tables stand in a piece, as offsets.
struct Tables<'a> {
    bytes: &'a [u8],
    tokens: usize,
    index: usize,
    names: usize,
    count: usize,
    /// First of the addresses, and what they are relative to.
    offsets: usize,
    base: u64,
}

impl<'a> Tables<'a> {
    /// Those around the digits of a token table.
    fn around(bytes: &'a [u8], digits: usize) -> Result<Self, KallsymsError> {
        let (tokens, index) = tokens(bytes, digits).ok_or(KallsymsError::NoTokens)?;
        let (names, count) = names(bytes, tokens).ok_or(KallsymsError::Unknown("names"))?;
        let before = || {
            let base = names.checked_sub(16)?;
            Some((base.checked_sub((4 * count).next_multiple_of(8))?, u64_at(bytes, base)?))
        };
        let behind = || {
            let offsets = (index + 2 * TOKENS).next_multiple_of(8);
            Some((offsets, u64_at(bytes, offsets.checked_add((4 * count).next_multiple_of(8))?)?))
        };
        let fits = |place: &(usize, u64)| {
            place.1 >= KERNEL_HALF && place.1.is_multiple_of(4096) && bytes.len() >= place.0 + 4 * count
        };
        let place = before().filter(fits).or_else(|| behind().filter(fits));
        let (offsets, base) = place.ok_or(KallsymsError::Unknown("addresses"))?;
        Ok(Self { bytes, tokens, index, names, count, offsets, base })
    }

    fn symbols(&self) -> Result<Symbols, KallsymsError> {
        let offset = |n: usize| u32_at(self.bytes, self.offsets + 4 * n).ok_or(KallsymsError::Damaged);
        // With CONFIG_KALLSYMS_ABSOLUTE_PERCPU what is not negative is absolute, and code counts down from -1.
        let mut negative = 0;
        for n in 0..self.count {
            negative += usize::from((offset(n)? as i32) < 0);
        }
        let counts_down = negative > self.count / 2;
        let mut list = Vec::new();
        let mut at = self.names;
        let mut name = Vec::new();
        for n in 0..self.count {
            at = self.expand(at, &mut name).ok_or(KallsymsError::Damaged)?;
            let offset = offset(n)?;
            let address = match (counts_down, offset as i32) {
                (false, _) => self.base.wrapping_add(offset.into()),
                (true, down @ ..0) => self.base.wrapping_add(u64::from((-1 - down) as u32)),
                (true, _) => continue,
            };
            let [kind, rest @ ..] = &name[..] else { return Err(KallsymsError::Damaged) };
            if matches!(kind, b't' | b'T' | b'w' | b'W') && address >= KERNEL_HALF {
                list.push((address, String::from_utf8_lossy(rest).into_owned()));
            }
        }
        Ok(Symbols::new(list))
    }

    /// Expands the name at an offset, its kind first, and gives the offset of the next.
    fn expand(&self, at: usize, name: &mut Vec<u8>) -> Option<usize> {
        let (start, end) = entry(self.bytes, at)?;
        name.clear();
        for &token in self.bytes.get(start..end)? {
            let text = self.tokens + usize::from(u16_at(self.bytes, self.index + 2 * usize::from(token))?);
            let text = self.bytes.get(text..)?;
            name.extend(text.iter().take(LONGEST_NAME).take_while(|byte| **byte != 0));
            if name.len() > LONGEST_NAME {
                return None;
            }
        }
        Some(end)
    }
}

/// Begin and end of the tokens of the name at an offset: their number stands before them, in two bytes if there are
/// more than 127.
fn entry(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let first = usize::from(*bytes.get(at)?);
    let (start, len) = match first {
        0 => return None,
        0x80.. => (at + 2, (first & 0x7f) | usize::from(*bytes.get(at + 1)?) << 7),
        _ => (at + 1, first),
    };
    Some((start, start.checked_add(len)?))
}

/// Where the token table and its index begin.
fn tokens(bytes: &[u8], digits: usize) -> Option<(usize, usize)> {
    const FIRST_DIGIT: usize = 0x30;
    let mut end = digits;
    for _ in FIRST_DIGIT..TOKENS {
        // A token is a few letters.
        let window = bytes.get(end..)?.iter().take(LONGEST_NAME);
        end += window.clone().position(|byte| *byte == 0)? + 1;
    }
    for index in [end.next_multiple_of(8), end.next_multiple_of(4)] {
        let at = |n: usize| u16_at(bytes, index + 2 * n).map(usize::from);
        let start = digits.checked_sub(at(FIRST_DIGIT)?)?;
        let good = at(0) == Some(0)
            && (1..TOKENS).all(|n| {
                let (Some(before), Some(here)) = (at(n - 1), at(n)) else { return false };
                before < here && start + here < end && bytes[start + here - 1] == 0
            });
        if good {
            return Some((start, index));
        }
    }
    None
}

/// Where the names begin, and how many there are, given what stands behind them and their markers. How many decides
/// how long the markers are, so each place where the number may stand is tried.
fn names(bytes: &[u8], tokens: usize) -> Option<(usize, usize)> {
    let latest = tokens.checked_sub(16)? & !7;
    let earliest = latest.saturating_sub(LONGEST_NAMES).next_multiple_of(8);
    (earliest..=latest).rev().step_by(8).find_map(|at| {
        // A number of four bytes, and a gap.
        let count =
            usize::try_from(u64_at(bytes, at)?).ok().filter(|count| (1..=MOST_NAMES).contains(count))?;
        let sequence = (3 * count).next_multiple_of(8);
        let fits = [0, sequence].into_iter().any(|between| {
            tokens.checked_sub(between).and_then(|behind| is_marked(bytes, at + 8, count, behind)).is_some()
        });
        fits.then_some((at + 8, count))
    })
}

/// Whether so many names begin here whose markers end there.
fn is_marked(bytes: &[u8], names: usize, count: usize, behind: usize) -> Option<()> {
    let groups = count.div_ceil(GROUP);
    let markers = behind.checked_sub((4 * groups).next_multiple_of(8)).filter(|markers| *markers > names)?;
    let marker = |n: usize| u32_at(bytes, markers + 4 * n);
    if marker(0)? != 0 || (1..groups).any(|n| marker(n) <= marker(n - 1)) {
        return None;
    }
    let mut at = names.checked_add(marker(groups - 1)? as usize)?;
    for _ in (groups - 1) * GROUP..count {
        at = entry(bytes, at)?.1;
        if at > markers {
            return None;
        }
    }
    (at.next_multiple_of(8) == markers).then_some(())
}

#[cfg(test)]
#[path = "kallsyms_tests.rs"]
mod tests;
