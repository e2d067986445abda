//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

use smoltcp::wire::IpProtocol;

/// A sum in the making. What is added first has an even number of bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Of the pseudo-header before `len` bytes of `protocol`; of nothing for ICMP over IPv4, which has none.
    pub(super) fn pseudo(source: IpAddr, destination: IpAddr, protocol: IpProtocol, len: usize) -> Self {
        if protocol == IpProtocol::Icmp {
            return Self::default();
        }
        let sum = Self::default().address(source).address(destination);
        sum.add(&[0, u8::from(protocol)]).add(&(len as u32).to_be_bytes())
    }

    fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.add(&address.octets()),
            IpAddr::V6(address) => self.add(&address.octets()),
        }
    }

    /// Adds bytes. The order of the bytes in a word does not matter to the sum but for its own (section 2 (B)), so
    /// words of the host's are added, four bytes at a time.
    pub(super) fn add(mut self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        self.0 += words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        self.0 += u64::from(u32::from_ne_bytes(last));
        self
    }

    /// The sum, as it stands before data whose checksum somebody else will fill in.
    pub(super) fn partial(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_ne_bytes()
    }

    /// The checksum.
    pub(super) fn finish(self) -> [u8; 2] {
        self.partial().map(|byte| !byte)
    }

    /// Whether data with its checksum in it add up.
    pub(super) fn is_good(self) -> bool {
        self.partial() == [0xff, 0xff]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Word by word, as the RFC's text has it.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn it_is_the_sum_of_the_words() {
        let bytes: Vec<u8> = (0..70_000u32).map(|index| (index * 7 + index / 251) as u8).collect();
        for len in (0..40).chain([1459, 1460, 65_535, 70_000]) {
            assert_eq!(
                Sum::default().add(&bytes[..len]).finish(),
                slow(&bytes[..len]).to_be_bytes(),
                "{len}"
            );
        }
        assert_eq!(Sum::default().add(&[0xff; 65_536]).finish(), [0, 0]);
    }

    #[test]
    fn a_good_packet_adds_up() {
        let (source, destination) = ([10, 0, 2, 2].into(), [10, 0, 2, 15].into());
        let pseudo = Sum::pseudo(source, destination, IpProtocol::Udp, 9);
        let mut packet = [0x12, 0x34, 0, 53, 0, 9, 0, 0, 7];
        let sum = pseudo.add(&packet).finish();
        packet[6..8].copy_from_slice(&sum);
        assert!(pseudo.add(&packet).is_good());
        packet[8] ^= 1;
        assert!(!pseudo.add(&packet).is_good());
    }
}
