//! Whatever comes on the socket: nothing of it harms popf or stops the guest for good.

mod common;

use std::io::{Read, Write};

use board::stop::StopReason;
use common::Vm;
use proptest::prelude::*;

const JUMP_TO_ITSELF: &[u8] = &[0xeb, 0xfe];

/// A packet whose body is this.
fn framed(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    [b"$", body, b"#", format!("{sum:02x}").as_bytes()].concat()
}

/// Says all of it, hangs up, and looks whether the next debugger is served.
fn survives(packets: &[Vec<u8>]) {
    let vm = Vm::start(JUMP_TO_ITSELF, false);
    let mut stream = vm.connect_bare();
    for packet in packets {
        // It may hang up on us.
        if stream.write_all(packet).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
    drop(stream);
    let mut next = vm.connect();
    assert!(next.ask("?").starts_with("T05"));
    assert_eq!(next.ask("D"), "OK");
    vm.stop();
    assert!(matches!(vm.reason(), StopReason::PowerOff));
}

/// Begins of packets that are understood, so that what follows is looked at.
const BEGINS: [&str; 24] = [
    "g",
    "G",
    "m",
    "M",
    "X",
    "p",
    "P",
    "Z0,",
    "Z1,",
    "Z2,",
    "Z4,",
    "z0,",
    "z2,",
    "vCont;",
    "vCont;s:",
    "c",
    "s",
    "H",
    "T",
    "D",
    "qRcmd,",
    "qXfer:features:read:",
    "qSupported:",
    "qThreadExtraInfo,",
];

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let rest = prop_oneof![
        "[0-9a-fx,;:.+#$}*-]{0,40}",
        "[0-9a-f]{1,16},[0-9a-f]{1,16}",
        "[0-9a-f]{1,16},[0-9a-f]{1,4}:[0-9a-f]{0,64}",
        "f{16},[0-9a-f]{1,4}",
    ];
    (0..BEGINS.len(), rest).prop_map(|(begin, rest)| framed(format!("{}{rest}", BEGINS[begin]).as_bytes()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn noise(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        survives(&[bytes]);
    }

    #[test]
    fn packets_that_are_nearly_right(packets in proptest::collection::vec(packet(), 1..60)) {
        survives(&packets);
    }
}

#[test]
fn packets_at_the_limits() {
    let long = vec![b'0'; 1 << 20];
    survives(&[framed(&long)]);
    survives(&[framed(b"mfffffffffffffff0,20"), framed(b"mffffffffffffffff,1"), framed(b"m0,ffffffff")]);
    survives(&[framed(b"Mfffffffffffffff0,10:00000000000000000000000000000000")]);
    survives(&[framed(b"Z2,0,ffffffffffffffff"), framed(b"Z2,0,0"), framed(b"vCont;s:ffff"), framed(b"?")]);
    let many: Vec<_> = (0..10_000).map(|n| framed(format!("Z0,{n:x},1").as_bytes())).collect();
    survives(&many);
}
