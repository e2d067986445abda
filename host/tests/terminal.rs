//! Raw mode and every way out of it, on a pseudo-terminal. The ways that end a process do so in a child.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use host::terminal::{any_raw, is_cooked, is_terminal, pseudo_terminal, restore_all, window_size};
use host::{HostError, RawMode, Signal, Signals};

#[test]
fn raw_mode_lasts_as_long_as_its_guard() {
    let (_user, terminal) = pseudo_terminal().unwrap();
    assert!(is_terminal(terminal.as_fd()) && is_cooked(terminal.as_fd()).unwrap());
    assert_eq!(window_size(terminal.as_fd()), None, "a new one has no size");
    let raw = RawMode::enter(&terminal).unwrap();
    assert!(!is_cooked(terminal.as_fd()).unwrap() && any_raw());
    restore_all();
    assert!(is_cooked(terminal.as_fd()).unwrap());
    drop(raw);
    assert!(is_cooked(terminal.as_fd()).unwrap());
}

#[test]
fn what_is_no_terminal_is_refused() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(RawMode::enter(&file), Err(HostError::NotATerminal)));
}

/// The way out that the variable names; its terminal is standard input.
#[test]
#[ignore = "ends its process: run by others"]
fn way_out() {
    let raw = RawMode::enter(std::io::stdin()).unwrap();
    assert!(!is_cooked(std::io::stdin().as_fd()).unwrap());
    let kill = |signal: &str| {
        let pid = std::process::id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        // It may be another thread that is ended by it, and later: exiting now would take the stack from under it.
        let (_sender, never) = std::sync::mpsc::channel::<()>();
        let _ = never.recv_timeout(Duration::from_secs(60));
        std::process::exit(99);
    };
    match std::env::var("WAY_OUT").unwrap().as_str() {
        "panic" => panic!("way out"),
        "thread" => drop(std::thread::spawn(|| panic!("way out")).join()),
        "exit" => std::process::exit(3),
        "abort" => std::process::abort(),
        "handled" => {
            // As the popf program does it: the signal is an event, and everything is dropped in order.
            let (sender, receiver) = std::sync::mpsc::channel();
            let _signals = Signals::deliver(&[Signal::Terminate], move |_| sender.send(()).unwrap()).unwrap();
            let pid = std::process::id().to_string();
            assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
            receiver.recv().unwrap();
            drop(raw);
        }
        signal => kill(signal),
    }
}

/// Runs a way out on a terminal that must be as before afterwards.
fn take(way: &str) -> ExitStatus {
    let (_user, terminal) = pseudo_terminal().unwrap();
    let stdin: OwnedFd = terminal.try_clone().unwrap();
    // A shell's background job, which these tests may be part of, ignores SIGINT.
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(std::env::current_exe().unwrap());
    command.args(["--exact", "way_out", "--ignored"]).env("WAY_OUT", way);
    let status = command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(is_cooked(terminal.as_fd()).unwrap(), "{way} left the terminal raw");
    status
}

#[test]
fn the_terminal_is_restored_on_every_way_out() {
    // The test harness catches the first panic and makes 101 of it.
    for (way, code, signal) in [
        ("panic", Some(101), None),
        ("thread", Some(0), None),
        ("exit", Some(3), None),
        ("handled", Some(0), None),
        ("abort", None, Some(6)),
        ("TERM", None, Some(15)),
        ("INT", None, Some(2)),
        ("HUP", None, Some(1)),
        ("QUIT", None, Some(3)),
        ("SEGV", None, Some(11)),
        ("TRAP", None, Some(5)),
    ] {
        let status = take(way);
        assert_eq!((status.code(), status.signal()), (code, signal), "{way}");
    }
}
