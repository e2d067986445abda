//! The I/O APIC's saved state.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::{ID_MASK, IoApic, PINS, Redirection, entry};

/// See [`IoApic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicStateV1 {
    ioregsel: u8,
    ioapicid: u32,
    /// Low and high half of each entry.
    ioredtbl: [(u32, u32); PINS],
    inputs: u32,
}

impl Saved for IoApicStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for IoApic {
    const KIND: &'static str = "io-apic";
    type State = IoApicStateV1;

    fn save(&self) -> IoApicStateV1 {
        let &Self { bus: _, ioregsel, ioapicid, ioredtbl, inputs } = self;
        let ioredtbl = ioredtbl.map(|Redirection { low, high }| (low, high));
        IoApicStateV1 { ioregsel, ioapicid, ioredtbl, inputs }
    }

    fn check(&self, state: &IoApicStateV1) -> Result<(), Invalid> {
        require(state.ioapicid & !ID_MASK == 0, "ioapicid has reserved bits")?;
        require(state.inputs >> PINS == 0, "inputs has pins that are not there")?;
        state.ioredtbl.iter().try_for_each(|&(low, high)| {
            let level = Redirection { low, high }.is_level();
            let readable = if level { entry::REMOTE_IRR } else { 0 };
            let reserved = low & !(entry::WRITABLE | readable) | high & !entry::WRITABLE_HIGH;
            require(reserved == 0, "ioredtbl has reserved bits")
        })
    }

    fn commit(&mut self, state: IoApicStateV1) {
        let IoApicStateV1 { ioregsel, ioapicid, ioredtbl, inputs } = state;
        self.ioregsel = ioregsel;
        self.ioapicid = ioapicid;
        self.ioredtbl = ioredtbl.map(|(low, high)| Redirection { low, high });
        // What it has sent is in the local APICs' own states: nothing to send here.
        self.inputs = inputs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::tests::Bench;
    use crate::testing::{refuses, transplant};
    use crate::wiring::lock;

    #[test]
    fn saved_with_a_level_in_service() {
        let mut bench = Bench::new(1);
        bench.redirect(9, 0, 0x8059);
        bench.redirect(23, 0xff00_0000, 0x1_2abc);
        bench.pin(9, true);
        bench.pin(4, true);
        let mut other = Bench::new(1);
        transplant(&*lock(&bench.io_apic), &mut *lock(&other.io_apic));
        transplant(&bench.cpus[0], &mut other.cpus[0]);
        assert_eq!(lock(&other.io_apic).save(), lock(&bench.io_apic).save());
        assert_eq!(other.cpus[0].acknowledge(), Some(0x59));
        other.pin(9, false);
        other.write(0, 0xb0, 0);
        assert_eq!((other.read_io(0x22), other.drain(0)), (0x8059, vec![]));
    }

    #[test]
    fn hostile_states_are_refused() {
        let bench = Bench::new(1);
        assert!(refuses(
            &*lock(&bench.io_apic),
            &[
                |state| state.ioapicid = 1,
                |state| state.inputs = 1 << 24,
                |state| state.ioredtbl[23].0 = 0x2_0000,
                |state| state.ioredtbl[0].0 = 0x4000,
                |state| state.ioredtbl[0].0 = 0xc400,
                |state| state.ioredtbl[0].1 = 1,
            ]
        ));
    }
}
