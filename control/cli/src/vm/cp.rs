//! `popf cp`: files and folders through a tar archive, which the guest's own tar reads or writes.
//!
//! Nothing that comes from a guest is believed: its archive is unpacked by a library that lets no entry out of the
//! folder it is unpacked to.
//!
//! Not modelled: owners (root's in the guest, the user's here), extended attributes, sparse files.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use agent::{Event, Program, Receiver, Session};
use tar::{Archive, Builder};
use vms::{Name, Registry, Running};

use crate::args::{CpArgs, Place};
use crate::error::CliError;
use crate::exit::Failure;

/// How long a guest may take to answer, which may be starting still.
const PATIENCE: Duration = Duration::from_secs(60);
/// So much of what the guest's tar complains of is told.
const COMPLAINTS_LIMIT: usize = 4096;

/// Copies.
pub fn cp(args: &CpArgs) -> Result<u8, CliError> {
    match (&args.source, &args.target) {
        (Place { vm: None, path: from }, Place { vm: Some(name), path: to }) => to_guest(from, name, to)?,
        (Place { vm: Some(name), path: from }, Place { vm: None, path: to }) => from_guest(name, from, to)?,
        _ => {
            return Err(CliError::new(Failure::Usage, "one of the two has to be in a VM: NAME:PATH")
                .hint("from one VM to another it takes two steps, by way of a path here"));
        }
    }
    Ok(0)
}

/// A guest in which programs are run.
struct Guest {
    vm: Running,
}

impl Guest {
    fn of(name: &Name) -> Result<Self, CliError> {
        Ok(Self { vm: Registry::of_user()?.running(name)? })
    }

    fn start(&self, arguments: &[&OsStr]) -> Result<Session, CliError> {
        let stream = agent::connect(&self.vm.path(vms::VSOCK_SOCKET), Instant::now() + PATIENCE)?;
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Ok(Session::start(stream, &Program { arguments, ..Program::default() })?)
    }

    fn has_directory(&self, path: &OsStr) -> Result<bool, CliError> {
        let mut output = Output::new(self.start(&["test".as_ref(), "-d".as_ref(), path])?.receiver);
        io::copy(&mut output, &mut io::sink()).map_err(lost)?;
        Ok(matches!(output.end, Some(Event::Exited(0))))
    }
}

fn to_guest(from: &Path, name: &Name, to: &Path) -> Result<(), CliError> {
    let unreadable = |error: io::Error| {
        CliError::new(Failure::NoInput, format!("cannot copy {}", from.display())).because(error)
    };
    // `.` and the like have a name only where they lead to.
    let own_name = match from.file_name() {
        Some(name) => name.to_owned(),
        None => fs::canonicalize(from).map_err(unreadable)?.file_name().unwrap_or("root".as_ref()).to_owned(),
    };
    let is_directory = fs::metadata(from).map_err(unreadable)?.is_dir();
    let guest = Guest::of(name)?;
    let (directory, new_name) = if to.as_os_str().is_empty() || guest.has_directory(to.as_os_str())? {
        (in_guest(to), own_name)
    } else {
        split(to)?
    };
    let arguments: [&OsStr; 6] = [
        "tar".as_ref(),
        "--extract".as_ref(),
        "--no-same-owner".as_ref(),
        "--preserve-permissions".as_ref(),
        "--directory".as_ref(),
        &directory,
    ];
    let Session { sender, receiver } = guest.start(&arguments)?;
    // What tar says is read while it is fed, so that neither waits for the other.
    let output = std::thread::spawn(move || {
        let mut output = Output::new(receiver);
        io::copy(&mut output, &mut io::sink()).map(|_| output)
    });
    let mut archive = Builder::new(io::BufWriter::with_capacity(32 << 10, sender.clone()));
    archive.follow_symlinks(false);
    let written = if is_directory {
        archive.append_dir_all(&new_name, from)
    } else {
        fs::File::open(from).and_then(|mut file| archive.append_file(&new_name, &mut file))
    };
    let written = written.and_then(|()| archive.into_inner()?.flush());
    if written.is_ok() {
        sender.end_input()?;
    } else {
        // Not the end of an archive, but none.
        sender.hang_up();
    }
    let output = output.join().map_err(|_| CliError::new(Failure::Software, "a thread has failed"))?;
    match (written, output) {
        // That the guest hung up is what its tar's complaint explains.
        (Err(error), Err(_)) => Err(unreadable(error)),
        (_, Ok(output)) => output.succeed("the guest's tar cannot write what was sent"),
        (Ok(()), Err(error)) => Err(lost(error)),
    }
}

