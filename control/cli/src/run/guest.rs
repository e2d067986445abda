//! From an image or a kernel to what the board boots.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use board::SerialKind;
use board::machine::Source;
use images::Image;

use super::serial::Line;
use crate::definition::{Definition, SerialArg};
use crate::error::CliError;
use crate::exit::Failure;
use crate::image;
use crate::size::Size;

/// What a kernel of the user's own is told, unless they say.
const DEFAULT_CMDLINE: &str = "console=ttyS0";

/// What of the configuration depends on how popf is used.
pub struct Guest {
    pub kernel: Source,
    pub modules: Vec<Source>,
    pub cmdline: String,
    /// The image's disk, which is not to be written.
    pub disk: Option<PathBuf>,
    /// Whether the agent in the guest runs the command.
    pub by_agent: bool,
    /// COM1 and COM2.
    pub serial: [Line; 2],
    pub debug_exit: bool,
    pub reboot: bool,
}

impl Guest {
    /// Finds what a definition names; an image that is missing is built.
    pub fn of(definition: &Definition) -> Result<Self, CliError> {
        let mut guest = match (&definition.image, &definition.kernel) {
            (Some(name), _) if definition.command_mode() => command(definition, name)?,
            (Some(name), _) => shell(definition, name)?,
            (None, Some(kernel)) => own_kernel(definition, kernel)?,
            (None, None) => return Err(CliError::new(Failure::Usage, "give an image or --kernel")),
        };
        for (index, volume) in definition.volume.iter().enumerate() {
            add(&mut guest.cmdline, Some(&volume.parameter(index)));
        }
        Ok(guest)
    }
}

/// Where the console goes when no command has the serial ports.
fn console(definition: &Definition) -> Line {
    match definition.serial() {
        None if definition.detached() => Line::ConsoleLog,
        given => Line::Kind(given.unwrap_or(&SerialArg::Stdio).kind()),
    }
}

/// An image with its shell on the terminal.
fn shell(definition: &Definition, name: &str) -> Result<Guest, CliError> {
    let image = image::find_or_build(name)?;
    let mut cmdline = image.cmdline.clone();
    add_name(&mut cmdline, definition);
    let console = console(definition);
    if matches!(console, Line::Kind(SerialKind::Stdio)) {
        add_terminal(&mut cmdline);
    }
    add(&mut cmdline, definition.cmdline.as_deref());
    Ok(Guest {
        kernel: Source::File(image.kernel.clone()),
        modules: vec![Source::File(image.initrd.clone())],
        cmdline,
        disk: image.disk.clone(),
        by_agent: false,
        serial: [console, Line::Kind(SerialKind::Null)],
        debug_exit: definition.debug_exit.unwrap_or(false),
        reboot: !definition.no_reboot.unwrap_or(false),
    })
}

/// An image with one command.
fn command(definition: &Definition, name: &str) -> Result<Guest, CliError> {
    let image = image::find_or_build(name)?;
    match image.disk {
        Some(_) => command_by_agent(definition, &image),
        None => command_by_ports(definition, &image),
    }
}

/// The agent carries its streams and status; the kernel speaks, if it dies, on standard error.
fn command_by_agent(definition: &Definition, image: &Image) -> Result<Guest, CliError> {
    let mut cmdline = image.command_cmdline.clone();
    add_name(&mut cmdline, definition);
    add(&mut cmdline, definition.cmdline.as_deref());
    Ok(Guest {
        kernel: Source::File(image.kernel.clone()),
        modules: vec![Source::File(image.initrd.clone())],
        cmdline,
        disk: image.disk.clone(),
        by_agent: true,
        serial: [Line::Kind(SerialKind::Null), Line::Kind(SerialKind::Stderr)],
        debug_exit: false,
        // The command would run again.
        reboot: false,
    })
}

/// COM1 is its standard output, COM2 its standard error, the debug-exit port its status.
fn command_by_ports(definition: &Definition, image: &Image) -> Result<Guest, CliError> {
    let stdin = definition.stdin.unwrap_or(false);
    let tty = !stdin && io::stdin().is_terminal() && io::stdout().is_terminal();
    let stdin =
        if stdin { images::Stdin::Bytes(read_stdin(definition.memory())?) } else { images::Stdin::Null };
    let overlay = images::Overlay { tty, stdin, ..images::Overlay::default() };
    let overlay = images::overlay(&definition.command, &overlay)?;
    let mut cmdline = image.command_cmdline.clone();
    if tty {
        add_terminal(&mut cmdline);
    }
    add(&mut cmdline, definition.cmdline.as_deref());
    Ok(Guest {
        kernel: Source::File(image.kernel.clone()),
        modules: vec![Source::File(image.initrd.clone()), Source::Bytes(overlay.into())],
        cmdline,
        disk: None,
        by_agent: false,
        serial: [
            if tty { Line::Kind(SerialKind::Stdio) } else { Line::Output },
            Line::Kind(SerialKind::Stderr),
        ],
        debug_exit: true,
        // The command would run again.
        reboot: false,
    })
}

fn own_kernel(definition: &Definition, kernel: &Path) -> Result<Guest, CliError> {
    for path in std::iter::once(kernel).chain(definition.initrd.iter().map(AsRef::as_ref)) {
        check_file(path)?;
    }
    Ok(Guest {
        kernel: Source::File(kernel.into()),
        modules: definition.initrd.iter().cloned().map(Source::File).collect(),
        cmdline: definition.cmdline.clone().unwrap_or_else(|| DEFAULT_CMDLINE.into()),
        disk: None,
        by_agent: false,
        serial: [console(definition), Line::Kind(SerialKind::Null)],
        debug_exit: definition.debug_exit.unwrap_or(false),
        reboot: !definition.no_reboot.unwrap_or(false),
    })
}

/// A file that can be opened and has an end: a pipe could not be read again at the guest's next start.
fn check_file(path: &Path) -> Result<(), CliError> {
    let refuse = || CliError::new(Failure::NoInput, format!("cannot read {}", path.display()));
    let metadata = File::open(path)
        .and_then(|file| file.metadata())
        .map_err(|error| refuse().because(error).hint("check the path and its permissions"))?;
    if metadata.is_file() { Ok(()) } else { Err(refuse().because("it is not a regular file")) }
}

/// Everything up to the end of standard input, as long as it leaves the guest room to unpack it.
fn read_stdin(memory: Size) -> Result<Vec<u8>, CliError> {
    let limit = memory.0 / 4;
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|error| CliError::new(Failure::NoInput, "cannot read standard input").because(error))?;
    if bytes.len() as u64 > limit {
        let message = format!("standard input is larger than a quarter of the guest's {memory}");
        return Err(CliError::new(Failure::Data, message).hint("give the guest more with --memory"));
    }
    Ok(bytes)
}

/// A guest that is kept is called as its VM is.
fn add_name(cmdline: &mut String, definition: &Definition) {
    if let Some(name) = &definition.name {
        add(cmdline, Some(&format!("popf.hostname={name}")));
    }
}

fn add(cmdline: &mut String, words: Option<&str>) {
    if let Some(words) = words {
        cmdline.push(' ');
        cmdline.push_str(words);
    }
}

/// Tells the guest what kind of terminal it is on; a serial line cannot.
fn add_terminal(cmdline: &mut String) {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    if let Some(term) = std::env::var("TERM").ok().filter(|term| term.chars().all(plain)) {
        add(cmdline, Some(&format!("popf.term={term}")));
    }
    if let Some((columns, rows)) = host::terminal::window_size(stdout.as_fd()) {
        add(cmdline, Some(&format!("popf.rows={rows} popf.cols={columns}")));
    }
}
