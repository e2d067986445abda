//! What is seen of a VM at one moment, and what has changed from one to another.

use std::collections::HashMap;

use board::insight::{Counter, MOST_PLACES, Place, Row, Sample, Snapshot, Traced};
use serde::{Deserialize, Serialize};

/// A moment: all vCPUs, one after the other within a millisecond or so, and what was sampled since the last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Seconds since the first.
    pub at: f64,
    /// One per vCPU.
    pub vcpus: Vec<Snapshot>,
    /// What sampling saw since the moment before, by vCPU.
    pub samples: Vec<Vec<Sample>>,
}

/// What one vCPU did between two moments.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Which.
    pub vcpu: u8,
    /// Its engine.
    pub engine: String,
    /// Seconds.
    pub seconds: f64,
    /// Shares of the time: guest code and the engine, the monitor and devices, waiting.
    pub guest: f64,
    /// See above.
    pub monitor: f64,
    /// See above.
    pub idle: f64,
    /// Cycles of the time-stamp counter per second.
    pub tsc_hz: u64,
    /// Exits and deliveries by cause, the costliest first.
    pub rows: Vec<Row>,
    /// The same by place.
    pub places: Vec<Place>,
    /// How many places there are.
    pub known: u64,
    /// Events for which no place was kept.
    pub beyond: u64,
    /// Exceptions and interrupts delivered.
    pub delivered: Vec<(String, u64)>,
    /// What the engine has done.
    pub counters: Vec<(String, u64)>,
    /// What it holds.
    pub contents: Vec<(String, u64)>,
}

/// Since the machine's start.
pub fn total(now: &Snapshot) -> Change {
    // The time-stamp counter may have begun long before.
    let age = now.engine_cycles.saturating_add(now.monitor_cycles);
    change(&Snapshot { tsc: now.tsc.saturating_sub(age), ..Snapshot::default() }, now)
}

/// Between two moments. Counters that go backwards, as in a damaged recording or after the guest has reset its
/// machine, count as having begun anew.
pub fn change(before: &Snapshot, now: &Snapshot) -> Change {
    let reset = now.tsc < before.tsc || now.engine_cycles < before.engine_cycles;
    let nothing = Snapshot::default();
    let before = if reset { &nothing } else { before };
    let cycles = now.tsc.saturating_sub(before.tsc);
    let share = |part: u64| if cycles == 0 { 0.0 } else { (part as f64 / cycles as f64).clamp(0.0, 1.0) };
    let guest = share(now.engine_cycles.saturating_sub(before.engine_cycles));
    let idle = share(now.idle_cycles.saturating_sub(before.idle_cycles));
    let empty = Traced::default();
    let [old, new] = [before, now].map(|snapshot| snapshot.traced.as_ref().unwrap_or(&empty));
    Change {
        vcpu: now.vcpu,
        engine: now.engine.clone(),
        seconds: if now.tsc_hz == 0 { 0.0 } else { cycles as f64 / now.tsc_hz as f64 },
        guest,
        idle,
        monitor: (1.0 - guest - idle).max(0.0),
        tsc_hz: now.tsc_hz,
        rows: rows(&before.rows, &now.rows),
        places: places(&old.places, &new.places),
        known: new.known,
        beyond: new.beyond.saturating_sub(old.beyond),
        delivered: named(&old.delivered, &new.delivered),
        counters: named(&before.counters, &now.counters),
        contents: now.contents.clone(),
    }
}

/// All vCPUs of a machine as one; shares are of all their time.
pub fn merge(changes: &[Change]) -> Option<Change> {
    let [first, rest @ ..] = changes else { return None };
    let mut all = first.clone();
    for change in rest {
        for (sum, more) in
            [(&mut all.guest, change.guest), (&mut all.monitor, change.monitor), (&mut all.idle, change.idle)]
        {
            *sum += more;
        }
        for row in &change.rows {
            match all.rows.iter_mut().find(|known| known.cause == row.cause) {
                Some(known) => known.counter = more(known.counter, row.counter),
                None => all.rows.push(row.clone()),
            }
        }
        for place in &change.places {
            let same = |known: &&mut Place| {
                (known.rip, &known.cause, &known.what) == (place.rip, &place.cause, &place.what)
            };
            match all.places.iter_mut().find(same) {
                Some(known) => known.counter = more(known.counter, place.counter),
                None => all.places.push(place.clone()),
            }
        }
        all.known = all.known.max(change.known);
        all.beyond = all.beyond.saturating_add(change.beyond);
        for (sum, list) in [
            (&mut all.delivered, &change.delivered),
            (&mut all.counters, &change.counters),
            (&mut all.contents, &change.contents),
        ] {
            add(sum, list);
        }
    }
    let count = changes.len() as f64;
    (all.guest, all.monitor, all.idle) = (all.guest / count, all.monitor / count, all.idle / count);
    all.rows.sort_by_key(|row| std::cmp::Reverse((row.counter.cycles, row.counter.count)));
    all.places.sort_by_key(|place| std::cmp::Reverse((place.counter.cycles, place.counter.count)));
    Some(all)
}

