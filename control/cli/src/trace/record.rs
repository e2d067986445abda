//! Recordings: a line of JSON that says what it is, then one per moment, with the names of functions that are new in
//! it. So a recording needs no VM to be looked at, and one that breaks off is good up to there.
//!
//! A recording may come from anybody: a line has a limit, so has their number, and what makes no sense is an error
//! that names the line.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use insight::Symbols;
use serde::{Deserialize, Serialize};

use super::frame::Frame;
use crate::error::CliError;
use crate::exit::Failure;

/// Changes when an older popf would misunderstand a recording.
const VERSION: u32 = 1;
/// The longest line: 255 vCPUs' answers, and more samples than fit between two of them.
const LINE: u64 = 32 << 20;
/// Most moments: a day, one per second.
const FRAMES: usize = 100_000;
/// Most bytes in all, which will be in memory.
const BYTES: u64 = 1 << 30;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    #[serde(rename = "popf-trace")]
    version: u32,
    vm: String,
    /// Seconds since 1970.
    began: u64,
}

/// Every other line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// Beginnings of functions that have not been named before.
    names: Vec<(u64, String)>,
    frame: Frame,
}

/// Writes a recording.
pub struct Recorder {
    path: PathBuf,
    out: BufWriter<File>,
    known: HashSet<u64>,
}

impl Recorder {
    /// Begins one, over whatever the file held.
    pub fn create(path: &Path, vm: &str) -> Result<Self, CliError> {
        let file = File::create(path).map_err(|error| cannot_write(path, error))?;
        let mut recorder = Self { path: path.to_owned(), out: BufWriter::new(file), known: HashSet::new() };
        recorder.line(&Header { version: VERSION, vm: vm.to_owned(), began: vms::now() })?;
        Ok(recorder)
    }

    /// Adds a moment.
    pub fn add(&mut self, frame: &Frame, symbols: &Symbols) -> Result<(), CliError> {
        let mut names = Vec::new();
        for address in addresses(frame) {
            if let Some((name, distance)) = insight::function(symbols, address)
                && self.known.insert(address - distance)
            {
                names.push((address - distance, name.to_owned()));
            }
        }
        self.line(&Line { names, frame: frame.clone() })
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), CliError> {
        let mut bytes = serde_json::to_vec(line).expect("plain data");
        bytes.push(b'\n');
        // At once: whoever stops popf has what was seen until then.
        let written = self.out.write_all(&bytes).and_then(|()| self.out.flush());
        written.map_err(|error| cannot_write(&self.path, error))
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> CliError {
    CliError::new(Failure::Host, format!("cannot write {}", path.display())).because(error)
}

/// Every address of a moment that may be in a function.
fn addresses(frame: &Frame) -> impl Iterator<Item = u64> {
    use board::insight::Sighting;
    let places = frame.vcpus.iter().filter_map(|vcpu| vcpu.traced.as_ref()).flat_map(|traced| &traced.places);
    let samples = frame.samples.iter().flatten().flat_map(|sample| {
        let at = match sample.at {
            Sighting::Guest(rip) => rip,
            Sighting::Engine | Sighting::Monitor => sample.rip,
        };
        let stack = sample.stack.iter().flat_map(|frame| [frame.called, frame.returns_to.checked_sub(1)]);
        [Some(at), Some(sample.rip)].into_iter().chain(stack).flatten()
    });
    places.map(|place| place.rip).chain(samples)
}

/// A recording, read.
#[derive(Debug)]
pub struct Recorded {
    /// Of which VM.
    pub vm: String,
    /// At least one.
    pub frames: Vec<Frame>,
    /// What was named.
    pub symbols: Symbols,
}

impl Recorded {
    /// Reads one.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let error =
            |error| CliError::new(Failure::NoInput, format!("cannot read {}", path.display())).because(error);
        let file = File::open(path).map_err(error)?;
        Self::parse(BufReader::new(file)).map_err(|what| {
            let hint = "`popf trace NAME --record FILE` makes a recording";
            CliError::new(Failure::Data, format!("{} is no recording of popf's: {what}", path.display()))
                .hint(hint)
        })
    }

    fn parse(mut from: impl BufRead) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let mut next = |number: usize| {
            bytes.clear();
            let read = (&mut from).take(LINE).read_until(b'\n', &mut bytes);
            read.map_err(|error| format!("line {number}: {error}"))?;
            match bytes.strip_suffix(b"\n") {
                Some(line) => Ok(Some(line.to_vec())),
                None if bytes.len() as u64 == LINE => Err(format!("line {number} has no end")),
                // It was being written.
                None => Ok(None),
            }
        };
        let header = next(1)?.ok_or("it has no first line")?;
        let header: Header = serde_json::from_slice(&header).map_err(|error| format!("line 1: {error}"))?;
        if header.version != VERSION {
            return Err(format!("it has version {}, and version {VERSION} is understood", header.version));
        }
        let (mut frames, mut names, mut total) = (Vec::new(), Vec::new(), 0);
        while let Some(line) = next(frames.len() + 2)? {
            let number = frames.len() + 2;
            total += line.len() as u64;
            if frames.len() == FRAMES || total > BYTES {
                return Err(format!("line {number}: it goes on for too long"));
            }
            let line: Line =
                serde_json::from_slice(&line).map_err(|error| format!("line {number}: {error}"))?;
            if !line.frame.at.is_finite() || line.frame.vcpus.is_empty() {
                return Err(format!("line {number}: it is of no vCPU, or at no time"));
            }
            names.extend(line.names);
            frames.push(line.frame);
        }
        if frames.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self { vm: header.vm, frames, symbols: Symbols::new(names) })
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
