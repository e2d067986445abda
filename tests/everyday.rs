//! VMs of popf's images, used as one does day by day. What needs no real guest is tested beside the command
//! (`control/cli/tests/everyday.rs`).

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Files, popf};
use crate::harness::{Ended, image, run, run_for};

/// Debian boots in half a minute where the machine is idle.
const DEBIAN_LIMIT: Duration = Duration::from_secs(900);

/// A user with no VMs yet, and the images of whoever runs the tests.
struct User(Files);

impl User {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = popf(arguments);
        command.env("XDG_RUNTIME_DIR", self.0.path("run")).env("XDG_DATA_HOME", self.0.path("data"));
        command
    }

    fn popf(&self, arguments: &[&str]) -> Ended {
        run(&mut self.command(arguments), &[])
    }

    /// Runs popf, which has to succeed; its standard output.
    fn done(&self, arguments: &[&str]) -> String {
        let ended = self.popf(arguments);
        assert_eq!(ended.status, 0, "{arguments:?}: {}", ended.stderr);
        ended.text()
    }

    /// Waits until a VM's console has said this, or the VM has ended.
    fn console_says(&self, name: &str, text: &str) {
        let mut logs = self.command(&["logs", "--follow", name]).stdout(Stdio::piped()).spawn().unwrap();
        let (mut said, mut byte) = (Vec::new(), [0]);
        let stdout = logs.stdout.as_mut().unwrap();
        while !said.ends_with(text.as_bytes()) {
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        logs.kill().unwrap();
        logs.wait().unwrap();
    }
}

impl Drop for User {
    /// A test that failed half-way leaves no VM running.
    fn drop(&mut self) {
        for line in self.popf(&["ps"]).text().lines().skip(1) {
            let name = line.split_whitespace().next().unwrap_or_default();
            let _ = self.command(&["kill", name]).output();
        }
    }
}

#[test]
fn a_busybox_on_no_terminal() {
    image();
    let user = User(Files::new());
    assert_eq!(user.done(&["run", "--detach", "--name", "box", "busybox"]), "box\n");
    user.console_says("box", "# ");
    assert!(user.done(&["ps"]).contains("busybox"));
    // Its kernel has the button's driver as a module, the image has no modules, and no agent either.
    let stopped = user.popf(&["stop", "--timeout", "1", "box"]);
    assert_eq!(stopped.status, 83, "{}", stopped.stderr);
    user.done(&["kill", "box"]);
    assert!(user.done(&["ps", "--all"]).contains("killed"));
    assert!(user.done(&["logs", "box"]).contains("# "));
    user.done(&["rm", "box"]);
    assert_eq!(user.done(&["ps", "--all", "--json"]), "[]\n");
}

/// What is written by one run is there in the next; the image itself stays as it was.
#[test]
#[ignore = "builds a Debian image if there is none, and boots it twice: minutes"]
fn a_debian_is_turned_off_and_keeps_its_disk() {
    let user = User(Files::new());
    let build = run_for(&mut popf(&["image", "build", "debian"]), &[], DEBIAN_LIMIT, "KILL");
    assert_eq!(build.status, 0, "{}", build.stderr);
    let mut lengths = Vec::new();
    for _ in 0..2 {
        user.done(&["run", "--detach", "--name", "web", "--memory", "1G", "debian"]);
        user.console_says("web", "debian login: ");
        let stopped = run_for(&mut user.command(&["stop", "web"]), &[], DEBIAN_LIMIT, "KILL");
        assert_eq!(stopped.status, 0, "{}", stopped.stderr);
        assert!(stopped.stderr.contains("web has ended: powered off"), "{}", stopped.stderr);
        lengths.push(std::fs::metadata(user.0.path("data/popf/vms/web/disk.qcow2")).unwrap().len());
        // So that the second run's login is told from the first's.
        std::fs::remove_file(user.0.path("data/popf/vms/web/console.log")).unwrap();
    }
    assert!(lengths[0] > 1 << 20, "systemd writes a machine's number and a journal: {lengths:?}");
    user.done(&["rm", "web"]);
    // Without a name nothing is left.
    let name = user.done(&["run", "--detach", "--memory", "1G", "debian"]);
    user.done(&["kill", name.trim()]);
    assert_eq!(user.done(&["ps", "--all", "--json"]), "[]\n");
}
