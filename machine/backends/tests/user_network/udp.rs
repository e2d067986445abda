//! Datagrams from the guest to the host.

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use backends::net::user::UserConfig;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket};
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, IpProtocol, Ipv4Packet};

use crate::guest::{ADDRESS, Card, GATEWAY, Guest, PATIENCE, gateway, pattern};
use crate::services::{ethernet, ipv4};

/// Answers each datagram with the same, backwards.
fn echo(address: &str) -> (SocketAddr, UdpSocket) {
    let socket = UdpSocket::bind(address).unwrap();
    let server = gateway(socket.local_addr().unwrap());
    let echo = socket.try_clone().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        // Ends with the process.
        while let Ok((len, from)) = echo.recv_from(&mut buffer) {
            buffer[..len].reverse();
            echo.send_to(&buffer[..len], from).unwrap();
        }
    });
    (server, socket)
}

#[test]
fn datagrams_are_answered() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (server, _socket) = echo(address);
        let mut guest = Guest::new(&UserConfig::default());
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; 8], vec![0; 4096]);
        let handle = guest.sockets.add(Socket::new(buffer(), buffer()));
        let socket = guest.sockets.get_mut::<Socket>(handle);
        socket.bind(5000).unwrap();
        for text in ["abc", "", "defg"] {
            guest.sockets.get_mut::<Socket>(handle).send_slice(text.as_bytes(), server).unwrap();
            let answer = guest.until("an answer", |sockets| {
                let socket = sockets.get_mut::<Socket>(handle);
                let (data, from) = socket.recv().ok()?;
                assert_eq!(from.endpoint, server.into());
                Some(data.to_vec())
            });
            assert!(answer.iter().rev().eq(text.as_bytes()), "{text}");
        }
    }
}

/// A UDP datagram without a checksum.
fn datagram(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0; 2], payload].concat()
}

#[test]
fn a_port_nobody_has_is_unreachable() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let card = Card::new(&UserConfig::default());
    let packet = ipv4(ADDRESS, GATEWAY, IpProtocol::Udp, &datagram(5000, port, b"anybody?"), (0, false));
    card.send(&ethernet(0x0800, &packet));
    // It has to be told where to, too.
    card.send(&crate::services::arp_reply());
    let quoted = card.expect("an error", |frame| {
        card.send(&crate::services::arp_reply());
        let packet = Ipv4Packet::new_checked(frame.get(14..)?).ok()?;
        let message = Icmpv4Packet::new_checked(packet.payload()).ok()?;
        let unreachable = message.msg_type() == Icmpv4Message::DstUnreachable && message.msg_code() == 3;
        (packet.next_header() == IpProtocol::Icmp && unreachable).then(|| message.data().to_vec())
    });
    let about = Ipv4Packet::new_unchecked(&quoted[..]);
    assert_eq!((about.src_addr(), about.dst_addr()), (ADDRESS, GATEWAY));
    assert_eq!(quoted[20..24], [5000u16.to_be_bytes(), port.to_be_bytes()].concat());
}

#[test]
fn large_datagrams_come_and_go_in_fragments() {
    let (server, socket) = echo("127.0.0.1:0");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let card = Card::new(&UserConfig::default());
    let text = pattern(20_000);
    let whole = datagram(5000, server.port(), &text);
    let mut pieces: Vec<_> = whole.chunks(1480).enumerate().collect();
    let last = pieces.len() - 1;
    // Out of order, as multi-queue cards do.
    pieces.swap(2, 7);
    for (index, piece) in pieces {
        let place = (index * 1480, index < last);
        card.send(&ethernet(0x0800, &ipv4(ADDRESS, GATEWAY, IpProtocol::Udp, piece, place)));
    }
    let mut answer = vec![0; whole.len()];
    let mut there = 0;
    card.expect("all of the answer", |frame| {
        let packet = Ipv4Packet::new_checked(frame.get(14..)?).ok()?;
        if packet.next_header() == IpProtocol::Udp {
            let start = usize::from(packet.frag_offset());
            answer[start..start + packet.payload().len()].copy_from_slice(packet.payload());
            there += packet.payload().len();
        }
        (there == answer.len()).then_some(())
    });
    assert!(answer[8..].iter().rev().eq(&text));
}
