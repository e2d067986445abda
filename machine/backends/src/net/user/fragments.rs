//! Putting together what the guest sent in pieces (RFC 791, RFC 8200 section 4.5).
//!
//! Little is kept, and for a short time: a guest sends fragments only of datagrams beyond its MTU. Pieces that
//! overlap drop their datagram, as RFC 5722 wants it for IPv6; honest senders have none.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How many datagrams are in the making at once.
const MOST: usize = 16;
/// How many pieces one may have: a datagram of 64 KiB at the smallest MTU of IPv4 that Linux admits.
const PIECES: usize = 128;
/// RFC 8200 allows a minute; what takes so long in a machine is lost.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest payload.
const LONGEST: usize = 65_535;

/// What pieces of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub ident: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    datagrams: Vec<Datagram>,
}

#[derive(Debug)]
struct Datagram {
    name: Name,
    since: Instant,
    bytes: Vec<u8>,
    /// Which parts are there, in order.
    parts: Vec<(usize, usize)>,
    /// Known once the last piece is there.
    len: Option<usize>,
}

impl Fragments {
    /// Takes a piece; returns the payload if it is whole now.
    pub(super) fn add(
        &mut self,
        name: Name,
        offset: usize,
        more: bool,
        piece: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let end = offset + piece.len();
        // All pieces but the last are of whole units.
        if end > LONGEST || piece.is_empty() || (more && !piece.len().is_multiple_of(8)) {
            return None;
        }
        self.datagrams.retain(|datagram| now < datagram.since + PATIENCE);
        let index = match self.datagrams.iter().position(|datagram| datagram.name == name) {
            Some(index) => index,
            None => {
                if self.datagrams.len() >= MOST {
                    // In order of age.
                    self.datagrams.remove(0);
                }
                let bytes = Vec::new();
                self.datagrams.push(Datagram { name, since: now, bytes, parts: Vec::new(), len: None });
                self.datagrams.len() - 1
            }
        };
        match self.datagrams[index].add(offset, end, more, piece) {
            Ok(false) => None,
            Ok(true) => Some(self.datagrams.remove(index).bytes),
            Err(Overlap) => {
                self.datagrams.remove(index);
                None
            }
        }
    }
}

/// Pieces contradict each other, or are too many.
struct Overlap;

impl Datagram {
    /// Whether it is whole with this piece.
    fn add(&mut self, offset: usize, end: usize, more: bool, piece: &[u8]) -> Result<bool, Overlap> {
        let place = self.parts.partition_point(|(start, _)| *start < offset);
        let clear = place == 0 || self.parts[place - 1].1 <= offset;
        let clear_behind = self.parts.get(place).is_none_or(|(start, _)| end <= *start);
        let known = self.len.or((!more).then_some(end));
        let within =
            known.is_none_or(|len| end <= len && self.parts.last().is_none_or(|(_, last)| *last <= len));
        if !clear || !clear_behind || !within || (!more && self.len.is_some()) || self.parts.len() >= PIECES {
            return Err(Overlap);
        }
        self.len = known;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(piece);
        self.parts.insert(place, (offset, end));
        // No two overlap and all are within, so lengths alone tell.
        let there: usize = self.parts.iter().map(|(start, end)| end - start).sum();
        Ok(self.len == Some(there))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(ident: u32) -> Name {
        let (source, destination) = ([10, 0, 2, 15].into(), [192, 0, 2, 1].into());
        Name { source, destination, protocol: 17, ident }
    }

    #[test]
    fn pieces_come_together_in_any_order() {
        let text: Vec<u8> = (0..100).collect();
        let pieces = [(0, 40), (40, 80), (80, 100)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut fragments = Fragments::default();
            let mut whole = None;
            for index in order {
                let (start, end): (usize, usize) = pieces[index];
                assert_eq!(whole, None);
                whole = fragments.add(name(1), start, end < 100, &text[start..end], Instant::now());
            }
            assert_eq!(whole.as_ref(), Some(&text));
            assert!(fragments.datagrams.is_empty());
        }
    }

    #[test]
    fn contradictions_drop_the_datagram() {
        let now = Instant::now();
        for second in [(0, 8, true), (8, 24, true), (8, 16, false), (24, 32, false), (0, 48, true)] {
            let mut fragments = Fragments::default();
            assert_eq!(fragments.add(name(1), 16, true, &[1; 16], now), None);
            assert_eq!(fragments.add(name(1), 8, true, &[1; 8], now), None);
            let (start, end, more) = second;
            let whole = fragments.add(name(1), start, more, &vec![2; end - start], now);
            assert_eq!(whole, None, "{second:?}");
            let harmless = matches!(second, (0, 8, true));
            assert_eq!(fragments.datagrams.len(), usize::from(harmless), "{second:?}");
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let now = Instant::now();
        let mut fragments = Fragments::default();
        for ident in 0..1000 {
            assert_eq!(fragments.add(name(ident), 8, true, &[0; 8], now), None);
        }
        assert_eq!(fragments.datagrams.len(), MOST);
        // Beyond the longest datagram, empty, or not of whole units.
        for (offset, piece, more) in [(65_528, 8, true), (8, 0, true), (8, 7, true)] {
            assert_eq!(fragments.add(name(5000), offset, more, &vec![0; piece], now), None);
        }
        assert!(fragments.datagrams.iter().all(|datagram| datagram.name.ident < 1000));
        fragments.add(name(1001), 8, true, &[0; 8], now + PATIENCE);
        assert_eq!(fragments.datagrams.len(), 1);
        for index in 0..200 {
            fragments.add(name(1001), index * 16, true, &[0; 8], now + PATIENCE);
        }
        assert!(fragments.datagrams.iter().all(|datagram| datagram.parts.len() <= PIECES));
    }
}
