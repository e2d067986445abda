//! A whole Debian: systemd, a disk, a network, folders of the host's, commands by its agent.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::{DEBIAN_LIMIT, User};
use crate::common::{Files, popf};
use crate::harness::run_for;

/// Builds the image if it is missing.
pub fn image() {
    let build = run_for(&mut popf(&["image", "build", "debian"]), &[], DEBIAN_LIMIT, "KILL");
    assert_eq!(build.status, 0, "{}", build.stderr);
}

/// A server on the host's loopback that answers every request with `page`; its port.
fn serve(page: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test's process.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A request of curl's comes in one piece; who hangs up is not answered.
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
        }
    });
    port
}

/// The page that a server on the host's loopback has.
fn fetch(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: guest\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A port of the host's that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One command in a machine that is gone afterwards.
#[test]
fn a_command_in_a_system_that_is_whole() {
    image();
    let user = User(Files::new());
    let folder = user.0.path("shared");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("question"), "six times seven\n").unwrap();
    let port = serve("from the host");
    let script = format!(
        "set -e
        echo system: $(systemctl is-system-running --wait)
        test -z \"$(systemctl --failed --no-legend)\"
        ping -q -c 2 -i 0.2 10.0.2.2 | grep -o ' [0-9]*% packet loss'
        curl --silent --show-error http://10.0.2.2:{port}/; echo
        cat /src/question; echo 42 > /src/answer
        dd if=/dev/urandom of=/root/random bs=1M count=32 conv=fsync 2>/dev/null
        sync -f /root/random; stat -c %s /root/random
        exit 7"
    );
    let volume = format!("{}:/src", folder.display());
    let ended = user.popf(&["run", "-v", &volume, "-m", "1G", "debian", "--", "sh", "-c", &script]);
    let expected = "system: running\n 0% packet loss\nfrom the host\nsix times seven\n33554432\n";
    assert_eq!((ended.text().as_str(), ended.status), (expected, 7), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(folder.join("answer")).unwrap(), "42\n");
    assert_eq!(user.done(&["ps", "--all", "--json"]), "[]\n");
}

/// What is written by one run is there after a reboot and in the next run.
#[test]
fn a_machine_that_is_kept() {
    image();
    let user = User(Files::new());
    let port = free_port();
    let publish = format!("{port}:80");
    let arguments = ["run", "--detach", "--name", "web", "--memory", "1G", "--publish", &publish, "debian"];
    assert_eq!(user.done(&arguments), "web\n");
    assert_eq!(user.script("web", "hostname"), "web\n");
    let exits = user.popf(&["shell", "web", "--", "sh", "-c", "echo no >&2; exit 9"]);
    assert_eq!((exits.status, exits.stderr.as_str()), (9, "no\n"));

    let site = user.0.path("site");
    fs::create_dir(&site).unwrap();
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    fs::write(site.join("bytes"), &bytes).unwrap();
    fs::write(site.join("index.html"), "from the guest").unwrap();
    let site = site.display().to_string();
    user.done(&["cp", &site, "web:/srv"]);
    user.script("web", "busybox httpd -p 80 -h /srv/site");
    let answer = fetch(port, "/");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("from the guest"), "{answer}");
    let back = user.0.path("back").display().to_string();
    user.done(&["cp", "web:/srv/site/bytes", &back]);
    assert!(fs::read(&back).unwrap() == bytes, "copied in and out");

    let sum = "sha256sum /root/big";
    let first = user.script("web", &format!("head -c 64M /dev/urandom > /root/big; sync; {sum}"));
    let boot = user.script("web", "cat /proc/sys/kernel/random/boot_id");
    // The connection may be cut before the command's end is told.
    user.popf(&["shell", "web", "--", "systemctl", "reboot"]);
    // The old agent may answer for a moment yet; its machine has the old number.
    let again = loop {
        let ended = user.popf(&["shell", "web", "--", "cat", "/proc/sys/kernel/random/boot_id"]);
        if ended.status == 0 && ended.text() != boot {
            break user.script("web", sum);
        }
    };
    assert_eq!(again, first, "across a reboot");

    let stopped = user.popf(&["stop", "web"]);
    assert_eq!(stopped.status, 0, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("web has ended: powered off"), "{}", stopped.stderr);
    assert!(user.done(&["ps", "--all"]).contains("powered off"));
    assert_eq!(user.done(&["run", "--name", "web", "--", "sh", "-c", sum]), first, "and in the next run");
    user.done(&["rm", "web"]);
    assert_eq!(user.done(&["ps", "--all", "--json"]), "[]\n");
}
