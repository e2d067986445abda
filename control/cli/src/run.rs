//! `popf run`.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use board::engine::EngineChoice;
use board::machine::{BuildError, Config, Control, End, Source};
use board::map::MemoryMap;
use board::serial::SerialLine;
use board::stop::StopReason;
use board::virtio::Peripheral;
use board::{Serial, SerialError, SerialEvent, SerialKind};

use crate::args::{EngineArg, RunArgs, SerialArg};
use crate::error::CliError;
use crate::exit::{Failure, signal_status};
use crate::size::Size;
use crate::{disk, image, limits, stats};

/// SIGPIPE: nobody reads.
const SIGPIPE: i32 = 13;

/// What a kernel of the user's own is told, unless they say.
const DEFAULT_CMDLINE: &str = "console=ttyS0";

/// What of the configuration depends on how popf is used.
struct Guest {
    kernel: Source,
    modules: Vec<Source>,
    cmdline: String,
    /// COM1 and COM2.
    serial: [Line; 2],
    debug_exit: bool,
    reboot: bool,
}

/// Where a serial port goes.
enum Line {
    Kind(SerialKind),
    /// Standard output, without input.
    Output,
}

/// Boots and runs to the end; popf's exit status.
pub fn run(args: &RunArgs) -> Result<u8, CliError> {
    check_memory(args.memory)?;
    let guest = match (&args.image, &args.kernel) {
        (Some(name), _) if args.command.is_empty() => shell(args, name)?,
        (Some(name), _) => command(args, name)?,
        (None, Some(kernel)) => own_kernel(args, kernel)?,
        (None, None) => {
            return Err(CliError::new(Failure::Usage, "give an image or --kernel"));
        }
    };
    let mut peripherals: Vec<Arc<dyn Peripheral>> = vec![Arc::new(board::virtio::Rng)];
    for spec in &args.disk {
        peripherals.push(Arc::new(disk::open(spec)?));
    }
    let control = Control::default();
    let mut serial = Vec::new();
    for line in guest.serial {
        serial.push(Arc::new(open(line, control.clone())?));
    }
    let config = Config {
        memory: args.memory.0,
        cpus: args.cpus,
        engine: match args.engine {
            EngineArg::Auto => EngineChoice::Auto,
            EngineArg::Translator => EngineChoice::Translator,
        },
        kernel: guest.kernel,
        modules: guest.modules,
        cmdline: guest.cmdline,
        serial: serial.clone(),
        peripherals,
        debug_exit: guest.debug_exit,
        reboot: guest.reboot,
    };
    let ended = {
        let _signals = catch_signals(control.clone(), serial)?;
        board::machine::run(&config, &control)
    };
    // Writes the last of the output and gives the terminal back, before popf itself has anything to say.
    drop(config);
    let end = ended.map_err(build_error)?;
    if args.stats {
        stats::print(&end.statistics);
    }
    status(end, !args.command.is_empty())
}

/// Before anything is built or fetched.
fn check_memory(size: Size) -> Result<(), CliError> {
    let refuse = |error: board::map::SizeError| {
        CliError::new(Failure::Usage, format!("--memory {size} will not do"))
            .because(error)
            .hint("try --memory 512M")
    };
    MemoryMap::new(size.0).map_err(refuse)?;
    if let Some(total) = host::system::total_memory()
        && size.0 > total
    {
        return Err(too_much(size.0, total));
    }
    let needed = limits::needed_address_space(size.0);
    match limits::address_space() {
        // Found out half-way it would be an allocation that fails anywhere.
        Some(limit) if limit < needed => Err(CliError::new(
            Failure::Host,
            format!(
                "this process may use {} MiB of address space, a guest with --memory {size} needs {} MiB",
                limit >> 20,
                needed >> 20
            ),
        )
        .hint("raise the limit (ulimit -v) or give the guest less with --memory")),
        _ => Ok(()),
    }
}

fn too_much(wanted: u64, total: u64) -> CliError {
    CliError::new(
        Failure::Host,
        format!("--memory {} is more than this host has ({} MiB)", Size(wanted), total >> 20),
    )
    .hint("give the guest less with --memory")
}

/// An image with its shell on the terminal.
fn shell(args: &RunArgs, name: &str) -> Result<Guest, CliError> {
    let image = image::find_or_build(name)?;
    let mut cmdline = image.cmdline.clone();
    let com1 = match &args.serial {
        SerialArg::Stdio => {
            add_terminal(&mut cmdline);
            SerialKind::Stdio
        }
        SerialArg::Null => SerialKind::Null,
        SerialArg::File(path) => SerialKind::File(path.clone()),
    };
    add(&mut cmdline, args.cmdline.as_deref());
    Ok(Guest {
        kernel: Source::File(image.kernel.clone()),
        modules: vec![Source::File(image.initrd.clone())],
        cmdline,
        serial: [Line::Kind(com1), Line::Kind(SerialKind::Null)],
        debug_exit: args.debug_exit,
        reboot: !args.no_reboot,
    })
}

