//! `popf trace` and `popf top`: what a VM does, live or from a recording.
//!
//! The VM counts and is asked ([`session`]); all that is made of its answers, names, differences, pictures, is made
//! here.

mod block;
mod frame;
pub mod kernel;
pub mod perf;
mod record;
mod screen;
pub mod session;
mod stacks;
mod text;
mod top;
mod watch;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Instant;

use insight::Symbols;
use serde::Serialize;
use vms::Name;

use crate::args::{Recording, TraceArgs};
use crate::error::CliError;
use crate::exit::Failure;
use crate::image::{print, print_json};
use frame::{Change, Frame};
use record::{Recorded, Recorder};
use session::Session;
use watch::Watch;

pub use top::top;

/// How often a flame graph's samples are taken. A prime number, lest it keeps step with what the guest does.
const HERTZ: u32 = 97;

/// What `--json` prints.
#[derive(Serialize)]
struct Traced<'a> {
    vm: &'a str,
    vcpus: Vec<Named<'a>>,
    /// Functions by how often they were on top when sampled.
    tops: Vec<(String, u64)>,
    /// Ticks of the sampling clock.
    ticks: u64,
}

#[derive(Serialize)]
struct Named<'a> {
    #[serde(flatten)]
    change: &'a Change,
    /// What the places of `places` are called, in their order.
    functions: Vec<String>,
}

/// `popf trace`.
pub fn trace(args: &TraceArgs) -> Result<u8, CliError> {
    if let Some(path) = &args.files.replay {
        let Recorded { vm, frames, symbols } = Recorded::read(path)?;
        return tell(args, &vm, &frames, &symbols);
    }
    let Some(name) = &args.name else {
        return Err(CliError::new(Failure::Usage, "no VM is named"));
    };
    let mut session = Session::open(name)?;
    if let Some(place) = &args.block {
        return blocks(args, &mut session, place);
    }
    if args.perf_map {
        return perf_map(name, &mut session);
    }
    let hertz = args.hertz.unwrap_or(if args.flame.is_some() { HERTZ } else { 0 });
    let mut watch = open(session, &args.files, hertz)?;
    let mut frames: Vec<Frame> = watch.look()?.into_iter().collect();
    watch.pass(Instant::now() + args.duration, |time| {
        thread::sleep(time);
        Ok(true)
    })?;
    watch.find_names();
    match watch.look()? {
        Some(frame) => frames.push(frame),
        None => note(&format!("{name} has ended meanwhile")),
    }
    tell(args, &name.to_string(), &frames, watch.symbols())
}

/// A watch with whatever names can be had, and a recording if one is wanted.
fn open(mut session: Session<'static>, files: &Recording, hertz: u32) -> Result<Watch, CliError> {
    let recorder = files.record.as_deref().map(|path| Recorder::create(path, &session.name().to_string()));
    let recorder = recorder.transpose()?;
    let symbols = match (kernel::symbols(&mut session, files.symbols.as_deref()), &files.symbols) {
        (Ok(symbols), _) => Some(symbols),
        (Err(error), Some(_)) => return Err(error),
        (Err(error), None) => {
            note(&error.message());
            None
        }
    };
    Ok(Watch::new(session, symbols, hertz, recorder))
}

/// News, on standard error; with that closed there is nobody to tell.
fn note(news: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("popf: {news}\n").as_bytes());
}

