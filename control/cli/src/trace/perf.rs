//! The map by which Linux' `perf` names code that no file holds (tools/perf/Documentation/jit-interface.txt): a line
//! `START SIZE NAME` in hexadecimal for each range of host code, in /tmp/perf-PID.map.
//!
//! Guest code is called as the guest's kernel calls its function, or by its address, and the engine's own code by what
//! it does. A translation cache that was emptied has had several meanings at one address: the last one stands.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use board::insight::{HostCode, HostPart, Snapshot};
use insight::Symbols;
use vms::control::ClientError;

use super::session::Session;
use super::{kernel, note};
use crate::error::CliError;
use crate::exit::Failure;

/// Blocks begin at round addresses, so that there is nothing between two that are less apart.
const GAP: u64 = 64;

/// Where perf looks for a process's map.
pub fn path(pid: u32) -> PathBuf {
    format!("/tmp/perf-{pid}.map").into()
}

/// An empty map, ours alone. What is there is removed first, since anybody may have put it there.
pub fn create(path: &Path) -> Result<File, CliError> {
    let removed = fs::remove_file(path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    });
    let opened =
        removed.and_then(|()| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path));
    opened.map_err(|error| {
        CliError::new(Failure::Host, format!("cannot write {}", path.display())).because(error)
    })
}

/// Writes the map of a machine, with its kernel's names if there are any.
pub fn write(session: &mut Session<'_>, to: &File) -> Result<(), CliError> {
    let symbols = kernel::symbols(session, None).unwrap_or_else(|error| {
        note(&error.message());
        Symbols::default()
    });
    let mut lines = Lines { to: BufWriter::new(to), last: None };
    let failed = |error: io::Error| CliError::new(Failure::Host, "cannot write perf's map").because(error);
    let Snapshot { vcpus, .. } = session.counters(0).map_err(|error| session.failed(error))?;
    for vcpu in 0..vcpus {
        let mut from = 0;
        loop {
            let parts = session.host_code(vcpu, from).map_err(|error| session.failed(error))?;
            let Some(last) = parts.last() else { break };
            // Whatever a VM says, this goes on.
            let next = last.address.saturating_add(1);
            if next <= from {
                return Err(session.failed(ClientError::Nonsense("code in no order".into())));
            }
            from = next;
            for part in &parts {
                lines.add(part.address, part.len, name(part, &symbols)).map_err(failed)?;
            }
        }
    }
    lines.end().map_err(failed)
}

/// A map as it is written: ranges side by side with one name are one.
struct Lines<W: Write> {
    to: W,
    last: Option<(u64, u64, String)>,
}

impl<W: Write> Lines<W> {
    fn add(&mut self, start: u64, len: u64, name: String) -> io::Result<()> {
        let end = start.saturating_add(len);
        match &mut self.last {
            Some((_, last_end, last)) if *last == name && (*last_end..*last_end + GAP).contains(&start) => {
                *last_end = end;
                Ok(())
            }
            _ => {
                self.put()?;
                self.last = Some((start, end, name));
                Ok(())
            }
        }
    }

    fn put(&mut self) -> io::Result<()> {
        match self.last.take() {
            Some((start, end, name)) => writeln!(self.to, "{start:x} {:x} {name}", end - start),
            None => Ok(()),
        }
    }

    fn end(mut self) -> io::Result<()> {
        self.put()?;
        self.to.flush()
    }
}

/// In one word.
fn name(part: &HostCode, symbols: &Symbols) -> String {
    let name = match &part.part {
        HostPart::Engine(what) => format!("popf:{what}"),
        HostPart::Guest { rip, user, way_out } => {
            let (whose, out) = (if *user { "user" } else { "guest" }, if *way_out { ":way-out" } else { "" });
            match insight::function(symbols, *rip) {
                Some((function, _)) if !user => format!("{whose}:{function}{out}"),
                _ => format!("{whose}:{rip:x}{out}"),
            }
        }
    };
    name.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_word() {
        let symbols = Symbols::new(vec![(0xffff_ffff_8100_0000, "do one\nthing".into())]);
        let named = |part| name(&HostCode { address: 1, len: 1, part }, &symbols);
        let guest = |rip, user, way_out| named(HostPart::Guest { rip, user, way_out });
        assert_eq!(guest(0xffff_ffff_8100_0004, false, false), "guest:do_one_thing");
        assert_eq!(guest(0xffff_ffff_8100_0004, false, true), "guest:do_one_thing:way-out");
        assert_eq!(guest(0x1000, false, false), "guest:1000");
        assert_eq!(guest(0x7f00_0000_1000, true, false), "user:7f0000001000");
        assert_eq!(named(HostPart::Engine("leave".into())), "popf:leave");
    }

    #[test]
    fn ranges_side_by_side_with_one_name_are_one() {
        let mut text = Vec::new();
        let mut lines = Lines { to: &mut text, last: None };
        for (start, len, name) in
            [(0x100, 0x10, "a"), (0x120, 0x20, "a"), (0x140, 1, "b"), (0x160, 1, "a"), (0x200, 1, "a")]
        {
            lines.add(start, len, name.into()).unwrap();
        }
        lines.end().unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "100 40 a\n140 1 b\n160 1 a\n200 1 a\n");
    }

    #[test]
    fn a_map_takes_the_place_of_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (map, other) = (folder.path().join("map"), folder.path().join("other"));
        fs::write(&other, "another's").unwrap();
        std::os::unix::fs::symlink(&other, &map).unwrap();
        create(&map).unwrap().write_all(b"ours").unwrap();
        assert_eq!(
            (fs::read(&other).unwrap(), fs::read(&map).unwrap()),
            (b"another's".to_vec(), b"ours".to_vec())
        );
    }
}
