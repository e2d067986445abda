//! VMs of popf's images, used as one does day by day. What needs no real guest is tested beside the command
//! (`control/cli/tests/everyday.rs`).

mod debian;
mod together;

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Files, popf};
use crate::harness::{Ended, image, run_for};

/// Debian boots in less than ten seconds where the machine is idle, and this may have to fetch and build it.
const DEBIAN_LIMIT: Duration = Duration::from_secs(600);

/// A user with no VMs yet, and the images of whoever runs the tests.
pub struct User(pub Files);

impl User {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = popf(arguments);
        command.env("XDG_RUNTIME_DIR", self.0.path("run")).env("XDG_DATA_HOME", self.0.path("data"));
        command
    }

    fn popf(&self, arguments: &[&str]) -> Ended {
        run_for(&mut self.command(arguments), &[], DEBIAN_LIMIT, "KILL")
    }

    /// Runs popf, which has to succeed; its standard output.
    pub fn done(&self, arguments: &[&str]) -> String {
        let ended = self.popf(arguments);
        assert_eq!(ended.status, 0, "{arguments:?}: {}", ended.stderr);
        ended.text()
    }

    /// Runs a shell script in a VM, once its agent answers; what it wrote, if it succeeded.
    fn script(&self, name: &str, script: &str) -> String {
        self.done(&["shell", "--timeout", "300", name, "--", "sh", "-c", script])
    }

    /// Waits until a VM's console has said this, or the VM has ended.
    pub fn console_says(&self, name: &str, text: &str) {
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
