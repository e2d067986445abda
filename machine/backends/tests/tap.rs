//! Tap interfaces and bridges, in a network namespace of the test's own. Takes root, and says so where it has none.

use std::env;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use backends::net::{Checksum, Handlers, HostOnly, Mac, NetError, Network, Offload, Offloads, Tap};
use host::interface::Interface;

/// What nothing here takes on any machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Set in the process that is in its own namespace.
const INSIDE: &str = "POPF_TEST_NAMESPACE";
const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 2);
const MAC: [u8; 6] = [0x52, 0, 0, 0, 0, 2];

/// Runs this test once more, in a namespace of its own; `true` there.
fn in_namespace(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    if !Command::new("unshare").args(["-n", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: a network namespace takes root and unshare(1)");
        return false;
    }
    let mut again = Command::new("unshare");
    again.arg("-n").arg(env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    assert!(again.status().unwrap().success(), "{test} failed in its namespace");
    false
}

/// Starts a network; what it has for the guest comes out here.
fn start(network: &impl Network) -> Receiver<(Vec<u8>, Offload)> {
    let (sender, receiver) = mpsc::channel();
    let receive = move |frame: &[u8], offload| sender.send((frame.to_vec(), offload)).is_ok();
    network.start(Handlers { receive: Box::new(receive), drained: Box::new(|| {}) }).unwrap();
    receiver
}

/// The next frame with this EtherType; the kernel has some of its own to send.
fn next(frames: &Receiver<(Vec<u8>, Offload)>, ethertype: [u8; 2]) -> (Vec<u8>, Offload) {
    loop {
        let (frame, offload) = frames.recv_timeout(LIMIT).expect("a frame");
        if frame[12..14] == ethertype {
            return (frame, offload);
        }
    }
}

/// The sum of a packet's words.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A UDP packet from the guest, its sum left out.
fn udp(to: [u8; 6], port: u16, payload: &[u8]) -> (Vec<u8>, Offload) {
    let length = (8 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + length).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    packet.extend(GUEST.octets());
    packet.extend(HOST.octets());
    let header = !sum(&[&packet]);
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    let pseudo = sum(&[&packet[12..20], &[0, 17], &length.to_be_bytes()]);
    packet.extend(port.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend(pseudo.to_be_bytes());
    packet.extend_from_slice(payload);
    let frame = [&to[..], &MAC, &[8, 0], &packet].concat();
    (frame, Offload { checksum: Checksum::Missing { start: 34, offset: 6 }, segments: None })
}

#[test]
fn packets_cross_with_their_sums_left_out() {
    if !in_namespace("packets_cross_with_their_sums_left_out") {
        return;
    }
    let tap = Tap::open("popftest0").unwrap();
    let interface = Interface::find("popftest0").unwrap();
    interface.set_address(HOST, 24).unwrap();
    assert_eq!((interface.address(), interface.mtu().unwrap()), (Some(HOST), tap.mtu()));
    let frames = start(&tap);
    let socket = UdpSocket::bind((HOST, 4242)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();

    tap.guest_takes(Offloads::ALL);
    socket.send_to(b"hello", (GUEST, 4242)).unwrap();
    let (request, _) = next(&frames, [8, 6]);
    let host_mac: [u8; 6] = request[6..12].try_into().unwrap();
    let mut reply = [&host_mac[..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &MAC, &GUEST.octets()].concat();
    reply.extend([&host_mac[..], &HOST.octets()].concat());
    assert!(tap.send(&reply, Offload::default()));
    let is_hello =
        |(frame, offload): (Vec<u8>, Offload)| frame.ends_with(b"hello").then_some(offload.checksum);
    assert_eq!(is_hello(next(&frames, [8, 0])), Some(Checksum::Missing { start: 34, offset: 6 }));
    tap.guest_takes(Offloads::NONE);
    socket.send_to(b"hello", (GUEST, 4242)).unwrap();
    assert_eq!(is_hello(next(&frames, [8, 0])), Some(Checksum::Present));

    let (frame, offload) = udp(host_mac, 4242, b"answer");
    assert!(tap.send(&frame, offload));
    let mut buffer = [0; 16];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"answer");
    // What is no frame is dropped, and ends nothing.
    assert!(tap.send(&[1, 2, 3], Offload::default()));
    assert!(tap.send(&frame, offload));
    assert_eq!(socket.recv(&mut buffer).unwrap(), 6);
    drop(tap);
    assert_eq!(Interface::find("popftest0"), None, "it ends with its descriptor");
}

#[test]
fn a_bridge_joins_its_taps() {
    if !in_namespace("a_bridge_joins_its_taps") {
        return;
    }
    let missing = Tap::on_bridge("br0").err().unwrap();
    assert!(matches!(missing, NetError::NoBridge { .. }), "{missing}");
    let missing = Tap::on_bridge("lo").err().unwrap();
    assert!(matches!(missing, NetError::NoBridge { .. }), "{missing}");
    let bridge = Interface::create_bridge("br0").unwrap();
    bridge.set_up(true).unwrap();
    let taps = [Tap::on_bridge("br0").unwrap(), Tap::on_bridge("br0").unwrap()];
    let frames = taps.each_ref().map(start);
    // A bridge that is new does not forward at once.
    let frame = [&[0xff; 6][..], &MAC, &[0x88, 0xb5], &[7; 46]].concat();
    let arrived = (0..600).any(|_| {
        taps[0].send(&frame, Offload::default());
        let limit = Duration::from_millis(100);
        while let Ok((arrived, _)) = frames[1].recv_timeout(limit) {
            if arrived == frame {
                return true;
            }
        }
        false
    });
    assert!(arrived);
}

#[test]
fn refusals_say_what_to_do() {
    if !in_namespace("refusals_say_what_to_do") {
        return;
    }
    let no_tap = Tap::open("lo").err().unwrap();
    assert!(matches!(no_tap, NetError::NoTap { .. }), "{no_tap}");
    let first = Tap::open("popftest1").unwrap();
    let busy = Tap::open("popftest1").err().unwrap();
    assert!(matches!(busy, NetError::TapBusy { .. }), "{busy}");
    drop(first);
    // One made for several queues, as `ip tuntap add ... multi_queue` does.
    let queue = host::tap::Tap::open("popftest2", true).unwrap();
    assert_eq!(Tap::open("popftest2").unwrap().name(), "popftest2");
    drop(queue);
}

/// A client's first message, which asks for an address.
fn discover() -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..8].copy_from_slice(&[1, 1, 6, 0, 1, 2, 3, 4]);
    message[28..34].copy_from_slice(&MAC);
    message[236..240].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, 1, 255]);
    let length = (8 + message.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + length).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    let header = !sum(&[&packet]);
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet.extend([0, 68, 0, 67]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(message);
    [&[0xff; 6][..], &MAC, &[8, 0], &packet].concat()
}

#[test]
fn a_host_only_network_has_the_host_and_leases_addresses() {
    if !in_namespace("a_host_only_network_has_the_host_and_leases_addresses") {
        return;
    }
    let network = HostOnly::join("lab", Mac(MAC)).unwrap();
    let bridge = Interface::find("popf-lab").unwrap();
    let (host, prefix) = (bridge.address().unwrap(), bridge.prefix());
    assert_eq!((host.octets()[0], host.octets()[3], prefix), (10, 1, Some(16)));
    let frames = start(&network);
    assert!(network.send(&discover(), Offload::default()));
    let (offer, _) = next(&frames, [8, 0]);
    let leased: [u8; 4] = offer[42 + 16..42 + 20].try_into().unwrap();
    assert_eq!(leased[..2], host.octets()[..2]);
    assert_eq!((&offer[26..30], &offer[..6]), (&host.octets()[..], &MAC[..]));
    // The same card gets the same in another run, another gets another; the bridge stays as it is.
    drop((network, frames));
    let others = [MAC, [0x52, 0, 0, 0, 0, 3]].map(|mac| HostOnly::join("lab", Mac(mac)).unwrap());
    assert_eq!(bridge.address(), Some(host));
    let again: Vec<_> = others
        .iter()
        .map(|network| {
            let frames = start(network);
            assert!(network.send(&discover(), Offload::default()));
            let offer = next(&frames, [8, 0]).0;
            offer[42 + 16..42 + 20].to_vec()
        })
        .collect();
    assert_eq!(again[0], leased);
    assert_ne!(again[1], leased);
}
