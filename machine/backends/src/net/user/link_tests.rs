use std::sync::Mutex;

use smoltcp::wire::{TcpPacket, UdpPacket};

use super::*;
use crate::net::user::fragments::{Fragments, Name};
use crate::net::user::udp::{udp, udp_header};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
type Taken = Arc<Mutex<Vec<(Vec<u8>, Offload)>>>;

/// A link to a card that takes frames until it has so many.
fn link(most: usize) -> (Link, Taken) {
    let taken = Taken::default();
    let frames = Arc::clone(&taken);
    let receive = move |frame: &[u8], offload| {
        let mut frames = frames.lock().unwrap();
        let room = frames.len() < most;
        if room {
            frames.push((frame.to_vec(), offload));
        }
        room
    };
    let handlers = Handlers { receive: Box::new(receive), drained: Box::new(|| {}) };
    (Link::new(Arc::new(handlers), 1500), taken)
}

fn addresses(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        (lan::GATEWAY6.into(), "fd00:706f:7066::15".parse().unwrap())
    } else {
        (lan::GATEWAY.into(), lan::GUEST.into())
    }
}

#[test]
fn a_checksum_is_there_or_left_to_the_guest() {
    for v6 in [false, true] {
        let (source, guest) = addresses(v6);
        let (mut link, taken) = link(2);
        let header = udp_header(53, 1024, 3);
        link.send_to(MAC, source, guest, udp(&header, b"abc"));
        link.offloads = Offloads::ALL;
        link.send_to(MAC, source, guest, udp(&header, b"abc"));
        let taken = taken.lock().unwrap();
        let [(whole, present), (left, missing)] = &taken[..] else { panic!("two frames") };
        let start = if v6 { 54 } else { 34 };
        let good = |frame: &[u8]| {
            let datagram = UdpPacket::new_checked(&frame[start..]).unwrap();
            datagram.verify_checksum(&source.into(), &guest.into())
        };
        assert_eq!(*present, Offload::default());
        assert!(good(whole));
        let checksum = Checksum::Missing { start: start as u16, offset: 6 };
        assert_eq!(*missing, Offload { checksum, segments: None });
        // What the card does: sum from there on, put it there.
        let mut done = left.clone();
        let sum = Sum::default().add(&done[start..]).finish();
        done[start + 6..start + 8].copy_from_slice(&sum);
        assert!(good(&done));
        assert_eq!(&done, whole);
    }
}

#[test]
fn a_large_segment_says_how_it_is_to_be_cut() {
    for v6 in [false, true] {
        let (source, guest) = addresses(v6);
        let (mut link, taken) = link(1);
        assert_eq!(link.segment_limit(guest), if v6 { 1440 } else { 1460 });
        link.offloads = Offloads::ALL;
        let payload = vec![7; link.segment_limit(guest)];
        let mut header = [0; 20];
        header[12] = 0x50;
        let transport = Transport {
            protocol: IpProtocol::Tcp,
            header: &header,
            checksum: 16,
            payload: (&payload[..9], &payload[9..]),
            cut: Some(1000),
        };
        link.send_to(MAC, source, guest, transport);
        let taken = taken.lock().unwrap();
        let (frame, offload) = &taken[0];
        let ip = if v6 { IPV6 } else { IPV4 };
        assert_eq!(frame.len(), ETHERNET + ip + 20 + payload.len());
        let segments = offload.segments.unwrap();
        assert_eq!((segments.size, usize::from(segments.header_len)), (1000, ETHERNET + ip + 20));
        let packet = match v6 {
            false => Ipv4Packet::new_checked(&frame[14..]).unwrap().payload(),
            true => Ipv6Packet::new_checked(&frame[14..]).unwrap().payload(),
        };
        assert_eq!(TcpPacket::new_checked(packet).unwrap().payload(), payload);
    }
}

#[test]
fn what_is_too_long_comes_in_fragments() {
    let text: Vec<u8> = (0..65_507u32).map(|index| (index / 3) as u8).collect();
    for v6 in [false, true] {
        let (source, guest) = addresses(v6);
        let (mut link, taken) = link(100);
        link.offloads = Offloads::ALL;
        let header = udp_header(53, 1024, text.len());
        link.send_to(MAC, source, guest, udp(&header, &text));
        let mut fragments = Fragments::default();
        let mut whole = None;
        for (frame, offload) in taken.lock().unwrap().iter() {
            assert_eq!(*offload, Offload::default());
            assert!(frame.len() <= 1514);
            assert_eq!(whole, None);
            let name = Name { source, destination: guest, protocol: 17, ident: 0 };
            let (offset, more, piece) = if v6 {
                let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
                let place = u16::from_be_bytes([packet.payload()[2], packet.payload()[3]]);
                (place & !7, place & 1 != 0, packet.payload()[8..].to_vec())
            } else {
                let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
                assert!(packet.verify_checksum());
                (packet.frag_offset(), packet.more_frags(), packet.payload().to_vec())
            };
            whole = fragments.add(name, offset.into(), more, &piece, Instant::now());
        }
        let whole = whole.unwrap();
        let datagram = UdpPacket::new_checked(&whole[..]).unwrap();
        assert!(datagram.verify_checksum(&source.into(), &guest.into()));
        assert!(datagram.payload() == text);
    }
}

#[test]
fn frames_wait_for_room_in_order_and_not_for_ever() {
    let (mut link, taken) = link(1);
    let (source, guest) = addresses(false);
    for index in 0..5000u16 {
        link.send_to(MAC, source, guest, udp(&udp_header(index, 1, 1000), &[0; 1000]));
    }
    assert!(!link.has_room());
    assert!(link.waiting_bytes <= WAITING && link.waiting_bytes > WAITING - 2000);
    let mut expected = 0;
    while !link.has_room() {
        let frame = taken.lock().unwrap().pop().unwrap().0;
        assert_eq!(u16::from_be_bytes([frame[34], frame[35]]), expected);
        expected += 1;
        link.room();
    }
    assert_eq!(link.waiting_bytes, 0);
}

#[test]
fn who_is_not_known_is_asked_for_now_and_then() {
    let now = Instant::now();
    for v6 in [false, true] {
        let (mut link, taken) = link(100);
        let (source, guest) = addresses(v6);
        let header = udp_header(1, 1, 1);
        for _ in 0..3 {
            link.send(source, guest, udp(&header, b"x"), now);
        }
        let kinds = |taken: &Taken| {
            taken.lock().unwrap().iter().map(|(frame, _)| frame[12..14].to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&taken), [if v6 { [0x86, 0xdd] } else { [8, 6] }]);
        link.neighbours.learn(guest, MAC, now);
        link.send(source, guest, udp(&header, b"x"), now);
        let taken = taken.lock().unwrap();
        assert_eq!((taken.len(), &taken[1].0[..6]), (2, &MAC.0[..]));
    }
}
