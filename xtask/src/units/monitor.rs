//! One entry under one monitor: popf, or QEMU as the list's own runner calls it; what it came to.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::list::Entry;
use crate::bench::boot::QEMU;

/// popf has so many vCPUs at most.
const POPF_CPUS: u32 = 16;
/// What a program writes to the debug-exit port when it cannot be run here: half of a shell's 77, as QEMU's device
/// doubles it and adds one.
const SKIPPED: i32 = 38;
/// How much of a line is shown.
const LINE: usize = 160;

/// What runs it.
pub enum Monitor {
    Popf(PathBuf),
    Qemu,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Fail,
    Skip,
}

/// What an entry came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub verdict: Verdict,
    /// Its summary, or why there is none.
    pub detail: String,
    pub seconds: f64,
}

impl Outcome {
    pub fn skip(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Skip, detail: why.into(), seconds: 0.0 }
    }
}

impl Monitor {
    /// Runs it.
    pub fn run(&self, entry: &Entry, kernel: &Path, limit: Duration) -> Result<Outcome, String> {
        if matches!(self, Self::Popf(_)) && entry.smp > POPF_CPUS {
            return Ok(Outcome::skip(format!(
                "wants {} processors, popf has {POPF_CPUS} at most",
                entry.smp
            )));
        }
        if matches!(self, Self::Qemu) && !matches!(entry.accel.as_str(), "" | "tcg") {
            return Ok(Outcome::skip(format!("for {} only", entry.accel)));
        }
        let mut command = self.command(entry, kernel);
        let started = Instant::now();
        let said = Said::of(&mut command, limit)?;
        let (verdict, detail) = match said.status {
            None => (Verdict::Fail, format!("no end within {} s; {}", limit.as_secs(), last(&said.out))),
            Some(status) => self.judge(status, &said),
        };
        Ok(Outcome { verdict, detail, seconds: started.elapsed().as_secs_f64() })
    }

    fn command(&self, entry: &Entry, kernel: &Path) -> Command {
        match self {
            Self::Popf(path) => {
                let mut command = Command::new(path);
                // A boot loader puts the program's name before its arguments.
                let cmdline = format!("{} {}", kernel.display(), entry.test_args);
                command.args(["run", "--debug-exit", "--test-device", "--no-reboot"]);
                command.arg("--cpus").arg(entry.smp.to_string());
                command.arg("--memory").arg(format!("{}M", entry.memory_mib()));
                command.arg("--kernel").arg(kernel).arg("--cmdline").arg(cmdline.trim_end());
                command
            }
            Self::Qemu => {
                let mut command = Command::new(QEMU);
                command.args(["--no-reboot", "-nodefaults", "-display", "none", "-serial", "stdio"]);
                command.args(["-device", "pc-testdev", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]);
                command.args(["-device", "pci-testdev", "-machine", "accel=tcg"]);
                command.arg("-smp").arg(entry.smp.to_string());
                command.arg("-kernel").arg(kernel).arg("-append").arg(&entry.test_args);
                command.args(&entry.qemu_params);
                command
            }
        }
    }

    fn judge(&self, status: ExitStatus, said: &Said) -> (Verdict, String) {
        let Some(code) = status.code() else {
            return (Verdict::Fail, format!("ended with {status}"));
        };
        let told = match self {
            Self::Popf(_) => code,
            // isa-debug-exit makes it odd.
            Self::Qemu if code & 1 == 1 && !said.out.is_empty() => code >> 1,
            Self::Qemu if said.out.is_empty() => return (Verdict::Skip, last(&said.err)),
            Self::Qemu => return (Verdict::Fail, format!("ended without a result; {}", last(&said.out))),
        };
        let verdict = match told {
            0 => Verdict::Pass,
            SKIPPED => Verdict::Skip,
            _ => Verdict::Fail,
        };
        (verdict, detail(told, said))
    }
}

/// What stands behind a status.
fn detail(status: i32, said: &Said) -> String {
    let failed: Vec<&str> = said.out.lines().filter(|line| line.starts_with("FAIL: ")).collect();
    let summary = said.out.lines().rev().find_map(|line| line.strip_prefix("SUMMARY: "));
    match (summary, failed.as_slice()) {
        (Some(summary), []) => short(summary),
        (Some(summary), [first, ..]) => short(&format!("{summary}; {first}")),
        (None, _) if status == 0 => String::new(),
        (None, _) => match last(&said.err) {
            error if error.is_empty() => format!("status {status}; {}", crash(&said.out)),
            error => format!("status {status}; {error}"),
        },
    }
}

