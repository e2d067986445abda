//! The balloon's saved state. Which pages are in it only the guest knows; they read as zero, as any others that were
//! never written.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::{Balloon, QUEUE_SIZE};

/// See [`Balloon`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonStateV1 {
    num_pages: u32,
    actual: u32,
    statistics_head: Option<u16>,
}

impl Saved for BalloonStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for Balloon {
    const KIND: &'static str = "virtio-balloon";
    type State = BalloonStateV1;

    fn save(&self) -> BalloonStateV1 {
        // Statistics are of the past; the guest is asked again.
        let &Self { ram: _, queues: _, interrupts: _, num_pages, actual, statistics_head, statistics: _ } =
            self;
        BalloonStateV1 { num_pages, actual, statistics_head }
    }

    fn check(&self, state: &BalloonStateV1) -> Result<(), Invalid> {
        require(
            state.statistics_head.is_none_or(|head| head < QUEUE_SIZE),
            "the statistics buffer is beyond its queue",
        )
    }

    fn commit(&mut self, state: BalloonStateV1) {
        let BalloonStateV1 { num_pages, actual, statistics_head } = state;
        self.num_pages = num_pages;
        self.actual = actual;
        self.statistics_head = statistics_head;
        self.statistics = None;
    }
}

#[cfg(test)]
mod tests {
    use memory::GuestRam;

    use super::*;
    use crate::testing::{refuses, transplant};

    #[test]
    fn it_survives_and_nonsense_does_not() {
        let ram = GuestRam::allocate(1 << 20).unwrap();
        let mut from = Balloon::new(&ram);
        from.num_pages = 7;
        from.actual = 5;
        from.statistics_head = Some(3);
        let mut to = Balloon::new(&ram);
        transplant(&from, &mut to);
        assert_eq!(to.save(), from.save());
        assert!(refuses(&from, &[|state| state.statistics_head = Some(QUEUE_SIZE)]));
    }
}