/// An image with one command: COM1 is its standard output, COM2 its standard error, the debug-exit port its
/// status.
fn command(args: &RunArgs, name: &str) -> Result<Guest, CliError> {
    let tty = !args.stdin && io::stdin().is_terminal() && io::stdout().is_terminal();
    let stdin = if args.stdin { images::Stdin::Bytes(read_stdin(args.memory)?) } else { images::Stdin::Null };
    let overlay = images::Overlay { tty, stdin, ..images::Overlay::default() };
    let overlay = images::overlay(&args.command, &overlay)?;
    let image = image::find_or_build(name)?;
    let mut cmdline = image.command_cmdline.clone();
    if tty {
        add_terminal(&mut cmdline);
    }
    add(&mut cmdline, args.cmdline.as_deref());
    Ok(Guest {
        kernel: Source::File(image.kernel.clone()),
        modules: vec![Source::File(image.initrd.clone()), Source::Bytes(overlay.into())],
        cmdline,
        serial: [
            if tty { Line::Kind(SerialKind::Stdio) } else { Line::Output },
            Line::Kind(SerialKind::Stderr),
        ],
        debug_exit: true,
        // The command would run again.
        reboot: false,
    })
}

fn own_kernel(args: &RunArgs, kernel: &Path) -> Result<Guest, CliError> {
    for path in std::iter::once(kernel).chain(args.initrd.iter().map(AsRef::as_ref)) {
        check_file(path)?;
    }
    let com1 = match &args.serial {
        SerialArg::Stdio => SerialKind::Stdio,
        SerialArg::Null => SerialKind::Null,
        SerialArg::File(path) => SerialKind::File(path.clone()),
    };
    Ok(Guest {
        kernel: Source::File(kernel.into()),
        modules: args.initrd.iter().cloned().map(Source::File).collect(),
        cmdline: args.cmdline.clone().unwrap_or_else(|| DEFAULT_CMDLINE.into()),
        serial: [Line::Kind(com1), Line::Kind(SerialKind::Null)],
        debug_exit: args.debug_exit,
        reboot: !args.no_reboot,
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

fn open(line: Line, control: Control) -> Result<SerialLine, CliError> {
    let event = move |event| match event {
        SerialEvent::Quit => control.stop(StopReason::Quit),
        SerialEvent::OutputFailed(error) => control.stop(StopReason::OutputFailed(error)),
        // The guest may have more to say.
        SerialEvent::InputEnded => {}
    };
    let opened = match line {
        Line::Kind(kind) => SerialLine::open(&kind, event),
        Line::Output => io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(SerialError::Stream)
            .and_then(|output| Serial::on_descriptors(None, output))
            .and_then(|serial| SerialLine::start(serial, event)),
    };
    opened.map_err(|error| CliError::new(Failure::Host, "cannot open a serial port").because(error))
}

/// Ends the guest at a signal; its unwritten output is given up, since who ought to take it may be what hangs.
fn catch_signals(control: Control, lines: Vec<Arc<SerialLine>>) -> Result<host::Signals, CliError> {
    use host::Signal::{HangUp, Interrupt, Quit, Terminate};
    host::Signals::deliver(&[Interrupt, Terminate, HangUp, Quit], move |signal| {
        for line in &lines {
            line.abandon_output();
        }
        control.stop(StopReason::Signal(signal.number()));
    })
    .map_err(|error| CliError::new(Failure::Host, "cannot catch signals").because(error))
}

fn build_error(error: BuildError) -> CliError {
    let failure = match &error {
        BuildError::HostMemory { wanted, total } => return too_much(*wanted, *total),
        BuildError::Size(_) => Failure::Usage,
        BuildError::Read { .. } => Failure::NoInput,
        BuildError::Load(_) => Failure::Data,
        BuildError::Memory(_) | BuildError::Engine { .. } | BuildError::Timers(_) => Failure::Host,
        _ => Failure::Software,
    };
    let hint = match &error {
        BuildError::Load(_) => {
            Some("popf boots Linux bzImages, and ELF with a PVH note or a multiboot header")
        }
        BuildError::Memory(_) => Some("give the guest less with --memory, or see `popf doctor`"),
        BuildError::Engine { .. } => Some("`popf doctor` shows what this host offers"),
        _ => None,
    };
    let error = CliError::new(failure, "cannot start the guest").because(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// What the end of the guest means for popf's.
fn status(end: End, command_mode: bool) -> Result<u8, CliError> {
    let fail = |failure, message: &str| Err(CliError::new(failure, message));
    match end.reason {
        StopReason::DebugExit(value) => Ok(value as u8),
        StopReason::PowerOff if command_mode => {
            fail(Failure::Software, "the guest turned itself off before the command had ended")
        }
        StopReason::Reset if command_mode => fail(
            Failure::Software,
            "the guest's kernel gave up before the command had ended; what it said is above",
        ),
        StopReason::PowerOff | StopReason::Reset => Ok(0),
        StopReason::Signal(number) => Ok(signal_status(number)),
        StopReason::Quit => fail(Failure::Quit, "quit by the escape key"),
        StopReason::TripleFault(report) => Err(CliError::new(
            Failure::TripleFault,
            format!("the guest's processor shut down after a triple fault ({report})"),
        )),
        StopReason::Dead => fail(Failure::Dead, "the guest halted its only processor with interrupts off"),
        StopReason::Failed(failure) => {
            Err(CliError::new(Failure::Software, "the guest cannot go on").because(failure))
        }
        StopReason::NoThread(error) => {
            Err(CliError::new(Failure::Host, "cannot start a thread").because(error))
        }
        StopReason::OutputFailed(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(signal_status(SIGPIPE))
        }
        StopReason::OutputFailed(error) => {
            Err(CliError::new(Failure::Host, "cannot write the guest's output").because(error))
        }
        StopReason::Bug => fail(Failure::Software, "a bug in popf ended the guest; please report it"),
    }
}
