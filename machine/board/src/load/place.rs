//! Finds room in guest memory, and refuses two things in one place.

use std::ops::Range;

use super::LoadError;
use crate::map::MemoryMap;

/// What has been given away of the guest's usable memory.
pub(super) struct Placer {
    usable: Vec<Range<u64>>,
    memory_end: u64,
    taken: Vec<(Range<u64>, &'static str)>,
}

impl Placer {
    pub(super) fn new(map: &MemoryMap) -> Self {
        Self { usable: map.usable(), memory_end: map.low_end(), taken: Vec::new() }
    }

    fn conflict(&self, range: &Range<u64>) -> Option<&(Range<u64>, &'static str)> {
        self.taken.iter().find(|(taken, _)| taken.start < range.end && range.start < taken.end)
    }

    /// Whether [`Self::claim`] would succeed.
    pub(super) fn is_free(&self, start: u64, len: u64) -> bool {
        start.checked_add(len).is_some_and(|end| {
            self.usable.iter().any(|ram| ram.start <= start && end <= ram.end)
                && self.conflict(&(start..end)).is_none()
        })
    }

    /// Takes a fixed range.
    pub(super) fn claim(&mut self, what: &'static str, start: u64, len: u64) -> Result<(), LoadError> {
        let end = start.saturating_add(len);
        let inside = self.usable.iter().any(|ram| ram.start <= start && end <= ram.end);
        if !inside || start.checked_add(len).is_none() {
            return Err(LoadError::OutsideMemory { what, start, end, memory_end: self.memory_end });
        }
        let range = start..end;
        if let Some((taken, other)) = self.conflict(&range) {
            return Err(LoadError::Overlap { what, other, at: taken.start.max(start) });
        }
        self.taken.push((range, what));
        Ok(())
    }

    /// Takes `len` bytes as high as possible, ending at or below `limit`. `align` is a power of two.
    pub(super) fn below(
        &mut self,
        what: &'static str,
        len: u64,
        align: u64,
        limit: u64,
    ) -> Result<u64, LoadError> {
        // An empty thing needs an address of its own, too.
        let room = len.max(1);
        for ram in self.usable.iter().rev() {
            let mut end = ram.end.min(limit);
            while let Some(start) = end.checked_sub(room).map(|start| start & !(align - 1)) {
                if start < ram.start {
                    break;
                }
                let range = start..start + room;
                match self.conflict(&range) {
                    Some((taken, _)) => end = taken.start,
                    None => {
                        self.taken.push((range, what));
                        return Ok(start);
                    }
                }
            }
        }
        Err(LoadError::NoRoom { what, size: len, limit: limit.min(self.memory_end) })
    }

    /// [`Self::below`] in the first 640 KiB, or anywhere below 4 GiB if that is full.
    pub(super) fn low(&mut self, what: &'static str, len: u64) -> Result<u64, LoadError> {
        self.below(what, len, 4096, crate::map::EBDA)
            .or_else(|_| self.below(what, len, 4096, crate::map::FOUR_GIB))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{EBDA, ONE_MIB};

    fn placer() -> Placer {
        Placer::new(&MemoryMap::new(16 << 20).unwrap())
    }

    #[test]
    fn places_high_and_around_what_is_taken() {
        let mut placer = placer();
        assert_eq!(placer.below("a", 0x1800, 4096, u64::MAX), Ok((16 << 20) - 0x2000));
        assert_eq!(placer.below("b", 0x1000, 4096, u64::MAX), Ok((16 << 20) - 0x3000));
        assert_eq!(placer.low("c", 0x400), Ok(0x9_f000));
    }

    #[test]
    fn refuses_overlaps_holes_and_wraps() {
        let mut placer = placer();
        placer.claim("kernel", ONE_MIB, 0x1000).unwrap();
        assert!(matches!(
            placer.claim("module", ONE_MIB + 0xfff, 1),
            Err(LoadError::Overlap { what: "module", other: "kernel", .. })
        ));
        for (start, len) in [(EBDA - 1, 2), (u64::MAX, 2), (16 << 20, 1), (0, u64::MAX)] {
            assert!(matches!(placer.claim("x", start, len), Err(LoadError::OutsideMemory { .. })));
            assert!(!placer.is_free(start, len));
        }
        assert!(placer.is_free(ONE_MIB + 0x1000, 0x1000));
    }

    #[test]
    fn says_when_there_is_no_room() {
        assert!(matches!(
            placer().below("initrd", 16 << 20, 4096, u64::MAX),
            Err(LoadError::NoRoom { what: "initrd", .. })
        ));
    }
}
