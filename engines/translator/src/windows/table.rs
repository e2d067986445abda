//! The pages of a window that one page table of the guest's maps, or the one large page that it is.

use x86::paging::{PageEntry, entry_of_page};

use super::{LARGE, PAGE, Tables};

const ENTRIES: usize = 512;
/// So many entries are compared one by one, which touches less memory than all of a table.
const FEW: usize = 64;
/// Bits 51:12 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What is mapped of 2 MiB.
#[derive(Debug)]
pub struct Table {
    /// Linear address of the first page.
    start: u64,
    /// Guest-physical address of the table, and what the tables above it allow. For a large page, those of the table that its
    /// entry is in.
    at: u64,
    rights: u64,
    /// The guest's table: of pages that are mapped the entries by which they are, so that one that is the same as a whole has
    /// changed none of them; of the others as they were when it was last compared. That of a large page is the first.
    entries: Box<[u64; ENTRIES]>,
    large: bool,
    /// Which of them are mapped.
    mapped: Bits,
    /// Pages of 4 KiB that are mapped for writing.
    writable: Bits,
}

/// A bit for each entry.
#[derive(Clone, Copy, Debug, Default)]
struct Bits([u64; ENTRIES / 64]);

impl Bits {
    fn get(&self, n: usize) -> bool {
        self.0[n / 64] >> (n % 64) & 1 != 0
    }

    fn set(&mut self, n: usize, value: bool) {
        self.0[n / 64] = self.0[n / 64] & !(1 << (n % 64)) | u64::from(value) << (n % 64);
    }

    fn set_all(&mut self, value: bool) {
        self.0 = [if value { u64::MAX } else { 0 }; ENTRIES / 64];
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Those that are set.
    fn ones(&self) -> impl Iterator<Item = usize> + '_ {
        let words = (0..).step_by(64).zip(self.0);
        words.flat_map(|(first, word)| {
            let rest = std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)));
            rest.take_while(|word| *word != 0).map(move |word| first + word.trailing_zeros() as usize)
        })
    }
}

/// What was mapped.
pub struct Piece {
    /// Linear address.
    pub linear: u64,
    /// Bytes.
    pub bytes: u64,
    /// Guest-physical address.
    pub physical: u64,
}

impl Table {
    /// Nothing is mapped yet of the 2 MiB around an address.
    pub fn new(linear: u64) -> Self {
        let start = linear & !(LARGE - 1);
        let (mapped, writable) = (Bits::default(), Bits::default());
        Self { start, at: 0, rights: 0, entries: Box::new([0; ENTRIES]), large: false, mapped, writable }
    }

    /// Whether it is about this address.
    pub fn holds(&self, linear: u64) -> bool {
        self.start == linear & !(LARGE - 1)
    }

    /// Where the entry of this address is.
    fn place(&self, linear: u64) -> usize {
        if self.large { 0 } else { index(linear) }
    }

    /// Whether a page is mapped, and if so for writing.
    pub fn mapped(&self, linear: u64) -> Option<bool> {
        self.mapped.get(self.place(linear)).then(|| self.writable.get(index(linear)))
    }

    /// Whether a page that is mapped is by this very entry.
    pub fn has(&self, linear: u64, entry: PageEntry) -> bool {
        self.is_of(entry) && self.entries[self.place(linear)] == entry.value
    }

    /// Whether a page of 4 KiB that is mapped is by an entry that says the same but for rights and marks.
    pub fn differs_in_rights(&self, linear: u64, entry: PageEntry) -> bool {
        self.is_of(entry) && !self.large && (self.entries[index(linear)] ^ entry.value) & ADDRESS == 0
    }

    /// Whether what is mapped rests on the table in which this entry is, with the rights that it has now.
    pub fn is_of(&self, entry: PageEntry) -> bool {
        (self.at, self.rights, self.large) == (entry.address & !0xfff, entry.rights, entry.large)
    }

    /// A page is mapped by this entry, after all that it overlaps has been taken.
    pub fn set(&mut self, linear: u64, entry: PageEntry, writable: bool) {
        self.large = entry.large;
        (self.at, self.rights) = (entry.address & !0xfff, entry.rights);
        let n = self.place(linear);
        self.mapped.set(n, true);
        self.entries[n] = entry.value;
        match self.large {
            true => self.writable.set_all(writable),
            false => self.set_writable(linear, writable),
        }
    }

    /// Whether a page is mapped for writing.
    pub fn set_writable(&mut self, linear: u64, writable: bool) {
        self.writable.set(index(linear), writable);
    }

    /// A page is not mapped any more; what was.
    pub fn take(&mut self, linear: u64) -> Option<Piece> {
        let n = self.place(linear);
        let was_mapped = self.mapped.get(n);
        self.mapped.set(n, false);
        let (mask, bytes) = if self.large { (LARGE - 1, LARGE) } else { (PAGE - 1, PAGE) };
        let physical = self.entries[n] & ADDRESS & !mask;
        was_mapped.then_some(Piece { linear: linear & !mask, bytes, physical })
    }

    /// Linear addresses of what is mapped.
    pub fn all(&self) -> impl Iterator<Item = u64> + '_ {
        self.mapped.ones().map(|n| self.start + n as u64 * PAGE)
    }

    /// How many pages are mapped.
    pub fn len(&self) -> usize {
        self.mapped.count()
    }

    /// Linear addresses of what the guest's tables do not have as it is mapped.
    pub fn stale(&mut self, tables: Tables) -> Vec<u64> {
        let Some(first) = self.all().next() else { return Vec::new() };
        let now = entry_of_page(tables.paging, tables.guest, first).filter(|now| self.is_of(*now));
        let Some(now) = now else { return self.all().collect() };
        if self.large {
            return if now.value == self.entries[0] { Vec::new() } else { vec![first] };
        }
        if self.len() <= FEW {
            let entry = |n: usize| tables.guest.ram.read_u64(self.at + 8 * n as u64);
            let stale = self.mapped.ones().filter(|n| entry(*n) != Ok(self.entries[*n]));
            return stale.map(|n| self.start + n as u64 * PAGE).collect();
        }
        let mut bytes = [0; 8 * ENTRIES];
        if tables.guest.ram.read(self.at, &mut bytes).is_err() {
            return self.all().collect();
        }
        let (words, _) = bytes.as_chunks();
        let changes = |n: usize| u64::from_le_bytes(words[n]) ^ self.entries[n];
        // All are compared before any is looked at: most times they are the same.
        if (0..ENTRIES).fold(0, |differ, n| differ | changes(n)) == 0 {
            return Vec::new();
        }
        let mut stale = Vec::new();
        for (n, word) in words.iter().enumerate() {
            let now = u64::from_le_bytes(*word);
            if !self.mapped.get(n) {
                self.entries[n] = now;
            } else if now != self.entries[n] {
                stale.push(self.start + n as u64 * PAGE);
            }
        }
        stale
    }
}

fn index(linear: u64) -> usize {
    (linear >> 12) as usize % ENTRIES
}
