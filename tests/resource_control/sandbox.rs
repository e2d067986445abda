//! What popf's process may still do while a guest runs. What it may not is tested in `host`, call by call; here is that
//! every thread of a real one is kept in, and that nothing a guest makes it do is stopped.

use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};

use crate::common::{Files, multiboot, popf};
use crate::harness::signal;

/// A guest that has said one byte and then does nothing for ever.
fn idle_guest(arguments: &[&str]) -> Child {
    // mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp $
    let code = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfe];
    let files = Files::new();
    let kernel = files.write("kernel", &multiboot(&code));
    let mut command = popf(&["run", "--memory", "16M", "--kernel", &kernel]);
    let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

/// What /proc says of each thread: its name and the values of these fields.
fn threads(pid: u32, fields: [&str; 2]) -> Vec<(String, [String; 2])> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim_start_matches(':').trim().to_owned()).unwrap_or_default()
    };
    statuses.map(|status| (field(&status, "Name"), fields.map(|name| field(&status, name)))).collect()
}

#[test]
fn every_thread_is_kept_in_while_the_guest_runs() {
    if host::sandbox::support().seccomp.is_err() {
        eprintln!("skipped: this host has no seccomp");
        return;
    }
    let fields = ["Seccomp", "NoNewPrivs"];
    for (arguments, expected) in [(&[][..], ["2", "1"]), (&["--no-sandbox"], ["0", "0"])] {
        let mut child = idle_guest(arguments);
        let threads = threads(child.id(), fields);
        signal(child.id(), "TERM");
        assert_eq!(child.wait().unwrap().code(), Some(143));
        assert!(threads.len() >= 4, "the vCPU, timers, a serial line and this: {threads:?}");
        // Whoever runs this may be in a sandbox, too.
        if arguments.is_empty() || fs::read_to_string("/proc/self/status").unwrap().contains("Seccomp:\t0") {
            assert!(
                threads.iter().all(|(_, found)| found.each_ref().map(String::as_str) == expected),
                "{threads:?}"
            );
        }
    }
}

#[test]
fn a_machine_starts_again_under_the_same_rules() {
    // mov dx, 0x3f8; mov al, 'x'; out dx, al; mov dx, 0xcf9; mov al, 6; out dx, al; jmp $
    let code = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0x66, 0xba, 0xf9, 0x0c, 0xb0, 6, 0xee, 0xeb, 0xfe];
    let files = Files::new();
    let kernel = files.write("kernel", &multiboot(&code));
    let mut command = popf(&["run", "--memory", "16M", "--kernel", &kernel]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lives = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut lives).unwrap();
    assert_eq!(lives, [b'x'; 5]);
    signal(child.id(), "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let mut said = String::new();
    child.stderr.unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}
