//! What the guest says of its memory (5.5.6.3).

/// Length of `struct virtio_balloon_stat`: a tag and a value, packed.
const ENTRY: usize = 10;
/// The most that is read of a buffer. There are ten tags; a driver may have more, which are left out.
pub(super) const MOST_BYTES: usize = 32 * ENTRY;

/// The guest's statistics; what its driver does not tell is not there. Counts are since the guest's boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes swapped in.
    pub swap_in: Option<u64>,
    /// Bytes swapped out.
    pub swap_out: Option<u64>,
    /// Page faults that read from a disk.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
    /// Bytes that are used for nothing.
    pub free: Option<u64>,
    /// Bytes in all.
    pub total: Option<u64>,
    /// Bytes that could be had without swapping.
    pub available: Option<u64>,
    /// Bytes of the disk cache, which could be dropped.
    pub caches: Option<u64>,
    /// Huge pages that were allocated.
    pub huge_pages: Option<u64>,
    /// Huge pages that could not be.
    pub huge_page_failures: Option<u64>,
}

impl Statistics {
    /// Reads them; an entry without a known tag, or cut off, tells nothing.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut statistics = Self::default();
        for entry in bytes.chunks_exact(ENTRY) {
            let (tag, value) = entry.split_at(2);
            let tag = u16::from_le_bytes(tag.try_into().expect("two bytes"));
            let value = u64::from_le_bytes(value.try_into().expect("eight bytes"));
            if let Some(field) = statistics.field(tag) {
                *field = Some(value);
            }
        }
        statistics
    }

    #[rustfmt::skip]
    fn field(&mut self, tag: u16) -> Option<&mut Option<u64>> {
        Some(match tag {
            0 => &mut self.swap_in,
            1 => &mut self.swap_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free,
            5 => &mut self.total,
            6 => &mut self.available,
            7 => &mut self.caches,
            8 => &mut self.huge_pages,
            9 => &mut self.huge_page_failures,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_unknown_ones_left_out() {
        let mut bytes = Vec::new();
        for (tag, value) in [(4_u16, 1_u64 << 30), (5, 2 << 30), (99, 7), (4, 3 << 30)] {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        // An entry that is cut off.
        bytes.extend([6, 0, 1]);
        let expected = Statistics { free: Some(3 << 30), total: Some(2 << 30), ..Statistics::default() };
        assert_eq!(Statistics::parse(&bytes), expected);
        assert_eq!(Statistics::parse(&[]), Statistics::default());
    }
}
