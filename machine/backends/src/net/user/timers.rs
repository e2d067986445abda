//! What is due when.
//!
//! A flow's deadline moves with every packet. So it stands in the flow, and the heap holds one time per flow that is
//! not later: when that comes, the flow says what is left, and is put in again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Several times as many as there are flows at once.
const CROWD: usize = 1 << 15;

/// See the module. `K` names who is to be called.
#[derive(Debug)]
pub(super) struct Timers<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

/// A flow's side of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Alarm {
    /// When the flow wants to be called.
    deadline: Option<Instant>,
    /// The time in the heap, which is not later.
    armed: Option<Instant>,
}

impl<K: Ord + Copy> Timers<K> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new() }
    }

    /// Has `key` called at `deadline`, or not at all.
    pub(super) fn set(&mut self, alarm: &mut Alarm, key: K, deadline: Option<Instant>) {
        alarm.deadline = deadline;
        if let Some(deadline) = deadline
            && alarm.armed.is_none_or(|armed| deadline < armed)
        {
            alarm.armed = Some(deadline);
            self.heap.push(Reverse((deadline, key)));
        }
    }

    /// Whether so many times of flows that are gone have gathered that it is worth looking for them: flows that come
    /// and go by the thousand leave theirs behind.
    pub(super) fn is_crowded(&self) -> bool {
        self.heap.len() > CROWD
    }

    /// Forgets the times of flows that are gone.
    pub(super) fn retain(&mut self, lives: impl Fn(K) -> bool) {
        self.heap.retain(|Reverse((_, key))| lives(*key));
    }

    /// When to look next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((when, _))| *when)
    }

    /// Takes out somebody whose time has come; [`Timers::due`] says whether it is meant.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, K)> {
        self.next().filter(|when| *when <= now)?;
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// Whether the flow that was popped for `when` is due; otherwise it is put in again if it still waits.
    pub(super) fn due(&mut self, alarm: &mut Alarm, key: K, when: Instant, now: Instant) -> bool {
        if alarm.armed != Some(when) {
            // An earlier time went in after this one.
            return false;
        }
        alarm.armed = None;
        match alarm.deadline {
            Some(deadline) if deadline <= now => {
                alarm.deadline = None;
                true
            }
            later => {
                self.set(alarm, key, later);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_deadline_that_moves_stays_one_entry() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::new();
        let mut alarm = Alarm::default();
        for seconds in 1..100 {
            timers.set(&mut alarm, 'a', Some(at(seconds)));
        }
        assert_eq!((timers.heap.len(), timers.next()), (1, Some(at(1))));
        assert_eq!(timers.pop(at(0)), None);
        let (when, _) = timers.pop(at(1)).unwrap();
        assert!(!timers.due(&mut alarm, 'a', when, at(1)));
        assert_eq!(timers.next(), Some(at(99)));
        // Earlier again: the later entry is stale.
        timers.set(&mut alarm, 'a', Some(at(5)));
        let (when, _) = timers.pop(at(100)).unwrap();
        assert!(timers.due(&mut alarm, 'a', when, at(100)));
        let (when, _) = timers.pop(at(100)).unwrap();
        assert!(!timers.due(&mut alarm, 'a', when, at(100)));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_crowd_is_thinned_out() {
        let now = Instant::now();
        let mut timers = Timers::new();
        for index in 0..=CROWD {
            assert!(!timers.is_crowded());
            timers.set(&mut Alarm::default(), index, Some(now));
        }
        assert!(timers.is_crowded());
        timers.retain(|index| index < 5);
        assert_eq!(timers.heap.len(), 5);
    }

    #[test]
    fn who_no_longer_waits_is_not_called() {
        let now = Instant::now();
        let mut timers = Timers::new();
        let mut alarm = Alarm::default();
        timers.set(&mut alarm, 'a', Some(now));
        timers.set(&mut alarm, 'a', None);
        let (when, _) = timers.pop(now).unwrap();
        assert!(!timers.due(&mut alarm, 'a', when, now));
        assert_eq!(timers.pop(now), None);
    }
}
