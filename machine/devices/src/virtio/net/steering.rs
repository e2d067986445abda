//! Which pair a received frame goes to: the one on which its flow was last sent.
//!
//! A table indexed by a hash of the flow, the same in both directions. Two flows that share an entry share a pair,
//! which costs speed and nothing else; so the table is not saved either.

/// Entries of the table.
const ENTRIES: usize = 256;

pub(super) struct Steering {
    pairs: [u8; ENTRIES],
}

impl Default for Steering {
    fn default() -> Self {
        Self { pairs: [0; ENTRIES] }
    }
}

impl Steering {
    /// A frame was sent on a pair, of so many in use.
    pub(super) fn sent(&mut self, frame: &[u8], pair: u16, pairs: u16) {
        if pairs > 1 {
            self.pairs[flow(frame)] = pair as u8;
        }
    }

    /// The pair to receive a frame on.
    pub(super) fn receive(&self, frame: &[u8], pairs: u16) -> u16 {
        if pairs > 1 { u16::from(self.pairs[flow(frame)]) % pairs } else { 0 }
    }
}

/// The entry of a frame's flow: addresses and, of TCP and UDP, ports, in either order.
fn flow(frame: &[u8]) -> usize {
    let field = |at: usize, length: usize| frame.get(at..at + length).unwrap_or_default();
    let (addresses, length, ports) = match field(12, 2) {
        [0x08, 0x00] => {
            let header = field(14, 1).first().map_or(0, |byte| usize::from(byte & 0xf) * 4);
            // Of a packet in fragments only the first has ports.
            let whole = matches!(field(20, 2), [high, low] if high & 0x3f == 0 && *low == 0);
            (26, 4, (whole && matches!(field(23, 1), [6 | 17])).then_some(14 + header))
        }
        [0x86, 0xdd] => (22, 16, matches!(field(20, 1), [6 | 17]).then_some(54)),
        _ => return 0,
    };
    let ports = ports.unwrap_or(frame.len());
    let end = |address: usize, port: usize| {
        field(address, length)
            .iter()
            .chain(field(port, 2))
            .fold(0_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
    };
    // A sum does not tell the two ends apart.
    let both = end(addresses, ports).wrapping_add(end(addresses + length, ports + 2));
    (both ^ both >> 8 ^ both >> 16) as usize % ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(from: u8, to: u8, from_port: u8, to_port: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
        frame.extend([0, from_port, 0, to_port]);
        frame
    }

    #[test]
    fn answers_come_back_where_questions_left() {
        let mut steering = Steering::default();
        let pairs = 4;
        let mut met = [false; 4];
        for port in 0..100 {
            let pair = u16::from(port % 4);
            steering.sent(&ipv4(1, 2, port, 80), pair, pairs);
            assert_eq!(steering.receive(&ipv4(2, 1, 80, port), pairs), pair);
            // Fewer pairs than before: one that is left.
            assert!(steering.receive(&ipv4(2, 1, 80, port), 2) < 2);
            met[usize::from(steering.receive(&ipv4(2, 1, 80, port / 2), pairs))] = true;
        }
        assert_eq!(met, [true; 4], "flows are told apart");
        assert_eq!(steering.receive(&ipv4(2, 1, 80, 3), 1), 0);
    }

    #[test]
    fn fragments_of_a_packet_stay_together() {
        let (mut first, mut second) = (ipv4(1, 2, 3, 4), ipv4(1, 2, 9, 9));
        first[20] = 0x20;
        second[21] = 100;
        assert_eq!(flow(&first), flow(&second));
    }

    #[test]
    fn any_length_will_do() {
        let whole = ipv4(1, 2, 3, 4);
        for length in 0..whole.len() {
            assert!(flow(&whole[..length]) < ENTRIES);
        }
        let mut six = [0x5a; 100];
        six[12..14].copy_from_slice(&[0x86, 0xdd]);
        for length in 0..six.len() {
            assert!(flow(&six[..length]) < ENTRIES);
        }
    }
}
