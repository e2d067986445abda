//! `popf stop`, `popf kill` and `popf rm`.

use std::time::Duration;

use vms::control::{ClientError, Waiting};
use vms::{End, Error, Name, Registry, Running};

use super::attach::{POWER_OFF_TIMEOUT, power_off};
use crate::args::{NameArg, RmArgs, StopArgs};
use crate::error::CliError;
use crate::exit::Failure;

/// How long a VM that was told to end may take: it has a few threads to stop and files to remove.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// A guest that has heard its button is on its way by then; one that is still starting may have a driver for it, and
/// nobody yet who acts on it.
const BUTTON_PATIENCE: Duration = Duration::from_secs(10);

/// `popf stop`.
pub fn stop(args: &StopArgs) -> Result<u8, CliError> {
    let name = &args.name;
    let vm = Registry::of_user()?.running(name)?;
    let mut waiting = wait(&vm)?;
    let mut ended = None;
    let mut left = args.timeout;
    let listens = vm.control()?.power_button().map_err(|error| no_answer(name, error))?;
    if listens {
        tell(&format!("pressed the power button of {name}"));
        let patience = BUTTON_PATIENCE.min(args.timeout / 2);
        ended = waiting.ended(patience).map_err(|error| no_answer(name, error))?;
        left = args.timeout - patience;
    }
    if ended.is_none() {
        match power_off(&vm.path(vms::VSOCK_SOCKET), left.min(POWER_OFF_TIMEOUT)) {
            Ok(()) => tell(&format!("told the agent of {name} to power off")),
            Err(_) if listens => {}
            Err(error) => return Err(deaf(name, error)),
        }
        ended = waiting.ended(left).map_err(|error| no_answer(name, error))?;
    }
    match ended {
        Some(end) => Ok(say(name, end)),
        None => {
            let message = format!("{name} has not shut down in {} s", args.timeout.as_secs_f64());
            let hint =
                format!("it goes on; `popf logs {name}` may say why, `popf kill {name}` ends it at once");
            Err(CliError::new(Failure::GoesOn, message).hint(hint))
        }
    }
}

/// Nobody in the guest can be asked.
fn deaf(name: &Name, error: agent::Error) -> CliError {
    let message = format!("the guest of {name} does not listen to its power button and has no agent to ask");
    CliError::new(Failure::GoesOn, message).because(error).hint(format!(
        "it may be starting still, or be no system that can be turned off; `popf kill {name}` ends it at once"
    ))
}

/// `popf kill`.
pub fn kill(args: &NameArg) -> Result<u8, CliError> {
    end(&Registry::of_user()?.running(&args.name)?)
}

/// `popf rm`.
pub fn rm(args: &RmArgs) -> Result<u8, CliError> {
    let (name, registry) = (&args.name, Registry::of_user()?);
    if args.force {
        match registry.running(name) {
            Ok(vm) => {
                end(&vm)?;
                // One without a name has taken everything with it.
                if registry.kept(name).is_err() {
                    return Ok(0);
                }
            }
            Err(Error::Stopped { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match registry.remove(name) {
        Err(error @ Error::Taken { .. }) => Err(CliError::from(error)
            .hint(format!("`popf stop {name}` ends it; `popf rm --force {name}` kills and removes it"))),
        removed => Ok(removed.map(|()| 0)?),
    }
}

/// Ends a VM at once and waits until it has.
fn end(vm: &Running) -> Result<u8, CliError> {
    let name = vm.name();
    let mut waiting = wait(vm)?;
    match vm.control()?.kill() {
        // It was about to end anyway.
        Ok(()) | Err(ClientError::Gone) => {}
        Err(error) => return Err(no_answer(name, error)),
    }
    match waiting.ended(KILL_TIMEOUT).map_err(|error| no_answer(name, error))? {
        Some(end) => Ok(say(name, end)),
        None => Err(CliError::new(Failure::GoesOn, format!("{name} was told to end, and has not"))
            .hint("`popf ps --json` gives its process, for kill(1)")),
    }
}

/// To be asked for before what makes it end, so that the end is not missed.
fn wait(vm: &Running) -> Result<Waiting, CliError> {
    vm.control()?.wait().map_err(|error| no_answer(vm.name(), error))
}

fn say(name: &Name, end: Option<End>) -> u8 {
    match end {
        Some(end) => tell(&format!("{name} has ended: {}", end.how)),
        None => tell(&format!("the process of {name} was killed")),
    }
    0
}

/// News, on standard error; with that closed there is nobody to tell.
fn tell(news: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("popf: {news}\n").as_bytes());
}

fn no_answer(name: &Name, source: ClientError) -> CliError {
    Error::NoAnswer { name: name.clone(), source }.into()
}
