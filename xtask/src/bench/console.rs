//! A guest on pipes: waits for its shell's prompt, asks it what is wanted, has it power off, and takes the times.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How root's shell ends its prompt.
const PROMPT: &[u8] = b"# ";
/// How much of what a guest said is shown when it failed.
const TAIL: usize = 2000;

/// One boot, measured from the start of the process.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When the prompt had arrived.
    pub reached: Duration,
    /// When the process had ended, powered off from the shell.
    pub exit: Duration,
}

/// Runs a guest to its prompt and to its end.
pub fn boot(command: &mut Command, limit: Duration) -> Result<Times, String> {
    run(command, limit, |_| Ok(())).map(|(times, ())| times)
}

/// The same, and has the shell execute a line in between; also how long after the start a line that ends with
/// `answer` came.
pub fn boot_asking(
    command: &mut Command,
    limit: Duration,
    line: &str,
    answer: &str,
) -> Result<(Times, Duration), String> {
    run(command, limit, |guest| guest.ask(line, answer))
}

/// The same, and looks at the process while the guest waits at its prompt.
pub fn boot_and<T>(
    command: &mut Command,
    limit: Duration,
    look: impl FnOnce(u32) -> Result<T, String>,
) -> Result<T, String> {
    run(command, limit, |guest| look(guest.child.id())).map(|(_, seen)| seen)
}

fn run<T>(
    command: &mut Command,
    limit: Duration,
    look: impl FnOnce(&mut Guest) -> Result<T, String>,
) -> Result<(Times, T), String> {
    let started = Instant::now();
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("cannot start {program}: {error}"))?;
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(format!("{program} has no pipes"));
    };
    let mut guest =
        Guest { child, input, chunks: chunks(output), said: Vec::new(), started, ends: started + limit };
    guest.play(look).map_err(|what| guest.report(&program, &what))
}

struct Guest {
    child: Child,
    input: ChildStdin,
    chunks: Receiver<Vec<u8>>,
    said: Vec<u8>,
    started: Instant,
    ends: Instant,
}

impl Guest {
    fn play<T>(&mut self, look: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<(Times, T), String> {
        self.listen_until("its prompt", ends_with_prompt)?;
        let reached = self.started.elapsed();
        let seen = look(self)?;
        self.enter("poweroff")?;
        while let Some(chunk) = self.next()? {
            self.said.extend(chunk);
        }
        // Its output is closed, so that it is about to end.
        let status = self.child.wait().map_err(|error| format!("cannot be waited for: {error}"))?;
        let exit = self.started.elapsed();
        if status.success() {
            Ok((Times { reached, exit }, seen))
        } else {
            Err(format!("ended with {status}"))
        }
    }

    /// Enters a line; when a line that ends with `answer` had arrived. The terminal repeats what is entered, so that
    /// must not end with it.
    fn ask(&mut self, line: &str, answer: &str) -> Result<Duration, String> {
        let asked_at = self.said.len();
        let answer = format!("{answer}\r\n");
        self.enter(line)?;
        self.listen_until("its answer", |said| {
            said[asked_at..].windows(answer.len()).any(|bytes| bytes == answer.as_bytes())
        })?;
        Ok(self.started.elapsed())
    }

    fn enter(&mut self, line: &str) -> Result<(), String> {
        let written = self.input.write_all(format!("{line}\n").as_bytes()).and_then(|()| self.input.flush());
        written.map_err(|error| format!("takes no input: {error}"))
    }

    fn listen_until(&mut self, what: &str, heard: impl Fn(&[u8]) -> bool) -> Result<(), String> {
        while !heard(&self.said) {
            let chunk = self.next()?.ok_or_else(|| format!("ended before {what}"))?;
            self.said.extend(chunk);
        }
        Ok(())
    }

    /// What it says next, or `None` at its end.
    fn next(&self) -> Result<Option<Vec<u8>>, String> {
        match self.chunks.recv_timeout(self.ends.saturating_duration_since(Instant::now())) {
            Ok(chunk) => Ok(Some(chunk)),
            Err(mpsc::RecvTimeoutError::Disconnected) => Ok(None),
            Err(mpsc::RecvTimeoutError::Timeout) => Err("took too long".into()),
        }
    }

    fn report(&self, program: &str, what: &str) -> String {
        let tail = &self.said[self.said.len().saturating_sub(TAIL)..];
        format!("{program} {what}; the guest's last words:\n{}", String::from_utf8_lossy(tail))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The shell asks the terminal where the cursor is once it has written its prompt.
fn ends_with_prompt(said: &[u8]) -> bool {
    said.ends_with(PROMPT) || said.strip_suffix(b"\x1b[6n").is_some_and(|said| said.ends_with(PROMPT))
}

fn chunks(mut output: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    // Ends with the guest's output, or when nobody listens any more.
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn prompt_and_end_are_told_apart() {
        let times =
            boot(&mut shell("printf 'hello\\n/ # \\033[6n'; read line; test \"$line\" = poweroff"), LONG);
        let times = times.unwrap();
        assert!(times.reached <= times.exit);
    }

    #[test]
    fn an_answer_is_told_from_its_question() {
        let script = "printf '# '; read line; printf '%s\r\n' \"$line\"; printf '3\r\n# '; read line";
        let (times, answered) = boot_asking(&mut shell(script), LONG, "echo $((1 + 2))", "3").unwrap();
        assert!(times.reached <= answered && answered <= times.exit);
    }

    #[test]
    fn failures_are_told() {
        let error = |script: &str, limit| boot(&mut shell(script), limit).unwrap_err();
        assert!(error("echo oops", LONG).contains("ended before its prompt"));
        assert!(error("echo oops", LONG).contains("oops"));
        assert!(error("printf '# '; read line; exit 3", LONG).contains("exit status: 3"));
        assert!(error("read line", Duration::from_millis(20)).contains("took too long"));
    }
}
