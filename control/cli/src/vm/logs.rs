//! `popf logs`.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use host::event::{Wait, poll};
use host::watch::Watch;
use vms::control::Waiting;
use vms::{Error, Registry, Running};

use crate::args::LogsArgs;
use crate::error::CliError;
use crate::exit::Failure;

/// Shows a detached VM's console, as far as it is kept.
pub fn logs(args: &LogsArgs) -> Result<u8, CliError> {
    let registry = Registry::of_user()?;
    let running = match registry.running(&args.name) {
        Ok(vm) => Some(vm),
        Err(Error::Stopped { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let none = || {
        CliError::new(Failure::NoInput, format!("{} has no log", args.name))
            .hint("the console of a VM that is not detached is where it was started")
    };
    let directory = registry.kept(&args.name).map_err(|_| none())?;
    let failed = |error: host::HostError| {
        CliError::new(Failure::Host, format!("cannot watch {}", directory.display())).because(error)
    };
    // Both from before the first look, so that nothing comes in between unnoticed.
    let watch = Watch::directory(&directory).map_err(failed)?;
    let end = running.filter(|_| args.follow).and_then(|vm| end_of(&vm));

    let mut log = Log { path: directory.join(vms::CONSOLE_LOG), file: None, out: io::stdout() };
    let mut read = log.show_all()?;
    if log.file.is_none() {
        return Err(none());
    }
    while let Some(end) = &end
        && read
    {
        let mut waits = [Wait::readable(&watch), Wait::readable(end)];
        poll(&mut waits, None).map_err(failed)?;
        let ended = waits[1].ready();
        watch.clear();
        read = log.show_new()? && !ended;
    }
    Ok(0)
}

/// Tells of a VM's end; `None` if it has ended in the meantime.
fn end_of(vm: &Running) -> Option<Waiting> {
    vm.control().ok()?.wait().ok()
}

/// A log that grows, and begins anew now and then.
struct Log<W> {
    path: PathBuf,
    /// What is being shown.
    file: Option<File>,
    out: W,
}

impl<W: Write> Log<W> {
    /// Shows what is there, the earlier part first; `false` if nobody reads it.
    fn show_all(&mut self) -> Result<bool, CliError> {
        match File::open(backends::earlier(&self.path)) {
            Ok(mut file) => Ok(self.copy(&mut file)? && self.show_new()?),
            Err(error) if error.kind() == ErrorKind::NotFound => self.show_new(),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Shows what has come since; `false` if nobody reads it.
    fn show_new(&mut self) -> Result<bool, CliError> {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        if let Some(mut file) = self.file.take() {
            // In this order: what is written before the file is renamed is read after we have seen that.
            let current = fs::metadata(&self.path).map(identity).ok();
            let read = self.copy(&mut file)?;
            let same = current.is_none() || file.metadata().map(identity).ok() == current;
            if same || !read {
                self.file = Some(file);
                return Ok(read);
            }
        }
        match File::open(&self.path) {
            Ok(mut file) => {
                let read = self.copy(&mut file)?;
                self.file = Some(file);
                Ok(read)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Copies a file from where it is to its end; `false` if nobody reads.
    fn copy(&mut self, file: &mut File) -> Result<bool, CliError> {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let count = file.read(&mut bytes).map_err(|error| self.failed(error))?;
            if count == 0 {
                return Ok(true);
            }
            match self.out.write_all(&bytes[..count]).and_then(|()| self.out.flush()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(false),
                Err(error) => {
                    let message = "cannot write to standard output";
                    return Err(CliError::new(Failure::Host, message).because(error));
                }
            }
        }
    }

    fn failed(&self, error: io::Error) -> CliError {
        CliError::new(Failure::Host, format!("cannot read {}", self.path.display())).because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_begins_anew_is_shown_without_a_gap() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let earlier = backends::earlier(&path);
        let mut log = Log { path: path.clone(), file: None, out: Vec::new() };
        log.show_all().unwrap();
        assert!(log.file.is_none());
        fs::write(&earlier, "1").unwrap();
        fs::write(&path, "2").unwrap();
        log.show_all().unwrap();
        let append = |text: &str| {
            let mut file = File::options().append(true).create(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append("3");
        log.show_new().unwrap();
        append("4");
        fs::rename(&path, &earlier).unwrap();
        log.show_new().unwrap();
        append("5");
        log.show_new().unwrap();
        log.show_new().unwrap();
        assert_eq!(String::from_utf8(log.out).unwrap(), "12345");
    }
}