fn more(a: Counter, b: Counter) -> Counter {
    Counter { count: a.count.saturating_add(b.count), cycles: a.cycles.saturating_add(b.cycles) }
}

fn add(sum: &mut Vec<(String, u64)>, list: &[(String, u64)]) {
    for (name, count) in list {
        match sum.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = known.saturating_add(*count),
            None => sum.push((name.clone(), *count)),
        }
    }
}

fn less(now: Counter, before: Counter) -> Counter {
    Counter {
        count: now.count.saturating_sub(before.count),
        cycles: now.cycles.saturating_sub(before.cycles),
    }
}

fn rows(before: &[Row], now: &[Row]) -> Vec<Row> {
    let old: HashMap<&str, Counter> = before.iter().map(|row| (row.cause.as_str(), row.counter)).collect();
    let since = |row: &Row| {
        let before = old.get(row.cause.as_str()).copied().unwrap_or_default();
        Row { counter: less(row.counter, before), ..row.clone() }
    };
    let mut rows: Vec<_> = now.iter().map(since).filter(|row| row.counter.count > 0).collect();
    rows.sort_by_key(|row| std::cmp::Reverse((row.counter.cycles, row.counter.count)));
    rows
}

fn places(before: &[Place], now: &[Place]) -> Vec<Place> {
    let key = |place: &Place| (place.rip, place.cause.clone(), place.what.clone());
    let old: HashMap<_, Counter> = before.iter().map(|place| (key(place), place.counter)).collect();
    let since = |place: &Place| match old.get(&key(place)) {
        Some(before) => Some(Place { counter: less(place.counter, *before), ..place.clone() }),
        // There was no room for it, so what it had come to by then is not known.
        None if before.len() >= MOST_PLACES => None,
        None => Some(place.clone()),
    };
    let mut places: Vec<_> = now.iter().filter_map(since).filter(|place| place.counter.count > 0).collect();
    places.sort_by_key(|place| std::cmp::Reverse((place.counter.cycles, place.counter.count)));
    places
}

fn named(before: &[(String, u64)], now: &[(String, u64)]) -> Vec<(String, u64)> {
    let old: HashMap<&str, u64> = before.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let since = |(name, count): &(String, u64)| {
        (name.clone(), count.saturating_sub(old.get(name.as_str()).copied().unwrap_or(0)))
    };
    now.iter().map(since).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(tsc: u64, engine: u64, count: u64) -> Snapshot {
        let counter = Counter { count, cycles: count * 100 };
        Snapshot {
            tsc,
            tsc_hz: 1000,
            engine_cycles: engine,
            idle_cycles: engine / 2,
            rows: vec![Row { cause: "Out".into(), sensitive: true, counter }],
            counters: vec![("links".into(), count)],
            ..Snapshot::default()
        }
    }

    #[test]
    fn what_has_changed_is_a_difference() {
        let change = change(&snapshot(1000, 100, 5), &snapshot(3000, 500, 12));
        assert_eq!((change.seconds, change.guest, change.idle), (2.0, 0.2, 0.1));
        assert!((change.monitor - 0.7).abs() < 1e-9);
        assert_eq!(change.rows[0].counter, Counter { count: 7, cycles: 700 });
        assert_eq!(change.counters, [("links".to_owned(), 7)]);
    }

    #[test]
    fn a_machine_that_was_reset_begins_anew() {
        let change = change(&snapshot(3000, 500, 12), &snapshot(1000, 100, 5));
        assert_eq!(change.rows[0].counter.count, 5);
        assert_eq!(change.seconds, 1.0);
    }

    #[test]
    fn vcpus_are_added_up() {
        let one = change(&snapshot(1000, 100, 5), &snapshot(3000, 500, 12));
        let two = Change { guest: 0.4, ..one.clone() };
        let all = merge(&[one, two]).unwrap();
        assert_eq!(all.rows[0].counter.count, 14);
        assert_eq!(all.counters, [("links".to_owned(), 14)]);
        assert!((all.guest - 0.3).abs() < 1e-9);
        assert!(merge(&[]).is_none());
    }

    #[test]
    fn nonsense_stays_within_bounds() {
        let wild =
            Snapshot { engine_cycles: u64::MAX, idle_cycles: u64::MAX, tsc: u64::MAX, ..snapshot(0, 0, 1) };
        let change = change(&Snapshot::default(), &wild);
        assert!(change.guest <= 1.0 && change.idle <= 1.0 && change.monitor >= 0.0);
        assert_eq!(total(&Snapshot::default()).seconds, 0.0);
    }
}
