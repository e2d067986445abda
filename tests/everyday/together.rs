//! VMs of one user that see each other, and devices that lead to programs on the host.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use super::User;
use super::debian::image;
use crate::common::Files;

/// Waits until the guest's card is there, and gives it an address that nobody else has.
fn address(user: &User, name: &str, number: u8) {
    let script = format!(
        "udevadm settle
        card=$(ls /sys/class/net | grep -v lo)
        ip address add 10.9.0.{number}/24 dev $card && ip link set $card up"
    );
    user.script(name, &script);
}

#[test]
fn two_machines_on_a_switch() {
    image();
    let user = User(Files::new());
    let switch = format!("switch:test-{}", std::process::id());
    for name in ["one", "two"] {
        user.done(&["run", "--detach", "--name", name, "--net", &switch, "debian"]);
    }
    address(&user, "one", 1);
    address(&user, "two", 2);
    let ping = user.script("two", "ping -q -c 5 -i 0.2 10.9.0.1");
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    // The listener is there before the other calls, and hangs up last: nc ends with what it hears, not with its input.
    let listen = "tail -f /dev/null | busybox nc -l -p 5000 > /root/got 2>/dev/null &
        timeout 60 sh -c 'until ss -ltn | grep -q :5000; do :; done'";
    user.script("one", listen);
    let send =
        "head -c 64M /dev/urandom > sent; timeout 60 busybox nc 10.9.0.1 5000 < sent; sha256sum < sent";
    let sent = user.script("two", send);
    // The listener has ended once the whole of it is there.
    let got = user.script(
        "one",
        "timeout 60 sh -c 'while ss -ltn -tn | grep -q :5000; do :; done' > /dev/null; sha256sum < /root/got",
    );
    assert_eq!(got, sent);
}

/// A program in the guest and one on the host, and memory that the guest gives up.
#[test]
fn ports_and_balloon() {
    image();
    let user = User(Files::new());
    let socket = user.0.path("port.sock");
    let port = format!("org.popf.test=unix:{}", socket.display());
    let console = format!("file:{}", user.0.path("console").display());
    let arguments = ["run", "--detach", "--name", "box", "--port", &port, "--console", &console, "-m", "1G"];
    user.done(&[&arguments[..], &["debian"]].concat());
    user.script("box", "udevadm settle; echo to the console > /dev/hvc0");
    let guest = std::thread::scope(|scope| {
        let host = scope.spawn(|| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(b"from the host\n").unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line
        });
        let script = "exec 3<>/dev/virtio-ports/org.popf.test; head -n 1 <&3; echo from the guest >&3";
        let guest = user.script("box", script);
        assert_eq!(host.join().unwrap(), "from the guest\n");
        guest
    });
    assert_eq!(guest, "from the host\n");

    let memory = |arguments: &[&str]| -> serde_json::Value {
        let text = user.done(&[&["memory", "--json", "box"], arguments].concat());
        serde_json::from_str(&text).unwrap()
    };
    let before = memory(&[]);
    assert_eq!((before["total"].as_u64(), before["taken"].as_u64()), (Some(1 << 30), Some(0)));
    assert!(before["guest"]["total"].as_u64() > Some(800 << 20), "{before}");
    memory(&["768M"]);
    let taken = loop {
        let now = memory(&[]);
        if now["taken"].as_u64() >= now["asked"].as_u64() {
            break now;
        }
    };
    assert_eq!(taken["taken"].as_u64(), Some(256 << 20));
    user.done(&["stop", "box"]);
    let said = std::fs::read_to_string(user.0.path("console")).unwrap();
    assert!(said.contains("to the console"), "{said:?}");
}
