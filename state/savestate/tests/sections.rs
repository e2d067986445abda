//! Saved files, whole, damaged and hostile.

use proptest::prelude::*;
use savestate::{
    Checked, Invalid, NoOlder, Persist, ReadError, SaveError, Saved, Sections, Unit, Writer, require,
};
use serde::{Deserialize, Serialize};

/// A counter as it is today.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counter {
    value: u32,
    limit: u32,
    name: String,
}

#[derive(Serialize, Deserialize)]
struct CounterStateV1 {
    value: u32,
}

#[derive(Serialize, Deserialize)]
struct CounterStateV2 {
    value: u32,
    limit: u32,
}

#[derive(Serialize, Deserialize)]
struct CounterStateV3 {
    value: u32,
    limit: u32,
    name: String,
}

impl Saved for CounterStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Saved for CounterStateV2 {
    const VERSION: u16 = 2;
    type Older = CounterStateV1;
}

impl Saved for CounterStateV3 {
    const VERSION: u16 = 3;
    type Older = CounterStateV2;
}

impl From<CounterStateV1> for CounterStateV2 {
    fn from(CounterStateV1 { value }: CounterStateV1) -> Self {
        Self { value, limit: 100 }
    }
}

impl From<CounterStateV2> for CounterStateV3 {
    fn from(CounterStateV2 { value, limit }: CounterStateV2) -> Self {
        Self { value, limit, name: "unnamed".into() }
    }
}

impl Persist for Counter {
    const KIND: &'static str = "counter";
    type State = CounterStateV3;

    fn save(&self) -> CounterStateV3 {
        let Self { value, limit, name } = self.clone();
        CounterStateV3 { value, limit, name }
    }

    fn check(&self, state: &CounterStateV3) -> Result<(), Invalid> {
        require(state.value <= state.limit, "value above limit")
    }

    fn commit(&mut self, state: CounterStateV3) {
        let CounterStateV3 { value, limit, name } = state;
        *self = Self { value, limit, name };
    }
}

/// The same chip in older programs.
struct OldCounter<S>(S);

impl Persist for OldCounter<u32> {
    const KIND: &'static str = "counter";
    type State = CounterStateV1;

    fn save(&self) -> CounterStateV1 {
        CounterStateV1 { value: self.0 }
    }

    fn check(&self, _: &CounterStateV1) -> Result<(), Invalid> {
        Ok(())
    }

    fn commit(&mut self, state: CounterStateV1) {
        self.0 = state.value;
    }
}

impl Persist for OldCounter<(u32, u32)> {
    const KIND: &'static str = "counter";
    type State = CounterStateV2;

    fn save(&self) -> CounterStateV2 {
        CounterStateV2 { value: self.0.0, limit: self.0.1 }
    }

    fn check(&self, _: &CounterStateV2) -> Result<(), Invalid> {
        Ok(())
    }

    fn commit(&mut self, CounterStateV2 { value, limit }: CounterStateV2) {
        self.0 = (value, limit);
    }
}

/// Another kind, with a variable length.
#[derive(Clone, Debug, Default, PartialEq)]
struct Fifo(Vec<u8>);

#[derive(Serialize, Deserialize)]
struct FifoStateV1 {
    bytes: Vec<u8>,
}

impl Saved for FifoStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for Fifo {
    const KIND: &'static str = "fifo";
    type State = FifoStateV1;

    fn save(&self) -> FifoStateV1 {
        FifoStateV1 { bytes: self.0.clone() }
    }

    fn check(&self, state: &FifoStateV1) -> Result<(), Invalid> {
        require(state.bytes.len() <= 16, "more than 16 bytes")
    }

    fn commit(&mut self, state: FifoStateV1) {
        self.0 = state.bytes;
    }
}

fn counter(value: u32) -> Counter {
    Counter { value, limit: 1000, name: format!("counter {value}") }
}

fn save(units: &[(u32, &dyn Unit)]) -> Vec<u8> {
    let mut writer = Writer::new();
    for &(instance, unit) in units {
        writer.add(instance, unit).unwrap();
    }
    writer.finish()
}

/// A machine of two counters and a FIFO.
#[derive(Clone, Debug, Default, PartialEq)]
struct Machine {
    first: Counter,
    second: Counter,
    fifo: Fifo,
}

