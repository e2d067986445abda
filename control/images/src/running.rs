//! A program of the host's while it runs: its lines, its complaints, its end.

use crate::cancel::Cancel;
use crate::error::{Error, IoContext, Result};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, PipeReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

/// So much of a line is looked at; the programs that are run write none as long.
const LINE_LIMIT: u64 = 64 << 10;
/// So many of the last lines may tell why a program failed.
const LAST_LINES: usize = 20;

/// Where a program's standard error goes.
#[derive(Debug)]
pub(crate) enum Errors {
    /// To a file, where nobody needs to read it while the program runs.
    File(PathBuf),
    /// Among the lines of its standard output.
    Among,
}

/// A running program, which does not outlive this value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    program: PathBuf,
    output: Option<BufReader<PipeReader>>,
    errors: Errors,
    last: VecDeque<String>,
    cancel: Cancel,
}

impl Running {
    pub(crate) fn start(mut command: Command, errors: Errors, cancel: &Cancel) -> Result<Self> {
        cancel.check()?;
        let program = PathBuf::from(command.get_program());
        let (reader, writer) = io::pipe().at("make a pipe for", &program)?;
        match &errors {
            Errors::File(path) => command.stderr(File::create(path).at("create", path)?),
            Errors::Among => command.stderr(writer.try_clone().at("make a pipe for", &program)?),
        };
        let started = command.stdout(writer).spawn();
        // It holds the pipe's other end, by which reading would never end.
        drop(command);
        match started {
            Ok(child) => {
                cancel.runs(child.id());
                let output = Some(BufReader::new(reader));
                Ok(Self { child, program, output, errors, last: VecDeque::new(), cancel: cancel.clone() })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Error::NoApt { program: program.display().to_string() })
            }
            Err(source) => Err(Error::Io { action: "run", path: program, source }),
        }
    }

    /// Reads what it writes, to the end.
    pub(crate) fn lines(&mut self, each: &mut dyn FnMut(&str)) -> Result<()> {
        let Some(mut output) = self.output.take() else {
            return Ok(());
        };
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = output.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line);
            if read.at("read the output of", &self.program)? == 0 {
                return Ok(());
            }
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line));
            if matches!(self.errors, Errors::Among) {
                self.last.truncate(LAST_LINES - 1);
                self.last.push_front(text.clone().into_owned());
            }
            each(&text);
        }
    }

    /// Waits for its end; how it ended, and what it complained of.
    pub(crate) fn finish(mut self) -> Result<(ExitStatus, String)> {
        self.lines(&mut |_| {})?;
        self.cancel.ends();
        let status = self.child.wait().at("wait for", &self.program)?;
        self.cancel.check()?;
        let message = match &self.errors {
            Errors::File(path) => String::from_utf8_lossy(&fs::read(path).at("read", path)?).into_owned(),
            Errors::Among => self.last.iter().rev().map(String::as_str).collect::<Vec<_>>().join("\n"),
        };
        Ok((status, message.trim().to_owned()))
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn succeed(self) -> Result<()> {
        let program = self.program.clone();
        let (status, message) = self.finish()?;
        if status.success() {
            Ok(())
        } else {
            Err(Error::Program { program: program.display().to_string(), status, message })
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.ends();
        // After an error in the middle; a program that has been waited for is not signalled.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
