//! Who is on the switch, and behind whom which address is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use host::seqpacket::Connection;

use crate::net::Mac;

/// Other VMs on one switch.
pub(super) const MAX_PEERS: usize = 64;
/// Addresses that are kept. A guest may have many (containers, bridges of its own) or make them up.
const MAX_ADDRESSES: usize = 4096;

/// A VM's name on the switch, made up when it joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(pub(super) u64);

/// How it stands with a peer's taking what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// It does.
    Free,
    /// Its socket is full since then, and our guest waits for it.
    Full(Instant),
    /// It has been full for so long that nobody waits for it any more.
    Stalled,
}

/// Another VM on the switch.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) id: Id,
    pub(super) connection: Arc<Connection>,
    pub(super) flow: Flow,
    /// Whether we connected to it.
    ours: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Members {
    own: Id,
    peers: Vec<Peer>,
    addresses: HashMap<Mac, Id>,
}

impl Members {
    pub(super) fn new(own: Id) -> Self {
        Self { own, peers: Vec::new(), addresses: HashMap::new() }
    }

    pub(super) fn peers(&mut self) -> &mut [Peer] {
        &mut self.peers
    }

    /// Adds one by a connection; `ours` if we made it. Two that join at once connect to each other twice. Both
    /// then keep the connection that the one with the lower number made, so that no frame arrives twice.
    pub(super) fn add(&mut self, id: Id, connection: Connection, ours: bool) {
        if id == self.own {
            return;
        }
        let peer = Peer { id, connection: Arc::new(connection), flow: Flow::Free, ours };
        let many = self.peers.len();
        match self.peers.iter_mut().find(|peer| peer.id == id) {
            Some(old) if old.ours && self.own < id => {}
            Some(old) => *old = peer,
            None if many < MAX_PEERS => self.peers.push(peer),
            None => tracing::warn!("a switch joins {MAX_PEERS} others at most; one more is left out"),
        }
    }

    /// Removes one whose connection has ended, unless it has another by now.
    pub(super) fn remove(&mut self, id: Id, connection: &Arc<Connection>) {
        self.peers.retain(|peer| peer.id != id || !Arc::ptr_eq(&peer.connection, connection));
        if self.peers.iter().all(|peer| peer.id != id) {
            self.addresses.retain(|_, behind| *behind != id);
        }
    }

    /// A frame from this address came from this peer.
    pub(super) fn learn(&mut self, address: Mac, id: Id) {
        if address.0[0] & 1 != 0 {
            return;
        }
        if self.addresses.len() >= MAX_ADDRESSES && !self.addresses.contains_key(&address) {
            // Whoever is still there is learnt again with its next frame.
            self.addresses.clear();
        }
        self.addresses.insert(address, id);
    }

    /// The one peer behind an address; `None` for a group or one not yet known, which goes to all.
    pub(super) fn behind(&mut self, address: Mac) -> Option<&mut Peer> {
        let id = *self.addresses.get(&address)?;
        self.peers.iter_mut().find(|peer| peer.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        Connection::pair().unwrap().0
    }

    fn mac(last: u16) -> Mac {
        let [high, low] = last.to_be_bytes();
        Mac([2, 0, 0, 0, high, low])
    }

    #[test]
    fn of_two_connections_both_sides_keep_the_same() {
        // 1 and 2 connect to each other; each meets the other's connection last.
        for (own, other, stays) in [(Id(1), Id(2), true), (Id(2), Id(1), false)] {
            let mut members = Members::new(own);
            members.add(other, connection(), true);
            let first = members.peers()[0].connection.clone();
            members.add(other, connection(), false);
            assert_eq!(members.peers().len(), 1);
            assert_eq!(Arc::ptr_eq(&members.peers()[0].connection, &first), stays);
            // The other connection's end is not the peer's.
            let current = members.peers()[0].connection.clone();
            if !stays {
                members.remove(other, &first);
                assert_eq!(members.peers().len(), 1);
            }
            members.remove(other, &current);
            assert!(members.peers().is_empty());
        }
    }

    #[test]
    fn addresses_are_learnt_and_forgotten_with_their_peer() {
        let mut members = Members::new(Id(1));
        members.add(Id(1), connection(), true);
        for id in [2, 3] {
            members.add(Id(id), connection(), true);
        }
        members.learn(mac(1), Id(2));
        members.learn(mac(2), Id(3));
        members.learn(Mac([0xff; 6]), Id(3));
        assert_eq!(members.behind(mac(1)).map(|peer| peer.id), Some(Id(2)));
        assert!(members.behind(Mac([0xff; 6])).is_none());
        // It has moved.
        members.learn(mac(1), Id(3));
        assert_eq!(members.behind(mac(1)).map(|peer| peer.id), Some(Id(3)));
        let gone = members.peers()[1].connection.clone();
        members.remove(Id(3), &gone);
        assert!(members.behind(mac(1)).is_none() && members.addresses.is_empty());
    }

    #[test]
    fn neither_peers_nor_addresses_grow_without_bound() {
        let mut members = Members::new(Id(0));
        for id in 1..100 {
            members.add(Id(id), connection(), true);
        }
        assert_eq!(members.peers().len(), MAX_PEERS);
        for address in 0..10_000 {
            members.learn(mac(address), Id(1));
            assert!(members.behind(mac(address)).is_some());
            assert!(members.addresses.len() <= MAX_ADDRESSES);
        }
    }
}
