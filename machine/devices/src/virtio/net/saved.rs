//! What the driver has set by the control queue. Rings and features are the transport's to save; the frames in the
//! cable are lost, as on a real one.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::filter::{Filter, MAX_ADDRESSES};
use super::{Mac, Net, feature};

/// See [`Net`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStateV1 {
    mac: Mac,
    link_up: bool,
    pairs: u16,
    guest_offloads: u64,
    filter: FilterV1,
}

/// The receive filter, its modes in the order of their commands; a table that was too long is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FilterV1 {
    modes: [bool; 6],
    unicast: Option<Vec<Mac>>,
    multicast: Option<Vec<Mac>>,
}

impl Saved for NetStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for Net {
    const KIND: &'static str = "virtio-net";
    type State = NetStateV1;

    fn save(&self) -> NetStateV1 {
        let Self {
            config: _,
            cable: _,
            mac,
            link_up,
            pairs,
            filter,
            guest_offloads,
            life: _,
            steering: _,
            // Both are found anew at the first frame.
            blocked: _,
            starved: _,
            frame: _,
            chains: _,
        } = self;
        let Filter {
            promiscuous,
            all_multicast,
            all_unicast,
            no_multicast,
            no_unicast,
            no_broadcast,
            unicast,
            multicast,
        } = filter.clone();
        let modes = [promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast];
        NetStateV1 {
            mac: *mac,
            link_up: *link_up,
            pairs: *pairs,
            guest_offloads: *guest_offloads,
            filter: FilterV1 { modes, unicast, multicast },
        }
    }

    fn check(&self, state: &NetStateV1) -> Result<(), Invalid> {
        let NetStateV1 { mac: _, link_up: _, pairs, guest_offloads, filter } = state;
        require((1..=self.config.queue_pairs).contains(pairs), "another number of queue pairs")?;
        require(guest_offloads & !feature::GUEST == 0, "an unknown offload")?;
        let short =
            |table: &Option<Vec<Mac>>| table.as_ref().is_none_or(|table| table.len() <= MAX_ADDRESSES);
        require(short(&filter.unicast) && short(&filter.multicast), "a table of addresses is too long")
    }

    fn commit(&mut self, state: NetStateV1) {
        let NetStateV1 { mac, link_up, pairs, guest_offloads, filter } = state;
        let FilterV1 { modes, unicast, multicast } = filter;
        let [promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast] = modes;
        self.filter = Filter {
            promiscuous,
            all_multicast,
            all_unicast,
            no_multicast,
            no_unicast,
            no_broadcast,
            unicast,
            multicast,
        };
        (self.mac, self.link_up, self.pairs) = (mac, link_up, pairs);
        // Not more than was agreed on, whatever the file says.
        let agreed = self.life.as_ref().map_or(0, |life| life.features);
        self.set_guest_offloads(guest_offloads & agreed);
        // The ring may have been full when the cable was.
        self.blocked = 0;
        for pair in 0..self.config.queue_pairs {
            self.transmit(pair);
        }
    }
}
