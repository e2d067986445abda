//! `popf run --detach`: a VM whose process outlives the command that started it.
//!
//! The command starts popf anew, as the leader of a session of its own, and speaks with it over its standard streams:
//! the definition goes in, one line comes out when the VM runs or has failed. Until that line the two belong
//! together: if the command dies, the line cannot be written, and the VM ends. After it the process has no stream left
//! but its log.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use board::stop::StopReason;
use serde::{Deserialize, Serialize};
use vms::{Claim, Name, Registry};

use super::guest::Guest;
use super::{launch, to_toml};
use crate::definition::{Definition, DefinitionFile};
use crate::error::CliError;
use crate::exit::Failure;
use crate::image;

/// The hidden subcommand by which popf starts itself.
pub const SUBCOMMAND: &str = "run-detached";

/// What the VM's process says, once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Report {
    /// The guest runs.
    Up(Name),
    /// It does not.
    Failed { report: String, status: u8 },
}

/// Starts the VM's process and waits until the VM runs.
pub fn start(definition: &Definition) -> Result<u8, CliError> {
    // Here, with a terminal for the progress, rather than there.
    Guest::of(definition)?;
    let fail = |what: &str| CliError::new(Failure::Host, format!("cannot {what} the VM's process"));
    let mut definition = definition.clone();
    let here = std::env::current_dir().map_err(|error| fail("start").because(error))?;
    definition.seen_from(&here);
    let toml = to_toml(&definition)?;

    let mut command = Command::new(std::env::current_exe().map_err(|error| fail("find").because(error))?);
    let streams = command.arg(SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = streams.spawn().map_err(|error| fail("start").because(error))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else { return Err(fail("speak with")) };
    // One that has died already has said why, or its silence does.
    let _ = stdin.write_all(toml.as_bytes());
    drop(stdin);
    let mut line = String::new();
    let read = BufReader::new(stdout).read_line(&mut line);
    read.map_err(|error| fail("listen to").because(error))?;
    match serde_json::from_str(&line) {
        Ok(Report::Up(name)) => image::print(format_args!("{name}\n")).map(|()| 0),
        Ok(Report::Failed { report, status }) => {
            // It is what this process would have said.
            let _ = writeln!(io::stderr(), "{report}");
            Ok(status)
        }
        Err(_) => {
            let status = child.wait().map_err(|error| fail("wait for").because(error))?;
            Err(CliError::new(Failure::Software, format!("the VM's process died before it ran ({status})")))
        }
    }
}

/// The VM's process: the hidden subcommand. Its own exit status is for nobody.
pub fn run_detached() -> Result<u8, CliError> {
    let reporter = Reporter::default();
    let result = in_session(&reporter);
    if let Err(error) = &result {
        let failed = Report::Failed { report: error.report(), status: error.status() };
        if !reporter.say(&failed) {
            // It ran, so this is how it ended: for its log.
            return result;
        }
    }
    result.or(Ok(0))
}

fn in_session(reporter: &Reporter) -> Result<u8, CliError> {
    let fail = |what: &str| CliError::new(Failure::Host, what);
    host::process::new_session().map_err(|error| fail("cannot leave the terminal").because(error))?;
    let mut text = String::new();
    let read = io::stdin().lock().read_to_string(&mut text);
    read.map_err(|error| fail("cannot read the definition").because(error))?;
    let definition = DefinitionFile::parse(Path::new("the definition"), &text, Path::new("/"))?;
    let reporter = reporter.clone();
    launch(&definition, &Registry::of_user()?, move |claim, control| {
        log_to(claim)?;
        let (name, killer) = (claim.name().clone(), control.clone());
        control.on_start(move || {
            // Nobody knows of it: whoever started it is gone.
            if !reporter.say(&Report::Up(name)) {
                killer.stop(StopReason::Killed);
            }
        });
        Ok(())
    })
}

/// Sends what popf itself has to say to the VM's log.
fn log_to(claim: &mut Claim) -> Result<(), CliError> {
    let path = claim.state()?.join(vms::POPF_LOG);
    let fail = || CliError::new(Failure::Host, format!("cannot write {}", path.display()));
    // Anew each time: it is about one run, and short.
    let log = File::create(&path).map_err(|error| fail().because(error))?;
    host::process::redirect_stderr(log).map_err(|error| fail().because(error))
}

/// Says one thing to whoever started this process.
#[derive(Clone, Default)]
struct Reporter(Arc<Mutex<bool>>);

impl Reporter {
    /// `false` if it has spoken already, or nobody listens.
    fn say(&self, report: &Report) -> bool {
        let mut spoken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *spoken, true) {
            return false;
        }
        let mut line = serde_json::to_string(report).expect("a report is plain data");
        line.push('\n');
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok()
    }
}
