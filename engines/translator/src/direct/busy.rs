//! Who is found running when somebody looks, which a kick has happen, most times of a timer: whether it is busy with itself.

/// How often in a row an address space has to be found running, and for how many cycles: most programs are short, and most of
/// what they do is done by the kernel.
const FOUND: u32 = 3;
const BUSY: u64 = 1 << 24;
/// Cycles between two looks that count. A timer's interrupt has others follow, which find the kernel at work on that.
const BETWEEN: u64 = 1 << 21;
/// Cycles between two entries to the kernel that let one look be enough: translated, those of a burst that is worth its way.
const FAR: u64 = 1 << 16;
/// And that leave no doubt, whatever its program has done before.
const VERY_FAR: u64 = 1 << 20;

/// What a look says of the address space that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Nothing.
    Hardly,
    /// It is busy with itself, as it seems.
    Likely,
    /// It does nothing else.
    Surely,
}

/// Which address space has been found running the last times. Times are of the time-stamp counter.
#[derive(Debug, Default)]
pub struct Found {
    cr3: Option<u64>,
    times: u32,
    since: u64,
    last: u64,
    /// How often ring 3 had entered the kernel then.
    entries: u64,
}

impl Found {
    /// Ring 3 of this address space has been found running, or none, and has entered the kernel so often: whether it is busy.
    pub fn find(&mut self, cr3: Option<u64>, entries: u64, now: u64) -> Busy {
        let passed = now.wrapping_sub(self.last);
        if passed < BETWEEN {
            return Busy::Hardly;
        }
        // Whatever it was that ran since the last look, if that was not long ago.
        let entered = entries.wrapping_sub(self.entries);
        let is_far = |distance| passed < BUSY && entered < passed / distance;
        let is_found_again = self.cr3 == cr3;
        if cr3.is_none() || !is_found_again {
            (self.cr3, self.times, self.since) = (cr3, 0, now);
        }
        self.times += 1;
        (self.last, self.entries) = (now, entries);
        let is_often = self.times >= FOUND && now.wrapping_sub(self.since) >= BUSY;
        match cr3 {
            None => Busy::Hardly,
            Some(_) if is_found_again && is_far(VERY_FAR) => Busy::Surely,
            Some(_) if is_far(FAR) || is_often => Busy::Likely,
            Some(_) => Busy::Hardly,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many entries as keep a look from being enough.
    fn often(now: u64) -> u64 {
        now / FAR * 2
    }

    fn look(found: &mut Found, cr3: u64, now: u64) -> bool {
        found.find((cr3 != 0).then_some(cr3), often(now), now) == Busy::Likely
    }

    #[test]
    fn who_is_found_three_times_in_a_row_is_busy() {
        let mut found = Found::default();
        assert!(!look(&mut found, 1, BUSY) && !look(&mut found, 1, 2 * BUSY));
        assert!(!look(&mut found, 0, 3 * BUSY), "the kernel");
        assert!(!look(&mut found, 1, 4 * BUSY) && !look(&mut found, 2, 5 * BUSY));
        assert!(!look(&mut found, 2, 6 * BUSY - 1) && look(&mut found, 2, 6 * BUSY + BETWEEN));
        assert!((0..BUSY / BETWEEN).all(|n| !look(&mut found, 3, 9 * BUSY + n * BETWEEN)), "not in no time");
    }

    #[test]
    fn what_follows_on_a_look_does_not_count() {
        let mut found = Found::default();
        let mut looks = (1..).map(|n| {
            let busy = look(&mut found, 1, n * BUSY);
            assert!(!look(&mut found, 0, n * BUSY + BETWEEN - 1));
            busy
        });
        assert_eq!(looks.position(|busy| busy), Some(FOUND as usize - 1));
    }

    #[test]
    fn who_seldom_enters_the_kernel_is_busy_at_once() {
        let mut found = Found::default();
        let mut find = |cr3, entries, when: u64| found.find(cr3, entries, 100 * BUSY + when);
        assert_eq!(find(Some(1), 0, 0), Busy::Hardly, "nobody has looked before");
        assert_eq!(find(Some(2), 0, BETWEEN), Busy::Likely, "another may have run for most of it");
        assert_eq!(find(Some(2), 30, 2 * BETWEEN), Busy::Likely);
        assert_eq!(find(Some(2), 31, 3 * BETWEEN), Busy::Surely);
        assert_eq!(find(Some(2), 71, 4 * BETWEEN), Busy::Hardly);
        assert_eq!(find(None, 71, 5 * BETWEEN), Busy::Hardly);
        assert_eq!(find(Some(1), 71, BUSY + 5 * BETWEEN), Busy::Hardly, "who knows who ran meanwhile");
    }
}
