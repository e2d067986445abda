//! The console's saved state. The host's ends of the ports are the process's, and are told to the driver anew.

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::port::{MOST_HELD, Port, owed};
use super::{Console, Size};

/// See [`Console`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleStateV1 {
    pub(super) ports: Vec<PortV1>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortV1 {
    guest_open: bool,
    ready: bool,
    pub(super) owed: u8,
    pub(super) held: Vec<u8>,
}

impl Saved for ConsoleStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for Console {
    const KIND: &'static str = "virtio-console";
    type State = ConsoleStateV1;

    fn save(&self) -> ConsoleStateV1 {
        let Self { ports, size: Size { columns: _, rows: _ }, multiport: _, queues: _, interrupts: _ } = self;
        let save = |port: &Port| {
            let &Port { wiring: _, host_open: _, guest_open, ready, owed, ref held } = port;
            PortV1 { guest_open, ready, owed, held: held.iter().copied().collect() }
        };
        ConsoleStateV1 { ports: ports.iter().map(save).collect() }
    }

    fn check(&self, state: &ConsoleStateV1) -> Result<(), Invalid> {
        require(state.ports.len() == self.ports.len(), "another number of ports")?;
        let sane = |port: &PortV1| port.owed & !owed::ALL == 0 && port.held.len() <= MOST_HELD;
        require(state.ports.iter().all(sane), "a port owes or holds too much")
    }

    fn commit(&mut self, state: ConsoleStateV1) {
        let ConsoleStateV1 { ports } = state;
        for (to, from) in self.ports.iter_mut().zip(ports) {
            let PortV1 { guest_open, ready, owed, held } = from;
            to.guest_open = guest_open;
            to.ready = ready;
            // The window may be another, and so may be who is at the other end.
            let news = if to.wiring.console { owed::SIZE | owed::OPEN } else { owed::OPEN };
            to.owed = if ready { owed | news } else { owed };
            to.held = held.into();
        }
    }
}
