use super::*;
use crate::net::user::SUBNET;

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

fn request(kind: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![0; OPTIONS];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(b"xid!");
    message[28..34].copy_from_slice(&MAC);
    message[236..240].copy_from_slice(&COOKIE);
    message.extend_from_slice(&[53, 1, kind]);
    message.extend_from_slice(options);
    message.push(255);
    message
}

fn server() -> Dhcp {
    Dhcp::new(SUBNET, Some("web".into()), vec!["a.example".into(), "b.example".into()], 1500)
}

fn option(message: &[u8], kind: u8) -> Option<Vec<u8>> {
    let packet = DhcpPacket::new_checked(message).unwrap();
    packet.options().find(|option| option.kind == kind).map(|option| option.data.to_vec())
}

#[test]
fn an_offer_says_all_there_is_to_know() {
    let answer = server().answer(&request(1, &[])).unwrap();
    assert_eq!((answer.mac, answer.to, answer.leased), (Mac(MAC), Ipv4Addr::BROADCAST, None));
    let message = &answer.message;
    assert_eq!(
        (&message[4..8], &message[16..20], &message[28..34]),
        (&b"xid!"[..], &[10, 0, 2, 15][..], &MAC[..])
    );
    for (kind, data) in [
        (53, &[2][..]),
        (54, &[10, 0, 2, 2]),
        (51, &[0, 1, 0x51, 0x80]),
        (1, &[255, 255, 255, 0]),
        (28, &[10, 0, 2, 255]),
        (3, &[10, 0, 2, 2]),
        (6, &[10, 0, 2, 3]),
        (26, &[5, 220]),
        (12, b"web"),
        (15, b"a.example"),
        (119, b"\x01a\x07example\0\x01b\x07example\0"),
    ] {
        assert_eq!(option(message, kind).as_deref(), Some(data), "{kind}");
    }
    assert!(message.len() >= SHORTEST);
}

#[test]
fn a_network_without_a_way_out_says_so() {
    let subnet = Subnet { router: None, dns: None, prefix: 16, ..SUBNET };
    let answer = Dhcp::new(subnet, None, Vec::new(), 1500).answer(&request(1, &[])).unwrap();
    let told = [1, 28, 3, 6, 12].map(|kind| option(&answer.message, kind));
    assert_eq!(told, [Some(vec![255, 255, 0, 0]), Some(vec![10, 0, 255, 255]), None, None, None]);
}

#[test]
fn who_asks_for_another_address_begins_again() {
    let mut server = server();
    let ack = server.answer(&request(3, &[50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2])).unwrap();
    assert_eq!(option(&ack.message, 53), Some(vec![5]));
    assert_eq!(ack.leased, Some(SUBNET.first));
    let nak = server.answer(&request(3, &[50, 4, 192, 168, 0, 7])).unwrap();
    assert_eq!((option(&nak.message, 53), option(&nak.message, 3)), (Some(vec![6]), None));
    assert_eq!((nak.mac, nak.leased), (Mac([0xff; 6]), None));
    // It chose another server.
    assert_eq!(server.answer(&request(3, &[54, 4, 192, 168, 0, 1])), None);
    // Release.
    assert_eq!(server.answer(&request(7, &[])), None);
}

#[test]
fn a_renewal_is_answered_where_the_client_is() {
    let mut renewal = request(3, &[]);
    renewal[12..16].copy_from_slice(&[10, 0, 2, 15]);
    let answer = server().answer(&renewal).unwrap();
    assert_eq!((answer.to, answer.mac), (SUBNET.first, Mac(MAC)));
    let mut inform = request(8, &[]);
    inform[12..16].copy_from_slice(&[10, 0, 2, 77]);
    let answer = server().answer(&inform).unwrap();
    assert_eq!((answer.to, answer.leased), ([10, 0, 2, 77].into(), None));
    assert_eq!((&answer.message[16..20], option(&answer.message, 51)), (&[0; 4][..], None));
}

#[test]
fn cards_keep_their_addresses_while_there_are_enough() {
    let mut server = server();
    for round in 0..2 {
        for index in 0..LEASES {
            let mac = Mac([2, 0, 0, 0, 0, index as u8]);
            assert_eq!(server.lease(mac).octets()[3], 15 + index as u8, "{round}");
        }
    }
    assert_eq!(server.lease(Mac(MAC)), SUBNET.first);
    assert_eq!(server.leases.len(), LEASES);
}

#[test]
fn nonsense_is_not_answered() {
    let good = request(1, &[]);
    for len in 0..good.len() - 1 {
        let _ = server().answer(&good[..len]);
    }
    for (place, byte) in [(0, 2), (2, 5), (236, 0), (242, 99)] {
        let mut bad = good.clone();
        bad[place] = byte;
        assert_eq!(server().answer(&bad), None, "{place}");
    }
}

#[test]
fn names_are_made_of_labels() {
    assert_eq!(encode_name("a.bc"), b"\x01a\x02bc\0");
    for name in ["", ".", "a..b", &"x".repeat(64), &"abc.".repeat(64)] {
        assert_eq!(encode_name(name), b"", "{name}");
    }
}
