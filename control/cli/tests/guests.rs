//! Guests of a few instructions: what they say reaches popf's user, and each way they end has its status.

mod common;

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Files, multiboot, popf, run};

/// mov dx, port; mov al, value; out dx, al
fn out_byte(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

const JUMP_TO_ITSELF: [u8; 2] = [0xeb, 0xfe];

/// Runs a guest of this code; popf's status, standard output and standard error.
fn guest(code: &[u8], arguments: &[&str]) -> (i32, String, String) {
    let files = Files::new();
    let kernel = files.write("kernel", &multiboot(code));
    run(popf(&["run", "--memory", "16M", "--kernel", &kernel]).args(arguments))
}

#[test]
fn what_the_guest_sends_comes_out() {
    let mut code = Vec::new();
    for byte in *b"hello\n" {
        code.extend(out_byte(0x3f8, byte));
    }
    code.extend(out_byte(0xf4, 0));
    let (status, stdout, stderr) = guest(&code, &["--debug-exit"]);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "hello\n", ""));
    let files = Files::new();
    let file = files.path("serial");
    let serial = format!("file:{}", file.display());
    let (status, stdout, _) = guest(&code, &["--debug-exit", "--serial", &serial]);
    assert_eq!((status, stdout.as_str()), (0, ""));
    assert_eq!(std::fs::read(file).unwrap(), b"hello\n");
}

#[test]
fn a_status_written_to_the_debug_exit_port_is_popfs() {
    for status in [0, 7, 200] {
        let (code, ..) = guest(&out_byte(0xf4, status), &["--debug-exit"]);
        assert_eq!(code, i32::from(status));
    }
    // Without the option there is no such port.
    let mut code = out_byte(0xf4, 7);
    code.extend([0xfa, 0xf4]);
    assert_eq!(guest(&code, &[]).0, 81);
}

#[test]
fn power_off_and_reset_end_well() {
    // mov ax, SLP_EN | 5 << SLP_TYP; mov dx, PM1a_CNT; out dx, ax; jmp $
    let mut code = vec![0x66, 0xb8, 0x00, 0x34, 0x66, 0xba, 0x04, 0x06, 0x66, 0xef];
    code.extend(JUMP_TO_ITSELF);
    let (status, _, stderr) = guest(&code, &[]);
    assert_eq!(status, 0, "{stderr}");
    for (port, value) in [(0xcf9, 6), (0x64, 0xfe), (0x92, 1)] {
        let mut code = out_byte(port, value);
        code.extend(JUMP_TO_ITSELF);
        let (status, _, stderr) = guest(&code, &["--no-reboot"]);
        assert_eq!(status, 0, "{port:#x}: {stderr}");
    }
}

#[test]
fn a_halt_for_good_is_told() {
    // cli; hlt
    let (status, _, stderr) = guest(&[0xfa, 0xf4], &[]);
    assert_eq!(status, 81, "{stderr}");
    assert!(stderr.contains("halted"), "{stderr}");
}

#[test]
fn guests_that_run_wild_are_ended() {
    // Without an interrupt table every fault is the third one: ud2; a byte sequence that is no instruction; a
    // division by zero; a load beyond the segment's end is none in a flat one, so a null selector for SS.
    for code in [&[0x0f, 0x0b][..], &[0xff; 16], &[0x31, 0xc9, 0xf7, 0xf1], &[0x31, 0xc0, 0x8e, 0xd0]] {
        let (status, _, stderr) = guest(code, &[]);
        assert_eq!(status, 80, "{code:x?}: {stderr}");
        assert!(stderr.contains("triple fault") && stderr.contains("rip"), "{stderr}");
    }
    // mov eax, 0xf0000000; jmp eax: nothing is there.
    let (status, _, stderr) = guest(&[0xb8, 0, 0, 0, 0xf0, 0xff, 0xe0], &[]);
    assert_eq!(status, 70, "{stderr}");
    assert!(stderr.contains("0xf0000000"), "{stderr}");
}

#[test]
fn signals_end_a_guest_that_does_not() {
    let files = Files::new();
    let kernel = files.write("kernel", &multiboot(&[&out_byte(0x3f8, b'x')[..], &JUMP_TO_ITSELF].concat()));
    for (signal, status) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let mut child =
            popf(&["run", "--memory", "16M", "--kernel", &kernel]).stdout(Stdio::piped()).spawn().unwrap();
        // It runs once it has spoken.
        let mut byte = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        let sent = Instant::now();
        let kill = std::process::Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
        assert_eq!(child.wait().unwrap().code(), Some(status), "{signal}");
        assert!(sent.elapsed() < Duration::from_secs(10), "{signal}");
    }
}

#[test]
fn output_that_nobody_reads_ends_popf() {
    // mov dx, 0x3f8; mov al, 'y'; l: out dx, al; jmp l
    let files = Files::new();
    let kernel = files.write("kernel", &multiboot(&[0x66, 0xba, 0xf8, 0x03, 0xb0, b'y', 0xee, 0xeb, 0xfd]));
    let mut child = popf(&["run", "--memory", "16M", "--kernel", &kernel])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut bytes = [0; 1000];
    child.stdout.take().unwrap().read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [b'y'; 1000]);
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn statistics_are_listed() {
    let mut code = out_byte(0x3f8, b'\n').repeat(5);
    code.extend(out_byte(0xf4, 0));
    let (status, _, stderr) = guest(&code, &["--debug-exit", "--stats"]);
    assert_eq!(status, 0);
    // Five bytes and the one that ends it.
    let row = stderr.lines().find(|line| line.ends_with("  Out"));
    let row = row.unwrap_or_else(|| panic!("{stderr}"));
    assert_eq!(row.split_whitespace().next(), Some("6"), "{stderr}");
}
