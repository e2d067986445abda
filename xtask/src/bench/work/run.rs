//! One pass over the list: a process whose output tells when each workload begins and ends.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// One workload, measured.
pub struct Measured {
    pub seconds: f64,
    /// A checksum of what it wrote.
    pub sum: String,
}

/// One pass.
#[derive(Default)]
pub struct Pass {
    /// From the start of the process until the list begins, page cache filled.
    pub ready: f64,
    pub workloads: BTreeMap<String, Measured>,
}

/// Runs it; the clock is the host's, for all. `limit` is for a single workload.
pub fn run(command: &mut Command, limit: Duration) -> Result<Pass, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let started = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("cannot start {program}: {error}"))?;
    let Some(output) = child.stdout.take() else { return Err(format!("{program} has no output")) };
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let arrived = (Instant::now(), String::from_utf8_lossy(&line).trim().to_owned());
            line.clear();
            if sender.send(arrived).is_err() {
                break;
            }
        }
    });
    let heard = listen(&lines, started, limit);
    if heard.is_err() {
        // It may have ended, which is as well.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| format!("{program} cannot be waited for: {error}"))?;
    match heard {
        Ok(_) if !status.success() => Err(format!("{program} ended with {status}")),
        heard => heard.map_err(|what| format!("{program} {what}")),
    }
}

fn listen(
    lines: &mpsc::Receiver<(Instant, String)>,
    started: Instant,
    limit: Duration,
) -> Result<Pass, String> {
    let mut pass = Pass::default();
    let mut begun: Option<(String, Instant)> = None;
    let mut tail = String::new();
    loop {
        let Ok((at, line)) = lines.recv_timeout(limit) else {
            let during = begun.map_or_else(String::new, |(name, _)| format!(" during {name}"));
            return Err(format!("ended or took too long{during}; it said:\n{tail}"));
        };
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["bench-ready"] => pass.ready = (at - started).as_secs_f64(),
            ["bench-begin", name] => begun = Some((name.to_owned(), at)),
            ["bench-end", name, _, "failed"] => {
                return Err(format!("could not do {name}: one of its programs failed"));
            }
            ["bench-end", name, sum, _] => {
                let Some((_, since)) = begun.take().filter(|(begun, _)| begun == name) else {
                    return Err(format!("ended {name} without beginning it"));
                };
                let seconds = (at - since).as_secs_f64();
                pass.workloads.insert(name.to_owned(), Measured { seconds, sum: sum.to_owned() });
            }
            ["bench-done"] => return Ok(pass),
            _ => {
                tail.push_str(&line);
                tail.push('\n');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(script: &str) -> Result<Pass, String> {
        run(Command::new("sh").args(["-c", script]), Duration::from_secs(60))
    }

    #[test]
    fn workloads_are_timed_and_told_apart() {
        let pass = said(
            "echo hello; echo bench-ready; echo bench-begin a; echo bench-end a 1f well; echo bench-done",
        );
        let pass = pass.unwrap();
        assert_eq!(pass.workloads["a"].sum, "1f");
        assert!(pass.ready > 0.0);
    }

    #[test]
    fn a_pass_that_stops_is_an_error() {
        let error = |script: &str| said(script).err().unwrap_or_default();
        assert!(error("echo oops; echo bench-begin a").contains("during a; it said:\noops"));
        assert!(error("echo bench-end a 1f well; echo bench-done").contains("without beginning"));
        assert!(error("echo bench-begin a; echo bench-end a 1f failed").contains("could not do a"));
        assert!(error("echo bench-done; exit 3").contains("exit status: 3"));
    }
}
