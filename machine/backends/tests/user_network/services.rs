//! What the gateway itself does: addresses, names, echo, and saying no.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;

use backends::net::user::UserConfig;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{dhcpv4, icmp, tcp, udp};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet,
    Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv6Packet, NdiscRepr, TcpPacket,
};

use crate::guest::{ADDRESS, Card, DNS, GATEWAY, GATEWAY_MAC, GATEWAY6, Guest, MAC, PATIENCE};

/// A frame to the gateway.
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&GATEWAY_MAC[..], &MAC, &kind.to_be_bytes(), payload].concat()
}

/// A packet, or the part of one that begins at `place.0`, with more to follow if `place.1`.
pub fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: IpProtocol,
    payload: &[u8],
    place: (usize, bool),
) -> Vec<u8> {
    let mut bytes = vec![0; 20 + payload.len()];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
    packet.set_version(4);
    packet.set_header_len(20);
    packet.set_total_len(20 + payload.len() as u16);
    packet.set_ident(7);
    packet.set_frag_offset(place.0 as u16);
    packet.set_more_frags(place.1);
    packet.set_hop_limit(64);
    packet.set_next_header(protocol);
    packet.set_src_addr(source);
    packet.set_dst_addr(destination);
    packet.fill_checksum();
    bytes[20..].copy_from_slice(payload);
    bytes
}

fn arp(operation: ArpOperation, target: Ipv4Addr) -> Vec<u8> {
    let arp = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(MAC),
        source_protocol_addr: ADDRESS,
        target_hardware_addr: EthernetAddress(GATEWAY_MAC),
        target_protocol_addr: target,
    };
    let mut bytes = [0; 28];
    arp.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
    ethernet(0x0806, &bytes)
}

/// Says where the guest is.
pub fn arp_reply() -> Vec<u8> {
    arp(ArpOperation::Reply, GATEWAY)
}

#[test]
fn the_gateway_answers_for_its_addresses_only() {
    let card = Card::new(&UserConfig::default());
    for target in [Ipv4Addr::new(10, 0, 2, 77), ADDRESS, DNS, GATEWAY] {
        card.send(&arp(ArpOperation::Request, target));
    }
    let mut answered = Vec::new();
    card.expect("the answers", |frame| {
        let packet = ArpPacket::new_checked(&frame[14..]).unwrap();
        assert_eq!(packet.operation(), ArpOperation::Reply);
        assert_eq!(
            (packet.source_hardware_addr(), packet.target_hardware_addr()),
            (&GATEWAY_MAC[..], &MAC[..])
        );
        answered.push(packet.source_protocol_addr().to_vec());
        (answered.len() == 2).then_some(())
    });
    assert_eq!(answered, [DNS.octets(), GATEWAY.octets()]);
}

#[test]
fn a_guest_is_leased_its_address() {
    let config = UserConfig { hostname: Some("web".into()), ..UserConfig::default() };
    let mut guest = Guest::bare(Card::new(&config));
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let lease = guest.until("a lease", |sockets| match sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
        Some(dhcpv4::Event::Configured(config)) => {
            Some((config.address, config.router, config.dns_servers.first().copied()))
        }
        _ => None,
    });
    assert_eq!(lease, ("10.0.2.15/24".parse().unwrap(), Some(GATEWAY), Some(DNS)));
}

#[test]
fn the_gateway_can_be_pinged() {
    for target in [IpAddr::from(GATEWAY), DNS.into(), GATEWAY6.into()] {
        let mut guest = Guest::new(&UserConfig::default());
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(0x1234)).unwrap();
        let data = b"are you there?";
        let caps = ChecksumCapabilities::default();
        let (ident, seq_no) = (0x1234, 5);
        if target.is_ipv4() {
            let echo = Icmpv4Repr::EchoRequest { ident, seq_no, data };
            let place = socket.send(echo.buffer_len(), target.into()).unwrap();
            echo.emit(&mut Icmpv4Packet::new_unchecked(place), &caps);
        } else {
            let echo = Icmpv6Repr::EchoRequest { ident, seq_no, data };
            let place = socket.send(echo.buffer_len(), target.into()).unwrap();
            let IpAddr::V6(target) = target else { unreachable!() };
            echo.emit(&crate::guest::ADDRESS6, &target, &mut Icmpv6Packet::new_unchecked(place), &caps);
        }
        let handle = guest.sockets.add(socket);
        let answer = guest.until("the echo", |sockets| {
            let (message, from) = sockets.get_mut::<icmp::Socket>(handle).recv().ok()?;
            assert_eq!(from, target.into());
            Some(message.to_vec())
        });
        assert_eq!(answer[0], if target.is_ipv4() { 0 } else { 129 });
        assert_eq!((&answer[4..8], &answer[8..]), (&[0x12, 0x34, 0, 5][..], &data[..]));
    }
}

#[test]
fn a_ping_to_the_outside_is_carried_or_refused() {
    let outside = Ipv4Addr::new(192, 0, 2, 1);
    let Err(error) = host::socket::ping(outside.into()) else {
        // Whether an answer comes is up to the host's network.
        return;
    };
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    let card = Card::new(&UserConfig::default());
    let echo = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: b"x" };
    let mut message = vec![0; echo.buffer_len()];
    echo.emit(&mut Icmpv4Packet::new_unchecked(&mut message[..]), &ChecksumCapabilities::default());
    card.send(&ethernet(0x0800, &ipv4(ADDRESS, outside, IpProtocol::Icmp, &message, (0, false))));
    card.expect("the refusal", prohibited);
}

