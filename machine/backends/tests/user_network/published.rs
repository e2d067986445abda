//! Ports of the host that lead into the guest.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;

use backends::net::NetError;
use backends::net::user::{Forward, UserConfig, UserNetwork};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::IpAddress;

use crate::guest::{GATEWAY, GATEWAY6, Guest, PATIENCE};

fn publish(listen: &str, guest_port: u16, udp: bool) -> UserConfig {
    let forward = Forward { listen: listen.parse().unwrap(), guest_port, udp };
    UserConfig { forwards: vec![forward], ..UserConfig::default() }
}

/// Has the guest show its IPv6 address, as it does when it comes up.
fn show_address(guest: &mut Guest) {
    let handle = guest.call(SocketAddr::new(GATEWAY6.into(), 9), 64);
    guest.until("an answer to IPv6", |sockets| (!sockets.get::<tcp::Socket>(handle).is_open()).then_some(()));
}

#[test]
fn a_client_reaches_the_guests_server() {
    for (listen, seen) in [("127.0.0.1:0", IpAddress::from(GATEWAY)), ("[::1]:0", GATEWAY6.into())] {
        let mut guest = Guest::new(&publish(listen, 80, false));
        show_address(&mut guest);
        let port = guest.card.network.listening()[0];
        let server = guest.tcp(4096);
        guest.sockets.get_mut::<tcp::Socket>(server).listen(80).unwrap();
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(port).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"GET /").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            (stream.local_addr().unwrap().port(), answer)
        });
        guest.until("a client", |sockets| sockets.get::<tcp::Socket>(server).may_recv().then_some(()));
        assert_eq!(guest.read_to_end(server), b"GET /");
        let remote = guest.sockets.get::<tcp::Socket>(server).remote_endpoint().unwrap();
        guest.write(server, b"here you are");
        guest.close(server);
        guest.until("the client", |_| client.is_finished().then_some(()));
        let (client_port, answer) = client.join().unwrap();
        assert_eq!(answer, "here you are");
        assert_eq!((remote.addr, remote.port), (seen, client_port));
    }
}

#[test]
fn a_client_is_reset_where_the_guest_has_no_server() {
    let mut guest = Guest::new(&publish("127.0.0.1:0", 80, false));
    let port = guest.card.network.listening()[0];
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(port).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read(&mut [0]).unwrap_err().kind()
    });
    guest.until("the client", |_| client.is_finished().then_some(()));
    assert_eq!(client.join().unwrap(), ErrorKind::ConnectionReset);
}

#[test]
fn datagrams_go_both_ways_and_each_client_gets_its_own() {
    let mut guest = Guest::new(&publish("127.0.0.1:0", 53, true));
    let port = guest.card.network.listening()[0];
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let server = guest.sockets.add(udp::Socket::new(buffer(), buffer()));
    guest.sockets.get_mut::<udp::Socket>(server).bind(53).unwrap();
    let clients = [1, 2].map(|number: u8| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(port).unwrap();
        socket.send(&[number]).unwrap();
        socket
    });
    for _ in &clients {
        guest.until("a datagram", |sockets| {
            let socket = sockets.get_mut::<udp::Socket>(server);
            // The first may have been lost while the guest was looked for.
            let Ok((data, from)) = socket.recv().map(|(data, from)| (data.to_vec(), from)) else {
                clients.iter().zip(1..).for_each(|(client, number)| drop(client.send(&[number])));
                return None;
            };
            assert_eq!(from.endpoint.addr, GATEWAY.into());
            socket.send_slice(&[data[0] + 10], from).unwrap();
            Some(())
        });
    }
    let readers = clients.map(|client| {
        thread::spawn(move || {
            let mut answer = [0; 2];
            (client.recv(&mut answer).unwrap(), answer[0])
        })
    });
    guest.until("the answers", |sockets| {
        let socket = sockets.get_mut::<udp::Socket>(server);
        while let Ok((data, from)) = socket.recv().map(|(data, from)| (data.to_vec(), from)) {
            socket.send_slice(&[data[0] + 10], from).unwrap();
        }
        readers.iter().all(|reader| reader.is_finished()).then_some(())
    });
    assert_eq!(readers.map(|reader| reader.join().unwrap()), [(1, 11), (1, 12)]);
}

#[test]
fn what_cannot_be_published_says_what_to_do() {
    let first = UserNetwork::open(&publish("127.0.0.1:0", 80, false)).unwrap();
    let taken = first.listening()[0];
    let error = UserNetwork::open(&publish(&taken.to_string(), 80, false)).unwrap_err();
    assert!(matches!(error, NetError::PortInUse(address) if address == taken));
    assert!(error.to_string().contains(&format!("port {} of 127.0.0.1 is in use", taken.port())), "{error}");
    let error = UserNetwork::open(&publish("192.0.2.77:8080", 80, true)).unwrap_err();
    assert!(matches!(error, NetError::NoSuchAddress(_)), "{error}");
}
