//! What is to be scanned: a file, or what a VM has in memory.

use std::fs;
use std::path::Path;

use ::scan::{Image, Symbols};
use vms::Name;
use x86::Mode;

use crate::args::ScanArgs;
use crate::error::CliError;
use crate::exit::Failure;
use crate::trace::kernel;
use crate::trace::session::Session;

/// Reads it.
pub fn image(args: &ScanArgs) -> Result<Image, CliError> {
    match (&args.vm, &args.file) {
        (Some(vm), _) => of_vm(args, vm),
        (None, Some(path)) => of_file(args, path),
        (None, None) => Err(CliError::new(Failure::Usage, "there is nothing to scan")),
    }
}

fn of_file(args: &ScanArgs, path: &Path) -> Result<Image, CliError> {
    if args.mode.is_some() && !args.raw {
        let error =
            CliError::new(Failure::Usage, "--mode is for what has no format: files with --raw, and VMs");
        return Err(error.hint("popf scan FILE --raw --mode MODE"));
    }
    let file = read(path)?;
    let image = match args.mode {
        Some(mode) => Image::raw(&file, args.base.unwrap_or(0), mode.into()),
        None => Image::read(&file),
    };
    let mut image = image.map_err(|error| {
        let hint = "--raw --mode MODE takes any file for code";
        CliError::new(Failure::Data, format!("cannot scan {}", path.display())).because(error).hint(hint)
    })?;
    if let Some(map) = &args.symbols {
        let map = String::from_utf8_lossy(&read(map)?).into_owned();
        image.name(Symbols::from_map(&map));
    }
    Ok(image)
}

/// More code than a kernel has is nobody's.
const MOST: u64 = 256 << 20;

/// What a VM has in memory.
fn of_vm(args: &ScanArgs, vm: &Name) -> Result<Image, CliError> {
    let mut session = Session::open(vm)?;
    let (parts, entries, symbols) = match args.address.zip(args.length) {
        Some((address, length)) => {
            if length == 0 || length > MOST {
                let error = CliError::new(Failure::Usage, "a length is to be from 1 byte to 256 MiB");
                return Err(error.hint("popf scan --vm NAME --address ADDRESS --length 0x1000"));
            }
            let bytes = session.read(address, length).map_err(|error| session.failed(error))?;
            let names = args.symbols.as_deref().map(|path| kernel::symbols(&mut session, Some(path)));
            (vec![(address, bytes)], vec![address], names.transpose()?.unwrap_or_default())
        }
        None => {
            let pages = kernel::pages(&mut session).map_err(|error| session.failed(error))?;
            let code = pages.iter().filter(|range| range.executable);
            let pieces = kernel::read(&mut session, code).map_err(|error| session.failed(error))?;
            // Without names less is found by descent; that is told by the figures.
            let symbols = match kernel::symbols(&mut session, args.symbols.as_deref()) {
                Err(error) if args.symbols.is_some() => return Err(error),
                found => found.unwrap_or_default(),
            };
            (pieces.into_iter().map(|piece| (piece.address, piece.bytes)).collect(), Vec::new(), symbols)
        }
    };
    let mode = args.mode.map_or(Mode::Long64, Into::into);
    Image::memory(parts, mode, entries, symbols).map_err(|error| {
        let hint = "a Linux kernel's code is where it is once the guest has started; --address and --length name other code";
        CliError::new(Failure::Data, format!("cannot scan the memory of {vm}")).because(error).hint(hint)
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let error =
        |error| CliError::new(Failure::NoInput, format!("cannot read {}", path.display())).because(error);
    fs::read(path).map_err(error)
}