/// An error that says that the guest may not.
fn prohibited(frame: &[u8]) -> Option<()> {
    let packet = Ipv4Packet::new_checked(frame.get(14..)?).ok()?;
    let message = Icmpv4Packet::new_checked(packet.payload()).ok()?;
    let prohibited = (message.msg_type(), message.msg_code()) == (Icmpv4Message::DstUnreachable, 13);
    (packet.next_header() == IpProtocol::Icmp && prohibited).then_some(())
}

#[test]
fn the_host_is_out_of_reach_if_it_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let card = Card::new(&UserConfig { host: false, ..UserConfig::default() });
    let mut syn = vec![0; 20];
    let mut segment = TcpPacket::new_unchecked(&mut syn[..]);
    segment.set_src_port(5000);
    segment.set_dst_port(listener.local_addr().unwrap().port());
    segment.set_header_len(20);
    segment.set_syn(true);
    segment.fill_checksum(&ADDRESS.into(), &GATEWAY.into());
    card.send(&ethernet(0x0800, &ipv4(ADDRESS, GATEWAY, IpProtocol::Tcp, &syn, (0, false))));
    card.expect("the refusal", prohibited);
    assert!(listener.accept().is_err());
}

#[test]
fn a_router_is_advertised_to_who_asks() {
    let card = Card::new(&UserConfig::default());
    let source = "fe80::5054:ff:fe12:3456".parse().unwrap();
    let routers = "ff02::2".parse().unwrap();
    let solicitation = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: None });
    let mut bytes = vec![0; 40 + solicitation.buffer_len()];
    let mut message = Icmpv6Packet::new_unchecked(&mut bytes[40..]);
    solicitation.emit(&source, &routers, &mut message, &ChecksumCapabilities::default());
    let mut packet = Ipv6Packet::new_unchecked(&mut bytes[..]);
    packet.set_version(6);
    packet.set_payload_len(solicitation.buffer_len() as u16);
    packet.set_next_header(IpProtocol::Icmpv6);
    packet.set_hop_limit(255);
    packet.set_src_addr(source);
    packet.set_dst_addr(routers);
    card.send(&ethernet(0x86dd, &bytes));
    card.expect("the advertisement", |frame| {
        let packet = Ipv6Packet::new_checked(frame.get(14..)?).ok()?;
        let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
        let checksums = ChecksumCapabilities::default();
        let parsed = Icmpv6Repr::parse(&packet.src_addr(), &packet.dst_addr(), &message, &checksums).ok()?;
        let Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert { prefix_info: Some(prefix), router_lifetime, .. }) =
            parsed
        else {
            return None;
        };
        assert_eq!(packet.hop_limit(), 255);
        assert_eq!(prefix.prefix.to_string(), "fd00:706f:7066::");
        assert_eq!((prefix.prefix_len, router_lifetime.secs()), (64, 1800));
        Some(())
    });
}

/// A name server that answers each question with it and "!", and how to reach it.
fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            buffer[len] = b'!';
            socket.send_to(&buffer[..=len], from).unwrap();
        }
    });
    address
}

fn ask(servers: Vec<SocketAddr>) -> Vec<u8> {
    let mut guest = Guest::new(&UserConfig { resolvers: Some(servers), ..UserConfig::default() });
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let handle = guest.sockets.add(udp::Socket::new(buffer(), buffer()));
    let socket = guest.sockets.get_mut::<udp::Socket>(handle);
    socket.bind(5000).unwrap();
    socket.send_slice(b"id\x01\0 a question", (DNS, 53)).unwrap();
    guest.until("an answer", |sockets| {
        let (answer, from) = sockets.get_mut::<udp::Socket>(handle).recv().ok()?;
        assert_eq!(from.endpoint, (DNS, 53).into());
        Some(answer.to_vec())
    })
}

#[test]
fn names_are_asked_of_the_hosts_servers_in_turn() {
    let refusing = {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let answering = name_server();
    assert_eq!(ask(vec![answering]), b"id\x01\0 a question!");
    assert_eq!(ask(vec![refusing, answering]), b"id\x01\0 a question!");
    assert_eq!(ask(vec![silent.local_addr().unwrap(), answering]), b"id\x01\0 a question!");
    // The server failed: an answer, with the code for that.
    assert_eq!(ask(vec![refusing]), b"id\x81\x02 a question");
}

#[test]
fn names_are_asked_over_tcp_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut question = [0; 8];
        stream.read_exact(&mut question).unwrap();
        stream.write_all(&question).unwrap();
    });
    let mut guest = Guest::new(&UserConfig { resolvers: Some(vec![server]), ..UserConfig::default() });
    let handle = guest.connect(SocketAddr::new(DNS.into(), 53));
    guest.write(handle, b"question");
    guest.until("an answer", |sockets| (sockets.get::<tcp::Socket>(handle).recv_queue() == 8).then_some(()));
    thread.join().unwrap();
}
