//! `--gdb` from the command line, with popf in its sandbox: what the protocol does is tested where it is.

#[path = "../../debugger/tests/common/client.rs"]
mod client;
mod common;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use client::Client;
use common::{Files, multiboot, popf, run};

const JUMP_TO_ITSELF: &[u8] = &[0xeb, 0xfe];

/// A guest that waits; popf, and where it says that it does.
fn waiting(files: &Files, at: &str) -> (Child, String) {
    let kernel = files.write("kernel", &multiboot(JUMP_TO_ITSELF));
    let arguments = ["run", "--kernel", &kernel, "--serial", "null", "--gdb", at];
    let mut popf = popf(&arguments)
        .env("XDG_RUNTIME_DIR", files.path("run"))
        .env("XDG_DATA_HOME", files.path("data"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(popf.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let place = line.split("target remote ").nth(1).and_then(|rest| rest.split('\'').next());
    let place = place.unwrap_or_else(|| panic!("{line:?}")).to_owned();
    (popf, place)
}

fn looks_and_kills(stream: impl Read + Write, mut popf: Child) {
    let mut gdb = Client::new(stream);
    assert!(gdb.ask("?").starts_with("T05"));
    assert!(gdb.monitor("info machine").contains("32-bit protected mode"));
    gdb.send("k");
    assert_eq!(popf.wait().unwrap().code(), Some(137));
}

#[test]
fn a_port_of_the_loopback() {
    let files = Files::new();
    let (popf, place) = waiting(&files, "0,wait");
    assert!(place.starts_with("127.0.0.1:"), "{place}");
    looks_and_kills(TcpStream::connect(&place).unwrap(), popf);
}

#[test]
fn a_socket_of_the_users_own() {
    let files = Files::new();
    let socket = files.path("gdb");
    for _ in 0..2 {
        // What the first run has left behind, the second replaces.
        let (popf, place) = waiting(&files, &format!("unix:{},wait", socket.display()));
        assert_eq!(place, socket.display().to_string());
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        looks_and_kills(UnixStream::connect(&socket).unwrap(), popf);
    }
}

#[test]
fn what_cannot_be_is_told() {
    let files = Files::new();
    let kernel = files.write("kernel", &multiboot(JUMP_TO_ITSELF));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let arguments = ["run", "--kernel", &kernel, "--serial", "null", "--gdb"];
    for (at, told) in
        [(port.as_str(), "choose another port"), ("unix:/nowhere/gdb", "cannot wait for a debugger")]
    {
        let (status, _, stderr) = run(popf(&arguments).arg(at));
        assert!(status != 0 && stderr.contains(told), "{at}: {status} {stderr}");
    }
    let (status, _, stderr) = run(popf(&arguments).arg("0.0.0.0:1234"));
    assert!(status == 2 && stderr.contains("expected a port of this host"), "{status} {stderr}");
}
