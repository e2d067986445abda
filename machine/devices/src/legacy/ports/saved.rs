//! The single ports' saved states. The debug ports have none.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::{PostCode, ResetControl, SystemControlA};

/// The byte that a port keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStateV1 {
    value: u8,
}

impl Saved for PortStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for SystemControlA {
    const KIND: &'static str = "system-control-a";
    type State = PortStateV1;

    fn save(&self) -> PortStateV1 {
        let &Self { reset: _, value } = self;
        PortStateV1 { value }
    }

    fn check(&self, _state: &PortStateV1) -> Result<(), Invalid> {
        Ok(())
    }

    fn commit(&mut self, state: PortStateV1) {
        let PortStateV1 { value } = state;
        self.value = value;
    }
}

impl Persist for ResetControl {
    const KIND: &'static str = "reset-control";
    type State = PortStateV1;

    fn save(&self) -> PortStateV1 {
        let &Self { reset: _, value } = self;
        PortStateV1 { value }
    }

    fn check(&self, state: &PortStateV1) -> Result<(), Invalid> {
        require(state.value & !Self::KEPT == 0, "value has reserved bits")
    }

    fn commit(&mut self, state: PortStateV1) {
        let PortStateV1 { value } = state;
        self.value = value;
    }
}

impl Persist for PostCode {
    const KIND: &'static str = "post-code";
    type State = PortStateV1;

    fn save(&self) -> PortStateV1 {
        let &Self { code } = self;
        PortStateV1 { value: code }
    }

    fn check(&self, _state: &PortStateV1) -> Result<(), Invalid> {
        Ok(())
    }

    fn commit(&mut self, state: PortStateV1) {
        let PortStateV1 { value } = state;
        self.code = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Calls, refuses, transplant};
    use crate::wiring::PortDevice;

    fn survives<P: PortDevice + Persist>(make: impl Fn() -> P, value: u32) {
        let (mut from, mut to) = (make(), make());
        from.write(0, 1, value);
        transplant(&from, &mut to);
        assert_eq!(to.read(0, 1), value);
    }

    #[test]
    fn saved() {
        let resets = Calls::default();
        survives(|| SystemControlA::new(resets.notify()), 0x83);
        survives(|| ResetControl::new(resets.notify()), 0x06);
        survives(PostCode::new, 0xa7);
        assert_eq!(resets.take(), 2, "by the writes, not by the restores");
        let port = ResetControl::new(resets.notify());
        assert!(refuses(&port, &[|state| state.value = 0x10]));
    }
}
