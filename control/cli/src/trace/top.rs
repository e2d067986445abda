//! `popf top`: screens, one after the other.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::thread;
use std::time::{Duration, Instant};

use board::insight::Snapshot;
use insight::Symbols;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use vms::Name;

use super::frame::{Change, Frame, change, merge};
use super::record::Recorded;
use super::screen::{Overview, View, draw, draw_overview, printed};
use super::session::Session;
use super::{open, running, stacks};
use crate::args::TopArgs;
use crate::error::CliError;
use crate::exit::Failure;
use crate::image::print;

/// `popf top`.
pub fn top(args: &TopArgs) -> Result<u8, CliError> {
    if let Some(path) = &args.files.replay {
        return replay(args, &Recorded::read(path)?);
    }
    if !args.once && !std::io::stdout().is_terminal() {
        let error = CliError::new(Failure::Usage, "there is no terminal for a screen");
        return Err(error.hint("--once prints one; `popf trace` prints lists, also as JSON"));
    }
    match &args.name {
        Some(name) => one(args, name),
        None if args.files.record.is_some() => {
            Err(CliError::new(Failure::Usage, "a recording is of one VM").hint("popf top NAME --record FILE"))
        }
        None => all(args),
    }
}

/// One VM.
fn one(args: &TopArgs, name: &Name) -> Result<u8, CliError> {
    let mut watch = open(Session::open(name)?, &args.files, args.hertz)?;
    let ended = || CliError::new(Failure::NoInput, format!("{name} has ended"));
    let mut before = watch.look()?.ok_or_else(ended)?;
    let mut screen = Screen::open(args.once)?;
    loop {
        let until = Instant::now() + args.interval;
        watch.pass(until, |time| screen.wait(time).map(|wish| wish == Wish::None))?;
        if screen.quits {
            return Ok(0);
        }
        // The VM counts on while the screen stands still.
        if screen.still {
            continue;
        }
        let Some(now) = watch.look()? else {
            drop(screen);
            super::note(&format!("{name} has ended"));
            return Ok(0);
        };
        let status = format!("{:.0} s", now.at);
        screen.show(&name.to_string(), status, &before, &now, watch.symbols())?;
        if args.once {
            return Ok(0);
        }
        before = now;
    }
}

/// All VMs.
fn all(args: &TopArgs) -> Result<u8, CliError> {
    let mut screen = Screen::open(args.once)?;
    let mut before = HashMap::new();
    let mut first = true;
    loop {
        let mut now = HashMap::new();
        let mut vms = Vec::new();
        for name in running()? {
            let (vm, snapshots) = look(&name, &before);
            vms.push(vm);
            now.insert(name, snapshots);
        }
        before = now;
        if !std::mem::take(&mut first) {
            screen.show_overview(&vms)?;
            if args.once {
                return Ok(0);
            }
        }
        let until = Instant::now() + args.interval;
        while Instant::now() < until {
            screen.wait(until.saturating_duration_since(Instant::now()))?;
            if screen.quits {
                return Ok(0);
            }
        }
    }
}

/// What a VM of many does.
fn look(name: &Name, before: &HashMap<Name, Vec<Snapshot>>) -> (Overview, Vec<Snapshot>) {
    let ask = || {
        let mut session = Session::open(name).ok()?;
        session.all_counters().ok()
    };
    let snapshots = ask().unwrap_or_default();
    let none = Vec::new();
    let old = before.get(name).unwrap_or(&none);
    let changes: Vec<Change> = snapshots.iter().zip(old).map(|(now, before)| change(before, now)).collect();
    let vm = Overview { vm: name.to_string(), all: merge(&changes), vcpus: snapshots.len() };
    (vm, snapshots)
}