fn tell(args: &TraceArgs, vm: &str, frames: &[Frame], symbols: &Symbols) -> Result<u8, CliError> {
    let [first, .., last] = frames else {
        return Err(CliError::new(
            Failure::Data,
            format!("there are not two moments of {}", vm.escape_debug()),
        )
        .hint("a VM that ends at once leaves no time to look at it; --stats tells at its end"));
    };
    let flames = stacks::flames(&frames[1..], symbols);
    if let Some(path) = &args.flame {
        write_flame(path, &flames.svg(&format!("{vm}: {} samples", flames.weight())))?;
    }
    let since =
        |now: &board::insight::Snapshot| match first.vcpus.iter().find(|before| before.vcpu == now.vcpu) {
            Some(before) if !args.total => frame::change(before, now),
            _ => frame::total(now),
        };
    let changes: Vec<Change> = last.vcpus.iter().map(since).collect();
    if args.json {
        let named = |change| Named { change, functions: functions(change, symbols) };
        let (vcpus, tops) = (changes.iter().map(named).collect(), flames.tops());
        print_json(&Traced { vm, vcpus, tops, ticks: flames.weight() })?;
        return Ok(0);
    }
    let mut text = String::new();
    for change in &changes {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &text::report(change, symbols, args.lines);
    }
    if flames.weight() > 0 {
        text += &text::tops(&flames, args.lines);
    }
    print(format_args!("{text}"))?;
    Ok(0)
}

fn functions(change: &Change, symbols: &Symbols) -> Vec<String> {
    change.places.iter().map(|place| text::called(symbols, place.rip)).collect()
}

fn write_flame(path: &Path, svg: &str) -> Result<(), CliError> {
    fs::write(path, svg).map_err(|error| {
        CliError::new(Failure::Host, format!("cannot write {}", path.display())).because(error)
    })
}

/// `--block`.
fn blocks(args: &TraceArgs, session: &mut Session<'_>, place: &str) -> Result<u8, CliError> {
    let number = place.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
    let symbols = match (kernel::symbols(session, args.files.symbols.as_deref()), &number) {
        (Ok(symbols), _) => symbols,
        (Err(_), Some(_)) if args.files.symbols.is_none() => Symbols::default(),
        (Err(error), _) => return Err(error),
    };
    let address = match number {
        Some(Ok(address)) => address,
        Some(Err(_)) => return Err(no_place(place)),
        None => named(place, &symbols).ok_or_else(|| no_place(place))?,
    };
    let blocks = session.blocks(args.vcpu, address).map_err(|error| session.failed(error))?;
    if blocks.is_empty() {
        let message = format!("vCPU {} has no translation of code at {address:#x}", args.vcpu);
        return Err(CliError::new(Failure::NoInput, message)
            .hint("only code that has run is translated; an instruction's first byte has to be named"));
    }
    if args.json {
        return print_json(&blocks).map(|()| 0);
    }
    let listings: Vec<_> = blocks.iter().map(|block| block::listing(block, &symbols)).collect();
    print(format_args!("{}", listings.join("\n"))).map(|()| 0)
}

/// `--perf-map`.
fn perf_map(name: &Name, session: &mut Session<'_>) -> Result<u8, CliError> {
    let running = vms::Registry::of_user()?.running(name)?;
    let answered = |source| CliError::from(vms::Error::NoAnswer { name: name.clone(), source });
    let path = perf::path(running.control()?.status().map_err(answered)?.pid);
    perf::write(session, &perf::create(&path)?)?;
    print(format_args!("{}\n", path.display())).map(|()| 0)
}

/// NAME, or NAME+0xOFFSET.
fn named(place: &str, symbols: &Symbols) -> Option<u64> {
    let (name, distance) = match place.split_once("+0x") {
        Some((name, digits)) => (name, u64::from_str_radix(digits, 16).ok()?),
        None => (place, 0),
    };
    symbols.address(name)?.checked_add(distance)
}

fn no_place(place: &str) -> CliError {
    CliError::new(Failure::Usage, format!("there is no place {place} in this guest"))
        .hint("give an address such as 0xffffffff81000000, or a function's name, with +0x and a distance if need be")
}

/// The names of all VMs that run.
fn running() -> Result<Vec<Name>, CliError> {
    let entries = vms::Registry::of_user()?.list()?;
    Ok(entries.into_iter().filter(|entry| entry.running).map(|entry| entry.record.name).collect())
}
