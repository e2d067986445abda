//! A network card on a back-end's network.
//!
//! The card works on the thread that has something for it: the vCPU's sends, the network's receives. A thread in
//! between would add a wake-up to every packet, and nothing a network does waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backends::net::{Handlers, Mac, NetError, Network, Offload, Offloads};
use devices::virtio::net::{self, Cable, Config, Header, feature};
use devices::wiring::lock;
use host::Sandbox;
use memory::GuestRam;

use super::{Attached, Peripheral};

type SharedNet = Arc<Mutex<net::Net>>;

/// A network card and what it is plugged into.
pub struct Net {
    network: Arc<dyn Network>,
    socket: Arc<Socket>,
    mac: Mac,
    queue_pairs: u16,
}

/// Which card is at this end now.
#[derive(Default)]
struct Socket(Mutex<Option<SharedNet>>);

impl Socket {
    /// Held while the card works, so that [`Net::detach`] waits for that.
    fn lock(&self) -> MutexGuard<'_, Option<SharedNet>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Net {
    /// A card with this address and so many pairs of queues, on a network that is started now.
    pub fn new(network: Arc<dyn Network>, mac: Mac, queue_pairs: u16) -> Result<Self, NetError> {
        let socket = Arc::new(Socket::default());
        let (receiver, drained) = (socket.clone(), socket.clone());
        network.start(Handlers {
            // Without a card a frame is lost, as on a cable nobody has plugged in.
            receive: Box::new(move |frame, offload| {
                receiver.lock().as_ref().is_none_or(|card| lock(card).receive(&offload.to_header(), frame))
            }),
            drained: Box::new(move || {
                if let Some(card) = &*drained.lock() {
                    lock(card).drained();
                }
            }),
        })?;
        Ok(Self { network, socket, mac, queue_pairs })
    }
}

impl Peripheral for Net {
    fn attach(&self, _: &GuestRam) -> Attached {
        let config = Config {
            mac: self.mac.0,
            mtu: self.network.mtu(),
            queue_pairs: self.queue_pairs,
            takes: host_features(self.network.takes()),
        };
        let cable = Plug { network: self.network.clone(), takes: self.network.takes() };
        let card = Arc::new(Mutex::new(net::Net::new(config, Box::new(cable))));
        *self.socket.lock() = Some(card.clone());
        Attached::with_state(&card)
    }

    fn needs(&self, sandbox: &mut Sandbox) {
        self.network.needs(sandbox);
    }

    fn detach(&self) {
        *self.socket.lock() = None;
        self.network.guest_takes(Offloads::NONE);
        // What it holds for the card that is gone may go too.
        self.network.room();
    }
}

/// The card's end of the cable.
struct Plug {
    network: Arc<dyn Network>,
    takes: Offloads,
}

impl Cable for Plug {
    fn send(&self, header: &Header, frame: &[u8]) -> bool {
        // A frame that asks for what was not offered is dropped.
        match Offload::from_header(header) {
            Ok(offload) if self.takes.allow(&offload) => self.network.send(frame, offload),
            _ => true,
        }
    }

    fn guest_takes(&self, features: u64) {
        let has = |feature| features & feature != 0;
        // None of the others goes without sums (5.1.3.1).
        let checksum = has(feature::GUEST_CSUM);
        self.network.guest_takes(Offloads {
            checksum,
            tcp4: checksum && has(feature::GUEST_TSO4),
            tcp6: checksum && has(feature::GUEST_TSO6),
            ecn: checksum && has(feature::GUEST_ECN),
        });
    }

    fn room(&self) {
        self.network.room();
    }
}

/// What a driver is offered to leave to this network.
fn host_features(takes: Offloads) -> u64 {
    let Offloads { checksum, tcp4, tcp6, ecn } = takes;
    let features = [
        (checksum, feature::CSUM),
        (tcp4, feature::HOST_TSO4),
        (tcp6, feature::HOST_TSO6),
        (ecn, feature::HOST_ECN),
    ];
    features.iter().filter(|(taken, _)| *taken).fold(0, |all, (_, feature)| all | feature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::net::{Checksum, SegmentKind, Segments};
    use std::sync::OnceLock;

    /// What a network was asked.
    #[derive(Default)]
    struct Fake {
        handlers: OnceLock<Handlers>,
        takes: Mutex<Vec<Offloads>>,
        frames: Mutex<Vec<(Vec<u8>, Offload)>>,
        room: Mutex<usize>,
    }

    impl Network for Fake {
        fn takes(&self) -> Offloads {
            Offloads { tcp6: false, ecn: false, ..Offloads::ALL }
        }

        fn start(&self, handlers: Handlers) -> Result<(), NetError> {
            assert!(self.handlers.set(handlers).is_ok());
            Ok(())
        }

        fn guest_takes(&self, offloads: Offloads) {
            self.takes.lock().unwrap().push(offloads);
        }

        fn send(&self, frame: &[u8], offload: Offload) -> bool {
            self.frames.lock().unwrap().push((frame.to_vec(), offload));
            true
        }

        fn room(&self) {
            *self.room.lock().unwrap() += 1;
        }
    }

    #[test]
    fn frames_without_a_card_are_lost_and_nothing_is_held_for_one_that_went() {
        let fake = Arc::new(Fake::default());
        let net = Net::new(fake.clone(), Mac([2, 0, 0, 0, 0, 1]), 1).unwrap();
        let handlers = fake.handlers.get().unwrap();
        assert!((handlers.receive)(&[0; 60], Offload::default()));
        (handlers.drained)();
        let attached = net.attach(&GuestRam::allocate(1 << 20).unwrap());
        assert!((handlers.receive)(&[0; 60], Offload::default()), "no driver");
        net.detach();
        drop(attached);
        assert!(net.socket.lock().is_none());
        assert_eq!(*fake.takes.lock().unwrap(), [Offloads::NONE]);
        assert_eq!(*fake.room.lock().unwrap(), 1);
    }

    #[test]
    fn a_card_says_what_both_sides_take() {
        let fake = Arc::new(Fake::default());
        assert_eq!(host_features(fake.takes()), feature::CSUM | feature::HOST_TSO4);
        let plug = Plug { network: fake.clone(), takes: fake.takes() };
        plug.guest_takes(feature::GUEST_TSO4 | feature::GUEST_ECN);
        plug.guest_takes(feature::GUEST_CSUM | feature::GUEST_TSO4);
        let some = Offloads { tcp6: false, ecn: false, ..Offloads::ALL };
        assert_eq!(*fake.takes.lock().unwrap(), [Offloads::NONE, some]);

        let checksum = Checksum::Missing { start: 34, offset: 16 };
        let segments = |kind| Segments { kind, size: 1000, header_len: 54, ecn: false };
        let [four, six] = [SegmentKind::Tcp4, SegmentKind::Tcp6]
            .map(|kind| Offload { checksum, segments: Some(segments(kind)) }.to_header());
        let mut unknown = [0; 12];
        unknown[1] = 3;
        for header in [four, six, unknown] {
            assert!(plug.send(&header, &[7; 60]));
        }
        let sent: Vec<_> =
            fake.frames.lock().unwrap().iter().map(|(_, offload)| offload.to_header()).collect();
        assert_eq!(sent, [four]);
    }
}
