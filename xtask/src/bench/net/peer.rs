//! The two monitors, and a guest of theirs at work.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::guest::Guest;

const MEMORY: &str = "512M";

/// Whose guest it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Monitor {
    Popf,
    Qemu,
}

impl Monitor {
    /// Starts a guest whose card has this number, on this network in the monitor's own words.
    pub fn command(self, popf: &Path, guest: &Guest, number: u8, network: &str) -> Command {
        let mac = format!("mac=52:00:00:00:00:0{number}");
        match self {
            Self::Popf => {
                let mut command = Command::new(popf);
                command.arg("run").arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
                command.args(["--memory", MEMORY, "--engine", "translator", "--no-reboot"]);
                command.args(["--net", &format!("{network},{mac}")]);
                command
            }
            Self::Qemu => {
                let mut command = Command::new("qemu-system-x86_64");
                command.args(["-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none"]);
                command.args(["-serial", "stdio", "-no-reboot", "-m", MEMORY]);
                command.arg("-kernel").arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
                let (kind, rest) = network.split_once(',').unwrap_or((network, ""));
                let comma = if rest.is_empty() { "" } else { "," };
                command.args(["-netdev", &format!("{kind},id=net{comma}{rest}")]);
                command.args(["-device", &format!("virtio-net-pci,netdev=net,romfile=,{mac}")]);
                command
            }
        }
    }

    /// How it is given a kernel's command line.
    pub fn cmdline_flag(self) -> &'static str {
        match self {
            Self::Popf => "--cmdline",
            Self::Qemu => "-append",
        }
    }
}

/// What one guest measured, in megabits per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub sent: f64,
    pub received: f64,
    pub retransmits: u64,
}

/// A process that is ended with this.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    ends: Instant,
}

impl Running {
    /// Starts a guest, which has so much time.
    pub fn start(mut command: Command, limit: Duration) -> Result<Self, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("cannot start {program}: {error}"))?;
        let output = BufReader::new(child.stdout.take().ok_or("a guest has no output")?);
        let (sender, lines) = mpsc::channel();
        // Ends with the output, or when nobody listens any more.
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines, said: Vec::new(), ends: Instant::now() + limit })
    }

    /// The host's end of iperf3.
    pub fn server() -> Result<Self, String> {
        let mut command = Command::new("iperf3");
        command.args(["-s", "--forceflush"]);
        let mut server = Self::start(command, Duration::from_secs(60))?;
        server.wait_for("Server listening")?;
        Ok(server)
    }

    /// Reads on until a line with these words.
    pub fn wait_for(&mut self, words: &str) -> Result<(), String> {
        loop {
            match self.lines.recv_timeout(self.ends.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.contains(words);
                    self.said.push(line);
                    if found {
                        return Ok(());
                    }
                }
                Err(why) => {
                    let what = match why {
                        RecvTimeoutError::Timeout => "took too long",
                        RecvTimeoutError::Disconnected => "ended early",
                    };
                    let tail = &self.said[self.said.len().saturating_sub(30)..];
                    return Err(format!("a guest {what} before {words:?}:\n{}", tail.join("\n")));
                }
            }
        }
    }

    /// What it has measured at its end.
    pub fn result(mut self) -> Result<Measured, String> {
        self.wait_for("net: done")?;
        parse(&self.said).ok_or_else(|| format!("cannot make sense of:\n{}", self.said.join("\n")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// iperf3's summary of both transfers: a line of the sender's and one of the receiver's for each.
fn parse(said: &[String]) -> Option<Measured> {
    let place = |words: &str| said.iter().position(|line| line.contains(words));
    let (out, back) = said.split_at(place("net: receiving")?);
    let field = |lines: &[String], role: &str, behind: usize| -> Option<f64> {
        let line = lines.iter().rev().find(|line| line.trim_end().ends_with(role))?;
        let words: Vec<_> = line.split_whitespace().collect();
        let unit = words.iter().position(|word| *word == "Mbits/sec")?;
        words.get(unit - 1 + behind)?.parse().ok()
    };
    // The count of retransmissions stands behind the sender's unit.
    let again = field(out, "sender", 2)? + field(back, "sender", 2)?;
    Some(Measured {
        sent: field(out, "receiver", 0)?,
        received: field(back, "receiver", 0)?,
        retransmits: again as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read() {
        let text = "\
net: sending
[  5]   0.00-5.00   sec   500 MBytes   839 Mbits/sec    3   500 KBytes
- - - - - - - - - - - - - - - - - - - - - - - - -
[ ID] Interval           Transfer     Bitrate         Retr
[  5]   0.00-5.00   sec   500 MBytes   839 Mbits/sec    3             sender\r
[  5]   0.00-5.01   sec   498 MBytes   834 Mbits/sec                  receiver\r
net: receiving
[  5]   0.00-5.00   sec  1.00 GBytes  1718 Mbits/sec    0             sender\r
[  5]   0.00-5.00   sec  1.00 GBytes  1717 Mbits/sec                  receiver\r
net: done";
        let said: Vec<_> = text.lines().map(str::to_owned).collect();
        assert_eq!(parse(&said), Some(Measured { sent: 834.0, received: 1717.0, retransmits: 3 }));
        assert_eq!(parse(&said[..6]), None);
    }
}
