//! `popf run`.
//!
//! What is to be run is [resolved](resolve) from flags and files; [`launch`] does it in this process, [`detach`] in
//! another that outlives this one.

mod command;
mod debugger;
mod detach;
mod devices;
mod end;
mod guest;
mod last;
mod memory;
mod overlay;
mod resolve;
mod sandbox;
mod serial;

use std::sync::Arc;

use board::engine::{EngineChoice, Promotion};
use board::insight::Question;
use board::machine::{Config, Control};
use board::stop::StopReason;
use board::virtio::{Balloon, Statistics};
use serde_json::Value;
use vms::control::{Handler, Server};
use vms::{Claim, GuestMemory, Memory, Record, Registry};

use crate::args::RunArgs;
use crate::definition::{Definition, DirectArg, EngineArg};
use crate::error::CliError;
use crate::exit::Failure;
use crate::vm::attach::Window;
use crate::{image, stats};
use command::Command;
use debugger::Debugged;
use devices::Devices;
use guest::Guest;
use serial::{Lines, catch_signals};

#[cfg(test)]
pub use detach::SUBCOMMAND;
pub use detach::run_detached;

/// Boots and runs to the end, or leaves it running; popf's exit status.
pub fn run(args: &RunArgs) -> Result<u8, CliError> {
    let registry = Registry::of_user()?;
    let in_flags = args.definition.command_mode();
    let definition = resolve::resolve(args, &registry).map_err(|error| error.in_command_mode(in_flags))?;
    let command_mode = definition.command_mode();
    carry_out(args, &definition, &registry).map_err(|error| error.in_command_mode(command_mode))
}

fn carry_out(args: &RunArgs, definition: &Definition, registry: &Registry) -> Result<u8, CliError> {
    if args.print_definition {
        return image::print(format_args!("{}", to_toml(definition)?)).map(|()| 0);
    }
    memory::check(definition.memory())?;
    if definition.detached() {
        detach::start(definition)
    } else {
        launch(definition, registry, |_, _| Ok(()))
    }
}

fn to_toml(definition: &Definition) -> Result<String, CliError> {
    definition.to_toml().map_err(|error| {
        CliError::new(Failure::Usage, "this cannot be written as a definition").because(error)
    })
}

/// Runs a VM in this process, to its end. `claimed` is called when its name is settled, before anything of it is
/// opened.
fn launch(
    definition: &Definition,
    registry: &Registry,
    claimed: impl FnOnce(&mut Claim, &Control) -> Result<(), CliError>,
) -> Result<u8, CliError> {
    // Before signals are caught: what takes long here can be interrupted as any program can.
    let guest = Guest::of(definition)?;
    let (control, lines, window) = (Control::default(), Lines::default(), Window::default());
    let signals = catch_signals(control.clone(), lines.clone(), window.clone())?;

    let mut claim = claim(definition, registry)?;
    claimed(&mut claim, &control)?;
    let record = record(definition, &claim);
    let mut serial = Vec::new();
    for line in guest.serial {
        serial.push(lines.open(line, &control, || Ok(claim.state()?.join(vms::CONSOLE_LOG)))?);
    }
    let Devices { peripherals, balloon } =
        devices::open(definition, guest.disk.as_deref(), &mut claim, &control, &lines)?;
    let debugged = Debugged::open(definition, &control)?;
    keep(definition, &mut claim, &record)?;
    let config = Config {
        memory: definition.memory().0,
        cpus: definition.cpus(),
        engine: match definition.engine.unwrap_or_default() {
            EngineArg::Auto => EngineChoice::Auto,
            EngineArg::Translator => EngineChoice::Translator,
        },
        kernel: guest.kernel,
        modules: guest.modules,
        cmdline: guest.cmdline,
        serial,
        peripherals,
        debug_exit: guest.debug_exit,
        test_device: definition.test_device.unwrap_or(false),
        reboot: guest.reboot,
        last_look: last::look(definition, claim.name())?,
        direct: match definition.direct.unwrap_or_default() {
            DirectArg::Auto => Some(Promotion::Busy),
            DirectArg::Always => Some(Promotion::Always),
            DirectArg::Off => None,
        },
        cache: definition.translation_cache.map(|size| size.0 as usize),
        yard: debugged.as_ref().map(|debugged| debugged.yard.clone()),
        sandbox: sandbox::of(definition, &claim, guest.by_agent),
    };
    let handler = Asked { record: record.clone(), control: control.clone(), lines: lines.clone(), balloon };
    let server = Server::start(&claim.path(vms::CONTROL_SOCKET), Arc::new(handler))
        .map_err(|error| CliError::new(Failure::Host, "nobody could stop this VM").because(error))?;

    let command = if guest.by_agent {
        Some(Command::start(definition, claim.path(vms::VSOCK_SOCKET), &control, window)?)
    } else {
        None
    };
    let ended = board::machine::run(&config, &control);
    if let Some(debugged) = debugged {
        debugged.end(&ended);
    }
    // Writes the last of the output and gives the terminal back, before popf itself has anything to say.
    lines.close();
    drop(config);
    drop(signals);

    if ended.is_err() {
        claim.undo();
    }
    let how = ended.as_ref().map_or_else(|_| "did not start".to_owned(), |end| end::words(&end.reason));
    let status = ended.map_err(end::build_error).and_then(|end| {
        if definition.stats.unwrap_or(false) {
            stats::print_to_stderr(&end.counters);
        }
        let commands = command.and_then(|command| command.status(&end.reason));
        commands.unwrap_or_else(|| end::status(end, definition.command_mode()))
    });
    let status = status.map_err(|error| error.in_command_mode(definition.command_mode()));
    let number = status.as_ref().map_or_else(CliError::status, |number| *number);
    let end = vms::End { at: vms::now(), how, status: number };
    claim.ended(&record, end.clone())?;
    let told = server.end(&end);
    drop(claim);
    // Closes the connections of those who wait: now the name is free.
    drop(told);
    status
}

