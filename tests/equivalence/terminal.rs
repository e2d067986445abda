//! An interactive guest on a pseudo-terminal, used as a person would.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use host::terminal;

use crate::common::popf;
use crate::harness::{LIMIT, image};

/// The guest's user.
struct User {
    screen: Receiver<Vec<u8>>,
    keyboard: File,
    seen: String,
    /// What of `seen` has been waited for.
    past: usize,
    popf: Child,
    ends: Instant,
}

impl User {
    /// Types.
    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this appears behind what was waited for last.
    fn sees(&mut self, words: &str) {
        while !self.seen[self.past..].contains(words) {
            let left = self.ends.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.screen.recv_timeout(left) else {
                panic!("{words:?} does not appear; last was:\n{:?}", self.tail());
            };
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
            // `vi` asks how large the screen is. The shell asks where its prompt ends as well, but drops keys
            // that arrive together with the answer, and does without one.
            if self.seen.ends_with("\x1b[999;999H\x1b[6n") {
                self.types("\x1b[24;80R");
            }
        }
        let at = self.seen[self.past..].find(words).unwrap();
        self.past += at + words.len();
    }

    /// Waits for the shell's prompt.
    fn prompted(&mut self) {
        self.sees("# \x1b[6n");
    }

    /// Runs a command, and waits for a word of its output.
    fn runs(&mut self, command: &str, words: &str) {
        self.types(&format!("{command}\n"));
        self.sees(command);
        self.sees(words);
    }

    fn tail(&self) -> &str {
        let mut at = self.seen.len().saturating_sub(3000);
        while !self.seen.is_char_boundary(at) {
            at += 1;
        }
        &self.seen[at..]
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Fails if it has ended, as it should have.
        let _ = self.popf.kill();
        let _ = self.popf.wait();
    }
}

#[test]
fn a_shell_is_used() {
    image();
    let (user, line) = terminal::pseudo_terminal().unwrap();
    let stdio = || Stdio::from(line.try_clone().unwrap());
    let mut command = popf(&["run", "busybox"]);
    command.env("TERM", "vt100").stdin(stdio()).stdout(stdio()).stderr(stdio());
    assert!(terminal::is_cooked(line.as_fd()).unwrap());
    let child = command.spawn().unwrap();
    let mut output = File::from(user.try_clone().unwrap());
    let (sender, screen) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut user = User {
        screen,
        keyboard: File::from(user),
        seen: String::new(),
        past: 0,
        popf: child,
        ends: Instant::now() + LIMIT,
    };
    user.prompted();
    // Keys pass as they are: the terminal is raw.
    assert!(!terminal::is_cooked(line.as_fd()).unwrap());

    user.runs("tty; echo $TERM; cat /proc/cpuinfo", "/dev/ttyS0");
    user.sees("vt100");
    user.sees("model name");
    user.sees("flags\t\t: fpu");
    user.prompted();
    user.runs("ps", "PID   USER");
    user.sees("kthreadd");
    user.prompted();

    // Line editing: two deleted, one put in before.
    user.types("echo abcXY\x7f\x7f-\x1b[D\x1b[Dd\x05 e | tr a-z A-Z\n");
    user.sees("ABDC- E");
    user.prompted();

    // What `vi` draws of the text depends on how fast it comes; its status line does not. It begins with a dash
    // once the escape is understood as one, and not as the beginning of a function key.
    user.runs("vi /tmp/note", "- /tmp/note");
    user.types("ifirst line\nsecond lime\x1b");
    user.sees("- /tmp/note [Modified] 2/2 100%");
    // Puts right what was misspelt.
    user.types("hrn:wq\n");
    user.prompted();
    user.runs("md5sum < /tmp/note; cat /tmp/note", "second line");
    assert!(user.seen.contains("first line\r\nsecond line"), "{:?}", user.tail());
    user.prompted();

    user.runs("top -d 1", "Mem:");
    user.sees("Load average");
    user.sees("COMMAND");
    user.types("q");
    user.prompted();

    // Ctrl-C ends what runs, and not the shell, nor popf. What runs says so first: the shell edits lines with the
    // terminal in another mode.
    for program in ["sleep 100", "cat"] {
        user.runs(&format!("sh -c 'echo go; exec {program}'"), "go\r\n");
        if program == "cat" {
            user.types("echoed\n");
            user.sees("echoed\r\nechoed\r\n");
        }
        user.types("\x03");
        user.sees("^C");
        user.prompted();
        user.runs("echo status $?", "status 130");
        user.prompted();
    }
    user.runs("sleep 1000 & jobs", "sleep 1000");
    user.prompted();
    user.runs("kill %1; wait; echo waited", "waited\r\n");
    user.prompted();

    user.types("poweroff\n");
    let status = wait(&mut user);
    assert_eq!(status, Some(0), "{:?}", user.tail());
    assert!(terminal::is_cooked(line.as_fd()).unwrap(), "the terminal stays raw");
}

/// Waits for popf's end, which closes its side of the terminal; the test's own keeps the reading going.
fn wait(user: &mut User) -> Option<i32> {
    loop {
        if let Some(status) = user.popf.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < user.ends, "popf does not end: {:?}", user.tail());
        // What still appears is read meanwhile; nothing else tells of a process's end here.
        if let Ok(bytes) = user.screen.recv_timeout(Duration::from_millis(20)) {
            user.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
}