impl Machine {
    fn example() -> Self {
        Self { first: counter(1), second: counter(2), fifo: Fifo(vec![1, 2, 3]) }
    }

    fn save(&self) -> Vec<u8> {
        save(&[(0, &self.first), (1, &self.second), (0, &self.fifo)])
    }

    fn restore(&mut self, file: &[u8]) -> Result<(), ReadError> {
        let Self { first, second, fifo } = self;
        let units: [(u32, &mut dyn Unit); 3] = [(0, first), (1, second), (0, fifo)];
        Sections::parse(file)?.check(units)?.commit();
        Ok(())
    }

    /// What goes wrong with a file that must not be accepted, and must change nothing.
    fn refuse(file: &[u8]) -> ReadError {
        let mut machine = Self::default();
        let error = machine.restore(file).expect_err("the file was accepted");
        assert_eq!(machine, Self::default(), "half restored");
        error
    }
}

#[test]
fn a_machine_comes_back_whole() {
    let file = Machine::example().save();
    let mut machine = Machine::default();
    machine.restore(&file).unwrap();
    assert_eq!(machine, Machine::example());
    let sections = Sections::parse(&file).unwrap();
    let list: Vec<_> =
        sections.list().map(|(kind, instance, version, _)| (kind, instance, version)).collect();
    assert_eq!(list, [("counter", 0, 3), ("counter", 1, 3), ("fifo", 0, 1)]);
}

#[test]
fn older_versions_are_converted_step_by_step() {
    let mut now = Counter::default();
    let file = save(&[(0, &OldCounter(7u32))]);
    Sections::parse(&file).unwrap().check([(0, &mut now as _)]).unwrap().commit();
    assert_eq!(now, Counter { value: 7, limit: 100, name: "unnamed".into() });
    let file = save(&[(0, &OldCounter((8u32, 9u32)))]);
    Sections::parse(&file).unwrap().check([(0, &mut now as _)]).unwrap().commit();
    assert_eq!(now, Counter { value: 8, limit: 9, name: "unnamed".into() });
}

#[test]
fn newer_versions_are_refused_by_name() {
    let file = save(&[(0, &counter(1))]);
    let mut old = OldCounter(5u32);
    let error = Sections::parse(&file).unwrap().check([(0, &mut old as _)]).unwrap_err();
    assert_eq!(error.to_string(), "section counter/0 has version 3; this popf reads up to 1");
    assert_eq!(old.0, 5);
}

#[test]
fn one_bad_section_leaves_every_unit_alone() {
    // The fifo comes last; the counters before it are fine and must not be committed.
    let mut bad = Machine::example();
    bad.fifo.0 = vec![0; 17];
    let error = Machine::refuse(&bad.save());
    assert_eq!(error.to_string(), "section fifo/0 is not valid");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "more than 16 bytes");
    let mut bad = Machine::example();
    bad.second.limit = 0;
    assert!(matches!(Machine::refuse(&bad.save()), ReadError::Invalid { instance: 1, .. }));
}

#[test]
fn sections_and_units_must_match_exactly() {
    let Machine { first, second, fifo } = Machine::example();
    let missing = save(&[(0, &first), (1, &second)]);
    assert_eq!(Machine::refuse(&missing).to_string(), "section fifo/0 is missing");
    let extra = save(&[(0, &first), (1, &second), (0, &fifo), (2, &first)]);
    assert_eq!(Machine::refuse(&extra).to_string(), "section counter/2 belongs to nothing in this machine");
    let mut writer = Writer::new();
    writer.add(0, &first).unwrap();
    assert!(matches!(writer.add(0, &second), Err(SaveError::Duplicate { instance: 0, .. })));
}

#[test]
fn a_section_that_occurs_twice_is_refused() {
    let one = save(&[(0, &counter(1))]);
    let header = one.len() - 14; // what follows magic, format and count
    let mut twice = one.clone();
    twice[10] = 2;
    twice.extend_from_slice(&one[one.len() - header..]);
    assert!(matches!(Sections::parse(&twice), Err(ReadError::Duplicate { .. })));
}