/// The name that was asked for, or one nobody has.
fn claim(definition: &Definition, registry: &Registry) -> Result<Claim, CliError> {
    match &definition.name {
        Some(name) => Ok(registry.claim(name)?),
        None => Ok(registry.claim_generated(definition.image.as_deref().unwrap_or("vm"))?),
    }
}

fn record(definition: &Definition, claim: &Claim) -> Record {
    let kernel = || definition.kernel.as_ref().map(|path| path.display().to_string());
    Record {
        name: claim.name().clone(),
        image: definition.image.clone().or_else(kernel).unwrap_or_default(),
        memory: definition.memory().0,
        cpus: definition.cpus(),
        ports: definition.publish.iter().map(ToString::to_string).collect(),
        pid: std::process::id(),
        started: vms::now(),
        detached: definition.detached(),
        kept: definition.name.is_some(),
        ended: None,
    }
}

/// Tells others of the VM, and writes down what it is if it has a name to be run by again.
fn keep(definition: &Definition, claim: &mut Claim, record: &Record) -> Result<(), CliError> {
    if record.kept {
        let mut definition = definition.clone();
        let here = std::env::current_dir()
            .map_err(|error| CliError::new(Failure::Host, "there is no current directory").because(error))?;
        definition.seen_from(&here);
        // Debuggers and profilers are for one run.
        (definition.gdb, definition.perf_map) = (None, None);
        claim.write(vms::DEFINITION, to_toml(&definition)?.as_bytes())?;
    }
    Ok(claim.publish(record)?)
}

/// What this VM answers on its control socket.
struct Asked {
    record: Record,
    control: Control,
    lines: Lines,
    balloon: Arc<Balloon>,
}

impl Handler for Asked {
    fn status(&self) -> Record {
        self.record.clone()
    }

    fn power_button(&self) -> bool {
        self.control.power_button()
    }

    fn kill(&self) {
        self.lines.abandon();
        self.control.stop(StopReason::Killed);
    }

    fn memory(&self, take: Option<u64>) -> Memory {
        if let Some(bytes) = take {
            self.balloon.set_target(bytes);
        }
        let said = |said: Statistics| GuestMemory {
            total: said.total,
            free: said.free,
            available: said.available,
            caches: said.caches,
        };
        Memory {
            total: self.record.memory,
            asked: self.balloon.target(),
            taken: self.balloon.size(),
            guest: self.balloon.statistics().map(said),
        }
    }

    fn inspect(&self, question: Value) -> Result<Value, String> {
        let question: Question =
            serde_json::from_value(question).map_err(|error| format!("not understood: {error}"))?;
        let answer = self.control.ask(&question).map_err(|error| error.to_string())?;
        Ok(serde_json::to_value(answer).expect("an answer is plain data"))
    }
}