/// The line that names an exception nobody handled, or else the last one.
fn crash(out: &str) -> String {
    let named = out.lines().find(|line| line.starts_with("Unhandled") || line.starts_with("ASSERT"));
    named.map_or_else(|| last(out), short)
}

fn last(text: &str) -> String {
    text.lines().rev().find(|line| !line.trim().is_empty()).map_or_else(String::new, short)
}

/// One line of a table.
fn short(line: &str) -> String {
    line.trim().chars().filter(|c| !c.is_control()).take(LINE).collect()
}

/// What a process has said, and how it ended.
struct Said {
    out: String,
    err: String,
    /// None if it had to be stopped.
    status: Option<ExitStatus>,
}

impl Said {
    fn of(command: &mut Command, limit: Duration) -> Result<Self, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |error: std::io::Error| format!("{program} cannot be run: {error}");
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = Running(child.map_err(failed)?);
        let (sender, ended) = mpsc::channel();
        let out = reader(child.0.stdout.take(), Some(sender));
        let err = reader(child.0.stderr.take(), None);
        // Its output closes when it ends.
        let in_time = !matches!(ended.recv_timeout(limit), Err(mpsc::RecvTimeoutError::Timeout));
        if !in_time {
            child.0.kill().map_err(failed)?;
        }
        let status = child.0.wait().map_err(failed)?;
        let text = |thread: thread::JoinHandle<Vec<u8>>| {
            let bytes = thread.join().map_err(|_| format!("{program}'s output was lost"))?;
            Ok::<_, String>(String::from_utf8_lossy(&bytes).replace('\r', ""))
        };
        Ok(Self { out: text(out)?, err: text(err)?, status: in_time.then_some(status) })
    }
}

/// A process that does not outlive this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads a pipe to its end, at which `ended` is dropped.
fn reader(
    pipe: Option<impl Read + Send + 'static>,
    ended: Option<mpsc::Sender<()>>,
) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is what there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        drop(ended);
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: u64) -> Said {
        let mut command = Command::new("sh");
        Said::of(command.args(["-c", script]), Duration::from_millis(limit)).unwrap()
    }

    fn judged(monitor: &Monitor, script: &str) -> (Verdict, String) {
        let said = shell(script, 60_000);
        monitor.judge(said.status.unwrap(), &said)
    }

    #[test]
    fn statuses_are_told_apart() {
        let popf = Monitor::Popf(PathBuf::new());
        assert_eq!(judged(&popf, "echo 'SUMMARY: 3 tests'"), (Verdict::Pass, "3 tests".into()));
        assert_eq!(judged(&popf, "echo no; exit 38").0, Verdict::Skip);
        let failed = "echo 'FAIL: this'; echo 'SUMMARY: 2 tests, 1 unexpected failures'; exit 1";
        assert_eq!(
            judged(&popf, failed),
            (Verdict::Fail, "2 tests, 1 unexpected failures; FAIL: this".into())
        );
        assert_eq!(judged(&popf, "echo 'popf: oops' >&2; exit 80").1, "status 80; popf: oops");
        // What QEMU's debug-exit device makes of 0, 1 and 38.
        assert_eq!(judged(&Monitor::Qemu, "echo 'SUMMARY: 3 tests'; exit 1").0, Verdict::Pass);
        assert_eq!(judged(&Monitor::Qemu, "echo x; exit 3").0, Verdict::Fail);
        assert_eq!(judged(&Monitor::Qemu, "echo x; exit 77").0, Verdict::Skip);
        // It has not run at all.
        assert_eq!(
            judged(&Monitor::Qemu, "echo 'no such CPU' >&2; exit 1"),
            (Verdict::Skip, "no such CPU".into())
        );
        assert_eq!(judged(&Monitor::Qemu, "echo x").0, Verdict::Fail);
    }

    #[test]
    fn what_does_not_end_is_stopped() {
        let said = shell("echo first; exec sleep 600", 50);
        assert!(said.status.is_none());
    }
}