#[test]
fn files_cut_off_anywhere_are_refused() {
    let file = Machine::example().save();
    for len in 0..file.len() {
        let error = Machine::refuse(&file[..len]);
        let expected = match len {
            0..8 => matches!(error, ReadError::NotOurs),
            _ => matches!(error, ReadError::Truncated { offset } if offset == len),
        };
        assert!(expected, "cut at {len}: {error}");
    }
    let mut longer = file;
    longer.push(0);
    assert!(matches!(Machine::refuse(&longer), ReadError::Trailing { extra: 1 }));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let file = Machine::example().save();
    for bit in 0..file.len() * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        Machine::refuse(&damaged);
    }
}

#[test]
fn lengths_are_not_believed() {
    // A section header that claims a body of 2^64 - 1 bytes, and one that claims 2^27 of which none are there.
    for (len, limit) in [(u64::MAX, true), (1 << 27, false)] {
        let mut file = b"popfsave\x01\0\x01\0\0\0\x04fifo\0\0\0\0\x01\0".to_vec();
        file.extend_from_slice(&len.to_le_bytes());
        file.extend_from_slice(&[0; 4]);
        let error = Machine::refuse(&file);
        let expected = if limit {
            matches!(error, ReadError::Header { .. })
        } else {
            matches!(error, ReadError::Truncated { .. })
        };
        assert!(expected, "{error}");
    }
    let count = b"popfsave\x01\0\xff\xff\xff\xff";
    assert!(matches!(Machine::refuse(count), ReadError::Header { .. }));
    let format = b"popfsave\x02\0\0\0\0\0";
    assert!(matches!(Machine::refuse(format), ReadError::Format { found: 2, known: 1 }));
}

/// A file of one FIFO section around any body, its checksum right: what a malicious file looks like.
fn fifo_with_body(body: &[u8]) -> Vec<u8> {
    /// A state whose encoding is its bytes: postcard writes a tuple element by element.
    struct Raw<'a>(&'a [u8]);
    #[derive(Deserialize)]
    struct RawState(Vec<u8>);
    impl Serialize for RawState {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeTuple;
            let mut tuple = serializer.serialize_tuple(self.0.len())?;
            self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
            tuple.end()
        }
    }
    impl Saved for RawState {
        const VERSION: u16 = 1;
        type Older = NoOlder;
    }
    impl Persist for Raw<'_> {
        const KIND: &'static str = "fifo";
        type State = RawState;
        fn save(&self) -> RawState {
            RawState(self.0.to_vec())
        }
        fn check(&self, _: &RawState) -> Result<(), Invalid> {
            Ok(())
        }
        fn commit(&mut self, _: RawState) {}
    }
    save(&[(0, &Raw(body))])
}

#[test]
fn bodies_with_a_right_checksum_are_not_believed_either() {
    let mut fifo = Fifo::default();
    // A vector of 2^64 - 1 bytes; one that ends early; one with bytes behind it.
    let bodies: [&[u8]; 3] =
        [&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], &[5, 1, 2], &[1, 1, 2]];
    for body in bodies {
        let file = fifo_with_body(body);
        let error = Sections::parse(&file).unwrap().check([(0, &mut fifo as _)]).unwrap_err();
        assert!(matches!(error, ReadError::Decode { .. }), "{body:?}: {error}");
    }
    Sections::parse(&fifo_with_body(&[2, 8, 9])).unwrap().check([(0, &mut fifo as _)]).unwrap().commit();
    assert_eq!(fifo.0, [8, 9]);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), header in any::<bool>()) {
        let mut file = if header { b"popfsave\x01\0\x02\0\0\0".to_vec() } else { vec![] };
        file.extend(bytes);
        Machine::refuse(&file);
    }

    #[test]
    fn any_body_is_taken_or_refused(body in proptest::collection::vec(any::<u8>(), 0..40)) {
        let file = fifo_with_body(&body);
        let mut fifo = Fifo::default();
        let checked = Sections::parse(&file).unwrap().check([(0, &mut fifo as _)]);
        match checked.map(Checked::commit) {
            Ok(()) => prop_assert!(fifo.0.len() <= 16),
            Err(error) => {
                let expected = matches!(error, ReadError::Decode { .. } | ReadError::Invalid { .. });
                prop_assert!(expected, "{}", error);
                prop_assert_eq!(fifo, Fifo::default());
            }
        }
    }
}
