//! A guest's Linux kernel, found in its memory: where its code is, and what it calls its functions.

use std::fs;
use std::path::Path;

use board::insight::Mapped;
use insight::Symbols;
use insight::kallsyms::{self, Piece};
use vms::control::ClientError;

use super::session::Session;
use crate::error::CliError;
use crate::exit::Failure;

/// Where a 64-bit Linux kernel's image is, wherever in it a random place was chosen (Documentation/arch/x86/x86_64/mm.rst).
const IMAGE: (u64, u64) = (0xffff_ffff_8000_0000, 0xffff_ffff_c000_0000);
/// A kernel's image is no larger; so much of it is read at most.
const MOST: u64 = 128 << 20;
/// The most that is read of a file of names.
const MOST_NAMES: u64 = 64 << 20;

/// The pages of the kernel's image.
pub fn pages(session: &mut Session) -> Result<Vec<Mapped>, ClientError> {
    session.mappings(IMAGE.0, IMAGE.1)
}

/// Reads ranges of memory, as much as is there and no more than a kernel has.
pub fn read<'a>(
    session: &mut Session,
    ranges: impl Iterator<Item = &'a Mapped>,
) -> Result<Vec<Piece>, ClientError> {
    let mut room = MOST;
    let mut pieces = Vec::new();
    for range in ranges {
        let len = range.len.min(room);
        room -= len;
        let bytes = session.read(range.linear, len)?;
        pieces.push(Piece { address: range.linear, bytes });
    }
    Ok(pieces)
}

/// The names of the guest's functions: from a file, or from the kernel itself.
pub fn symbols(session: &mut Session, file: Option<&Path>) -> Result<Symbols, CliError> {
    let pages = pages(session).map_err(|error| session.failed(error))?;
    if let Some(path) = file {
        let names = from_file(path)?;
        // The map of a kernel that was built, not of one that runs: it has been moved since.
        let begins = names.address("_text").zip(pages.first());
        let distance = begins.map_or(0, |(text, first)| first.linear.wrapping_sub(text));
        return Ok(names.moved(distance));
    }
    // Its tables are data; until late in its start all is executable alike.
    let data = |range: &&Mapped| !range.executable;
    let mut found = Err(kallsyms::KallsymsError::NoTokens);
    for executable in [false, true] {
        let ranges = pages.iter().filter(|range| data(range) != executable);
        let pieces = read(session, ranges).map_err(|error| session.failed(error))?;
        found = kallsyms::find(&pieces);
        if found.is_ok() {
            break;
        }
    }
    found.map_err(|error| {
        CliError::new(Failure::Data, format!("cannot find the names of {}'s kernel", session.name()))
            .because(error)
            .hint("it may be starting still, or be no Linux; --symbols FILE gives names")
    })
}

fn from_file(path: &Path) -> Result<Symbols, CliError> {
    let fail = |error: std::io::Error| {
        CliError::new(Failure::NoInput, format!("cannot read {}", path.display())).because(error)
    };
    let wrong = |what: &str| {
        CliError::new(Failure::Data, format!("{} {what}", path.display()))
            .hint("it is to be a System.map, or what /proc/kallsyms says in the guest to root")
    };
    if fs::metadata(path).map_err(fail)?.len() > MOST_NAMES {
        return Err(wrong("is too long for a list of names"));
    }
    let bytes = fs::read(path).map_err(fail)?;
    let symbols = Symbols::from_map(&String::from_utf8_lossy(&bytes));
    if symbols.is_empty() || symbols.addresses().all(|address| address == 0) {
        return Err(wrong("names no function at an address"));
    }
    Ok(symbols)
}