/// A recording.
fn replay(args: &TopArgs, recorded: &Recorded) -> Result<u8, CliError> {
    let Recorded { vm, frames, symbols } = recorded;
    let last = frames.len() - 1;
    if last == 0 {
        return Err(CliError::new(Failure::Data, "there is one moment only in the recording"));
    }
    if !args.once && !std::io::stdout().is_terminal() {
        return Err(
            CliError::new(Failure::Usage, "there is no terminal for a screen").hint("--once prints one")
        );
    }
    let mut screen = Screen::open(args.once)?;
    let mut at = if args.once { last } else { 1 };
    loop {
        let (before, now) = (&frames[at - 1], &frames[at]);
        let status = format!("{:.0} s, moment {at} of {last} of a recording, left and right move", now.at);
        screen.show(vm, status, before, now, symbols)?;
        if args.once {
            return Ok(0);
        }
        let next = frames.get(at + 1).map_or(0.0, |next| next.at - now.at);
        let pace = Duration::try_from_secs_f64(next.clamp(0.1, 10.0)).unwrap_or(args.interval);
        let wish = screen.wait(pace)?;
        if screen.quits {
            return Ok(0);
        }
        at = match wish {
            Wish::Back => at.saturating_sub(1).max(1),
            Wish::On => (at + 1).min(last),
            Wish::Other => at,
            Wish::None if screen.still => at,
            Wish::None => (at + 1).min(last),
        };
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Nothing, for as long as was waited.
    None,
    Back,
    On,
    Other,
}

/// The terminal, or nothing but standard output.
struct Screen {
    terminal: Option<DefaultTerminal>,
    quits: bool,
    still: bool,
}

impl Screen {
    fn open(printed: bool) -> Result<Self, CliError> {
        let terminal = if printed { None } else { Some(ratatui::try_init().map_err(no_terminal)?) };
        Ok(Self { terminal, quits: false, still: false })
    }

    fn show(
        &mut self,
        vm: &str,
        status: String,
        before: &Frame,
        now: &Frame,
        symbols: &Symbols,
    ) -> Result<(), CliError> {
        let since = |now: &Snapshot| {
            let before = before.vcpus.iter().find(|before| before.vcpu == now.vcpu);
            before.map(|before| change(before, now))
        };
        let vcpus: Vec<Change> = now.vcpus.iter().filter_map(since).collect();
        let Some(all) = merge(&vcpus) else { return Ok(()) };
        let flames = stacks::flames([now], symbols);
        let (tops, ticks) = (flames.tops(), flames.weight());
        let view = View { vm, status, vcpus: &vcpus, all: &all, symbols, tops: &tops, ticks };
        match &mut self.terminal {
            Some(terminal) => terminal.draw(|frame| draw(frame, &view)).map(drop).map_err(no_terminal),
            None => print(format_args!("{}", printed(|frame| draw(frame, &view)))),
        }
    }

    fn show_overview(&mut self, vms: &[Overview]) -> Result<(), CliError> {
        if self.still {
            return Ok(());
        }
        match &mut self.terminal {
            Some(terminal) => {
                terminal.draw(|frame| draw_overview(frame, vms, "")).map(drop).map_err(no_terminal)
            }
            None => print(format_args!("{}", printed(|frame| draw_overview(frame, vms, "")))),
        }
    }

    /// Waits for this time, or for a key.
    fn wait(&mut self, time: Duration) -> Result<Wish, CliError> {
        if self.terminal.is_none() {
            thread::sleep(time);
            return Ok(Wish::None);
        }
        if !event::poll(time).map_err(no_terminal)? {
            return Ok(Wish::None);
        }
        let Event::Key(key) = event::read().map_err(no_terminal)? else { return Ok(Wish::Other) };
        if key.kind == KeyEventKind::Release {
            return Ok(Wish::Other);
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => self.quits = true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => self.quits = true,
            KeyCode::Char(' ') => self.still = !self.still,
            KeyCode::Left => return Ok(Wish::Back),
            KeyCode::Right => return Ok(Wish::On),
            _ => {}
        }
        Ok(Wish::Other)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal.is_some() {
            ratatui::restore();
        }
    }
}

fn no_terminal(error: std::io::Error) -> CliError {
    CliError::new(Failure::Host, "the terminal does not do what a screen needs").because(error)
}
