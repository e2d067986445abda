//! The real-time clock's saved state. Times are nanoseconds, of the guest's time of day or off the host's: the
//! battery does not stop between save and restore.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::{D_VRT, Rtc, a, b, byte, c};

/// See [`Rtc`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcStateV1 {
    index: u8,
    /// All 128.
    bytes: Vec<u8>,
    offset: i64,
    synced: i64,
}

impl Saved for RtcStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for Rtc {
    const KIND: &'static str = "mc146818";
    type State = RtcStateV1;

    fn save(&self) -> RtcStateV1 {
        let Self { clock: _, wall: _, timer: _, irq: _, index, bytes, offset, synced } = self;
        RtcStateV1 { index: *index, bytes: bytes.to_vec(), offset: *offset, synced: *synced }
    }

    fn check(&self, state: &RtcStateV1) -> Result<(), Invalid> {
        let bytes: &[u8; 128] =
            state.bytes.as_slice().try_into().map_err(|_| Invalid::new("there are not 128 bytes"))?;
        let byte = |address: u8| bytes[usize::from(address)];
        require(byte(byte::A) & a::UIP == 0, "register A has UIP set")?;
        let setting = byte(byte::B) & (b::SET | b::UIE);
        require(setting != b::SET | b::UIE, "register B has SET and UIE set")?;
        require(byte(byte::C) & !(c::PF | c::AF | c::UF) == 0, "register C has reserved bits")?;
        require(byte(byte::D) == D_VRT, "register D has reserved bits")
    }

    fn commit(&mut self, state: RtcStateV1) {
        let RtcStateV1 { index, bytes, offset, synced } = state;
        self.index = index;
        for (to, from) in self.bytes.iter_mut().zip(bytes) {
            *to = from;
        }
        self.offset = offset;
        self.synced = synced;
        self.sync();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::rtc::SECOND;
    use crate::legacy::rtc::tests::Bench;
    use crate::testing::{refuses, transplant};
    use crate::wiring::PortDevice;

    #[test]
    fn saved_with_an_interrupt_to_come() {
        let mut bench = Bench::new();
        bench.write(0x09, 0x30);
        bench.write(0x0b, 0x12);
        bench.write(0x40, 0x44);
        bench.rtc.write(0, 1, 0xc0);
        let mut other = Bench::new();
        transplant(&bench.rtc, &mut other.rtc);
        assert_eq!(other.rtc.save(), bench.rtc.save());
        assert_eq!(other.timer.deadline(), bench.timer.deadline());
        assert_eq!(other.rtc.read(1, 1), 0x44);
        assert_eq!(other.time(), bench.time());
        // The other machine starts an hour later: time has gone on.
        bench.advance(SECOND);
        let mut later = Bench::new();
        later.clock.advance(3600 * SECOND as u64);
        transplant(&bench.rtc, &mut later.rtc);
        assert_eq!((later.irq.level(), later.read(4), later.read(9)), (true, 0x15, 0x30));
    }

    #[test]
    fn saved_while_being_set() {
        let mut bench = Bench::new();
        bench.write(0x0b, 0x82);
        bench.write(0x00, 0x59);
        let mut other = Bench::new();
        other.clock.advance(30 * SECOND as u64);
        transplant(&bench.rtc, &mut other.rtc);
        assert_eq!(other.time(), bench.time());
    }

    #[test]
    fn hostile_states_are_refused_or_survived() {
        let mut bench = Bench::new();
        assert!(refuses(
            &bench.rtc,
            &[
                |state| state.bytes.truncate(127),
                |state| state.bytes.push(0),
                |state| state.bytes[0x0a] = 0x80,
                |state| state.bytes[0x0b] = 0x90,
                |state| state.bytes[0x0c] = 0x80,
                |state| state.bytes[0x0d] = 0,
            ]
        ));
        for time in [i64::MIN, -1, i64::MAX] {
            for alarm in [0x00, 0x99, 0xff] {
                let mut state = bench.rtc.save();
                (state.offset, state.synced) = (time, time.wrapping_neg());
                state.bytes[1..6].fill(alarm);
                state.bytes[0x0b] = 0x72;
                bench.rtc.check(&state).unwrap();
                bench.rtc.commit(state);
                bench.time();
                bench.write(0x0b, 0xf2);
                bench.write(0x0b, 0x72);
            }
        }
    }
}
