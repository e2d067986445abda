//! `popf image`.

use std::io::{self, Write};

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

/// Builds an image, with progress on standard error.
pub fn build(name: &str, refresh: bool) -> Result<images::Image, CliError> {
    let options = images::BuildOptions { refresh, ..Default::default() };
    Ok(images::build(name, &options, &mut images::Display::new())?)
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
    let package = |package: &images::Package| format!("{} {}", package.name, package.version);
    if !json {
        for image in &images {
            let packages: Vec<_> = image.packages.iter().map(package).collect();
            print(format_args!("{:<16} {}\n", image.name, packages.join(", ")))?;
        }
        return Ok(());
    }
    let rows: Vec<_> = images
        .iter()
        .map(|image| Row {
            name: &image.name,
            kernel: image.kernel.display().to_string(),
            initrd: image.initrd.display().to_string(),
            packages: image
                .packages
                .iter()
                .map(|package| PackageRow { name: &package.name, version: &package.version })
                .collect(),
        })
        .collect();
    print_json(&rows)
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
