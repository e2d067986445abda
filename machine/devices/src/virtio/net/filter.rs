//! Which frames the driver wants (5.1.6.5.1, 5.1.6.5.2).

use super::Mac;

/// Addresses in each of the two tables. For a driver with more, all of that kind pass.
pub(super) const MAX_ADDRESSES: usize = 64;

/// The receive filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) promiscuous: bool,
    pub(super) all_multicast: bool,
    pub(super) all_unicast: bool,
    pub(super) no_multicast: bool,
    pub(super) no_unicast: bool,
    pub(super) no_broadcast: bool,
    /// `None` if there were too many.
    pub(super) unicast: Option<Vec<Mac>>,
    pub(super) multicast: Option<Vec<Mac>>,
}

impl Default for Filter {
    /// Everything passes until the driver says something: it may not know how to.
    fn default() -> Self {
        Self {
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast: Some(Vec::new()),
            multicast: Some(Vec::new()),
        }
    }
}

impl Filter {
    /// Whether a frame is for a card with this address.
    pub(super) fn admits(&self, frame: &[u8], own: Mac) -> bool {
        let Some(to) = frame.first_chunk::<6>() else { return false };
        let listed = |table: &Option<Vec<Mac>>| table.as_ref().is_none_or(|table| table.contains(to));
        if self.promiscuous {
            true
        } else if *to == [0xff; 6] {
            !self.no_broadcast
        } else if to[0] & 1 != 0 {
            !self.no_multicast && (self.all_multicast || listed(&self.multicast))
        } else {
            !self.no_unicast && (self.all_unicast || *to == own || listed(&self.unicast))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];
    const GROUP: Mac = [0x33, 0x33, 0, 0, 0, 1];
    const ALL: Mac = [0xff; 6];

    fn admitted(filter: &Filter) -> [bool; 4] {
        [OWN, OTHER, GROUP, ALL].map(|to| filter.admits(&to, OWN))
    }

    #[test]
    fn each_mode_admits_its_kind() {
        let quiet = Filter { promiscuous: false, ..Filter::default() };
        let with = |change: fn(&mut Filter)| {
            let mut filter = quiet.clone();
            change(&mut filter);
            admitted(&filter)
        };
        assert_eq!(admitted(&Filter::default()), [true; 4]);
        assert_eq!(with(|_| {}), [true, false, false, true]);
        assert_eq!(with(|filter| filter.all_multicast = true), [true, false, true, true]);
        assert_eq!(with(|filter| filter.all_unicast = true), [true, true, false, true]);
        assert_eq!(with(|filter| filter.no_broadcast = true), [true, false, false, false]);
        assert_eq!(with(|filter| filter.no_unicast = true), [false, false, false, true]);
        assert_eq!(with(|filter| filter.unicast = Some(vec![OTHER])), [true, true, false, true]);
        assert_eq!(with(|filter| filter.multicast = Some(vec![GROUP])), [true, false, true, true]);
        assert_eq!(with(|filter| filter.multicast = None), [true, false, true, true]);
        assert!(!Filter::default().admits(&OWN[..5], OWN));
    }
}
