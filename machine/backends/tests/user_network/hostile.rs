//! Guests that mean harm: whatever they send, the network stays there and stays small.

use std::fs;
use std::net::TcpListener;

use backends::net::user::UserConfig;
use smoltcp::wire::{IpProtocol, TcpPacket};

use crate::guest::{ADDRESS, Card, GATEWAY, Guest, gateway};
use crate::services::{arp_reply, ethernet, ipv4};

/// A sequence that looks like chance and is the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

fn syn(from: u16, to: u16, seq: i32) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    let mut segment = TcpPacket::new_unchecked(&mut bytes[..]);
    segment.set_src_port(from);
    segment.set_dst_port(to);
    segment.set_seq_number(smoltcp::wire::TcpSeqNumber(seq));
    segment.set_header_len(20);
    segment.set_syn(true);
    segment.set_window_len(1000);
    segment.fill_checksum(&ADDRESS.into(), &GATEWAY.into());
    ethernet(0x0800, &ipv4(ADDRESS, GATEWAY, IpProtocol::Tcp, &bytes, (0, false)))
}

/// Still answers the guest's stack.
fn is_well(card: Card) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::on(card);
    guest.connect(gateway(listener.local_addr().unwrap()));
}

#[test]
fn damaged_frames_do_no_harm() {
    // Nobody outside is to be bothered by what comes out of this.
    let card = Card::new(&UserConfig { host: false, outside: false, ..UserConfig::default() });
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let good: Vec<Vec<u8>> = vec![
        arp_reply(),
        syn(1, 2, 3),
        ethernet(0x0800, &ipv4(ADDRESS, GATEWAY, IpProtocol::Udp, &[0; 64], (8, true))),
        ethernet(0x0800, &ipv4(ADDRESS, GATEWAY, IpProtocol::Icmp, &[8; 64], (0, false))),
        ethernet(0x86dd, &[0x60; 120]),
    ];
    for _ in 0..50_000 {
        let mut frame = good[dice.roll(good.len())].clone();
        for _ in 0..1 + dice.roll(4) {
            let place = 12 + dice.roll(frame.len() - 12);
            frame[place] = dice.roll(256) as u8;
        }
        frame.truncate(1 + dice.roll(2 * frame.len()));
        card.send(&frame);
    }
    // It answers still, if only to say no.
    card.send(&arp_reply());
    card.send(&syn(9, 9, 9));
    card.expect("an answer", |frame| (frame.get(23) == Some(&1)).then_some(()));
}

#[test]
fn a_flood_of_calls_ends_at_a_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let card = Card::new(&UserConfig::default());
    card.send(&arp_reply());
    for index in 0..30_000 {
        card.send(&syn(1 + index as u16, port, index));
    }
    card.send(&syn(1, port, 77));
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 20_000, "{open} descriptors");
    is_well(card);
}

#[test]
fn datagrams_to_everywhere_end_at_a_limit() {
    let card = Card::new(&UserConfig::default());
    card.send(&arp_reply());
    for port in 1..=20_000u16 {
        let length = 8u16.to_be_bytes();
        let datagram = [&port.to_be_bytes()[..], &[0, 9], &length, &[0; 2]].concat();
        card.send(&ethernet(0x0800, &ipv4(ADDRESS, GATEWAY, IpProtocol::Udp, &datagram, (0, false))));
    }
    is_well(card);
}