fn from_guest(name: &Name, from: &Path, to: &Path) -> Result<(), CliError> {
    let (directory, own_name) = split(from)?;
    let guest = Guest::of(name)?;
    let arguments: [&OsStr; 6] =
        ["tar".as_ref(), "--create".as_ref(), "--directory".as_ref(), &directory, "--".as_ref(), &own_name];
    let unwritable = |error: io::Error| {
        CliError::new(Failure::Host, format!("cannot write {}", to.display())).because(error)
    };
    let session = guest.start(&arguments)?;
    let mut output = Output::new(session.receiver);
    if to.is_dir() {
        unpack(&mut output, to).map_err(unwritable)?;
    } else {
        let target = std::path::absolute(to).map_err(unwritable)?;
        let parent = target.parent().unwrap_or(Path::new("/"));
        // Beside the target, which gets its name when all of it is there.
        let workshop = tempfile::Builder::new().prefix(".popf-cp-").tempdir_in(parent).map_err(unwritable)?;
        unpack(&mut output, workshop.path()).map_err(unwritable)?;
        let whole = workshop.path().join(&own_name);
        if whole.symlink_metadata().is_ok() {
            fs::rename(whole, &target).map_err(unwritable)?;
        }
    }
    output.succeed("the guest's tar cannot read it")
}

/// Unpacks what the guest sends, and reads to the end.
fn unpack(output: &mut impl Read, directory: &Path) -> io::Result<()> {
    Archive::new(&mut *output).unpack(directory)?;
    io::copy(output, &mut io::sink()).map(drop)
}

/// A path's folder in the guest, and its name there.
fn split(path: &Path) -> Result<(OsString, OsString), CliError> {
    let name = match path.components().next_back() {
        Some(Component::Normal(name)) => name.to_owned(),
        _ => {
            let message = format!("{:?} does not end with a file's name", path.display().to_string());
            return Err(CliError::new(Failure::Usage, message));
        }
    };
    Ok((in_guest(path.parent().unwrap_or(Path::new(""))), name))
}

/// As a program in the guest takes it for a path, whatever it begins with.
fn in_guest(path: &Path) -> OsString {
    match path.as_os_str().as_bytes().first() {
        Some(b'/') => path.into(),
        _ => PathBuf::from(".").join(path).into(),
    }
}

fn lost(error: io::Error) -> CliError {
    CliError::new(Failure::Unavailable, "the guest did not answer to the end").because(error)
}

/// A program's standard output as a reader; what it complains of is kept.
struct Output {
    receiver: Receiver,
    rest: Vec<u8>,
    /// How far `rest` has been read.
    at: usize,
    complaints: Vec<u8>,
    end: Option<Event>,
}

impl Output {
    fn new(receiver: Receiver) -> Self {
        Self { receiver, rest: Vec::new(), at: 0, complaints: Vec::new(), end: None }
    }

    fn succeed(self, what: &str) -> Result<(), CliError> {
        match self.end {
            Some(Event::Exited(0)) => Ok(()),
            _ => {
                // Control characters of a guest's have no business on the user's terminal.
                let plain = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
                let said: String =
                    String::from_utf8_lossy(&self.complaints).trim().chars().map(plain).collect();
                Err(CliError::new(Failure::Data, what).because(said))
            }
        }
    }
}

impl Read for Output {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.rest.len() && self.end.is_none() {
            match self.receiver.next_event().map_err(io::Error::other)? {
                Event::Output(bytes) => (self.rest, self.at) = (bytes, 0),
                Event::Errors(bytes) => {
                    let room = COMPLAINTS_LIMIT - self.complaints.len();
                    self.complaints.extend(bytes.iter().take(room));
                }
                end => self.end = Some(end),
            }
        }
        let count = (&self.rest[self.at..]).read(into)?;
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::{EntryType, Header};

    fn entry(name: &str, kind: EntryType, link: &str) -> Vec<u8> {
        let mut header = Header::new_gnu();
        // As it is: the library would not write such names.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(0);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        let mut archive = Builder::new(Vec::new());
        archive.append(&header, io::empty()).unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn a_guests_archive_does_not_lead_out_of_the_folder() {
        let directory = tempfile::tempdir().unwrap();
        let [inside, outside] = ["inside", "outside"].map(|name| directory.path().join(name));
        fs::create_dir(&outside).unwrap();
        let out = outside.to_str().unwrap();
        let way = entry("way", EntryType::Symlink, out);
        // Each entry ends with the two blocks of zeros of an archive's end.
        let through = [&way[..way.len() - 1024], &entry("way/through", EntryType::Regular, "")].concat();
        for archive in [
            entry("../outside/dots", EntryType::Regular, ""),
            entry(&format!("{out}/absolute"), EntryType::Regular, ""),
            entry("link", EntryType::Link, "../outside"),
            through,
        ] {
            fs::create_dir(&inside).unwrap();
            // It may be refused, or written somewhere inside.
            let _ = unpack(&mut archive.as_slice(), &inside);
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
            fs::remove_dir_all(&inside).unwrap();
        }
    }

    #[test]
    fn paths_come_apart() {
        let parts = |path: &str| {
            let (directory, name) = split(Path::new(path)).ok()?;
            Some((directory.into_string().unwrap(), name.into_string().unwrap()))
        };
        let some = |directory: &str, name: &str| Some((directory.to_owned(), name.to_owned()));
        assert_eq!(parts("/etc/passwd"), some("/etc", "passwd"));
        assert_eq!(parts("/etc/"), some("/", "etc"));
        assert_eq!(parts("a/b"), some("./a", "b"));
        assert_eq!(parts("-x"), some("./", "-x"));
        for path in ["/", "..", "a/..", ""] {
            assert_eq!(parts(path), None, "{path}");
        }
    }
}
