//! `popf image`.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use serde::Serialize;

use crate::args::ImageCommand;
use crate::disk;
use crate::error::CliError;
use crate::exit::Failure;

/// An image in `popf image list --json`.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    kernel: String,
    initrd: String,
    /// Of an image with a disk; never to be written.
    disk: Option<String>,
    packages: Vec<PackageRow<'a>>,
}

#[derive(Serialize)]
struct PackageRow<'a> {
    name: &'a str,
    version: &'a str,
}

/// Carries out a subcommand.
pub fn run(command: &ImageCommand) -> Result<(), CliError> {
    match command {
        ImageCommand::Build { name, refresh } => {
            let image = build(name, *refresh)?;
            print(format_args!("{}\n", image.directory().display()))
        }
        ImageCommand::Create(args) => disk::create(args),
        ImageCommand::List { json } => list(*json),
        ImageCommand::Rm { name } => {
            if images::remove(name)? {
                Ok(())
            } else {
                Err(CliError::new(Failure::NoInput, format!("there is no image {name:?}"))
                    .hint("`popf image list` shows what has been built"))
            }
        }
    }
}

/// Builds an image, with progress on standard error. A signal ends it when what it has made so far is removed.
pub fn build(name: &str, refresh: bool) -> Result<images::Image, CliError> {
    use host::Signal::{HangUp, Interrupt, Quit, Terminate};
    let options = images::BuildOptions { refresh, ..Default::default() };
    let (cancel, ended_by) = (options.cancel.clone(), Arc::new(OnceLock::new()));
    let note = Arc::clone(&ended_by);
    let signals = host::Signals::deliver(&[Interrupt, Terminate, HangUp, Quit], move |signal| {
        // The first is the one to die of; a further one asks again.
        note.get_or_init(|| signal);
        cancel.cancel();
    })
    .map_err(|error| CliError::new(Failure::Host, "cannot catch signals").because(error))?;
    let built = images::build(name, &options, &mut images::Display::new());
    drop(signals);
    if let (Err(images::Error::Cancelled), Some(signal)) = (&built, ended_by.get()) {
        // Nothing catches it any more: whoever waits for popf sees what ended it.
        host::signals::send(std::process::id(), *signal)
            .map_err(|error| CliError::new(Failure::Host, "cannot end by a signal").because(error))?;
    }
    Ok(built?)
}

/// The image of this name, built now if it is missing.
pub fn find_or_build(name: &str) -> Result<images::Image, CliError> {
    match images::find(name)? {
        Some(image) => Ok(image),
        None => build(name, false),
    }
}

fn list(json: bool) -> Result<(), CliError> {
    let images = images::list()?;
    if !json {
        return images
            .iter()
            .try_for_each(|image| print(format_args!("{:<16} {}\n", image.name, summary(image))));
    }
    let rows: Vec<_> = images
        .iter()
        .map(|image| Row {
            name: &image.name,
            kernel: image.kernel.display().to_string(),
            initrd: image.initrd.display().to_string(),
            disk: image.disk.as_ref().map(|disk| disk.display().to_string()),
            packages: image
                .packages
                .iter()
                .map(|package| PackageRow { name: &package.name, version: &package.version })
                .collect(),
        })
        .collect();
    print_json(&rows)
}

/// What tells one build of an image from another: its kernel, and how much else there is.
fn summary(image: &images::Image) -> String {
    let kernel = image.packages.iter().find(|package| package.name.starts_with("linux-image-"));
    let kernel =
        kernel.map_or("no kernel's package".into(), |kernel| format!("{} {}", kernel.name, kernel.version));
    let others = image.packages.iter().filter(|package| !package.name.starts_with("linux-image-")).count();
    format!("{kernel}, {others} other packages")
}

/// Prints to standard output; a reader that has gone away is no failure.
pub fn print(text: std::fmt::Arguments) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::new(Failure::Host, "cannot write to standard output").because(error))
        }
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::new(Failure::Software, "cannot write JSON").because(error))?;
    print(format_args!("{text}\n"))
}
