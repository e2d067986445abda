//! `popf memory`.

use std::thread;
use std::time::{Duration, Instant};

use vms::control::{Client, ClientError};
use vms::{Error, GuestMemory, Memory, Registry};

use crate::args::MemoryArgs;
use crate::error::CliError;
use crate::exit::Failure;
use crate::image::{print, print_json};
use crate::size::Size;

/// A guest that has a driver answers in a moment; the VM cannot say when it has.
const PATIENCE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(50);

/// Shows how a VM uses its memory, after it was told to use less.
pub fn memory(args: &MemoryArgs) -> Result<u8, CliError> {
    let vm = Registry::of_user()?.running(&args.name)?;
    let answered = |source| CliError::from(Error::NoAnswer { name: args.name.clone(), source });
    let mut client = vm.control()?;
    if let Some(Size(size)) = args.size {
        let total = client.memory().map_err(answered)?.total;
        let take = total.checked_sub(size).filter(|_| size > 0).ok_or_else(|| too_much(args, total))?;
        client.take_memory(take).map_err(answered)?;
    }
    let memory = heard(&mut client).map_err(answered)?;
    if args.json {
        print_json(&memory)?
    } else {
        print(format_args!("{}", table(&memory)))?
    }
    Ok(0)
}

fn too_much(args: &MemoryArgs, total: u64) -> CliError {
    let message =
        format!("{} has {} of memory, and can be given neither more nor none", args.name, Size(total));
    CliError::new(Failure::Usage, message)
        .hint(format!("start it with more: popf stop {0} && popf run --name {0} --memory SIZE", args.name))
}

/// The second answer is of after the first question.
fn heard(client: &mut Client) -> Result<Memory, ClientError> {
    let until = Instant::now() + PATIENCE;
    client.memory()?;
    loop {
        thread::sleep(INTERVAL);
        let memory = client.memory()?;
        if memory.guest.is_some() || Instant::now() >= until {
            return Ok(memory);
        }
    }
}

fn table(memory: &Memory) -> String {
    let Memory { total, asked, taken, guest } = *memory;
    let guest = guest.unwrap_or_default();
    let GuestMemory { total: usable, free, available, caches } = guest;
    let rows = [
        ("memory", Some(total)),
        ("to be given up", Some(asked).filter(|asked| *asked > 0)),
        ("given up", Some(taken).filter(|taken| asked > 0 || *taken > 0)),
        ("the guest's own", usable),
        ("free", free),
        ("available", available),
        ("file caches", caches),
    ];
    let row = |(name, bytes): (&str, Option<u64>)| Some(format!("{name:<16} {:>8}\n", mebibytes(bytes?)));
    rows.into_iter().filter_map(row).collect()
}

fn mebibytes(bytes: u64) -> String {
    format!("{} M", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let silent = Memory { total: 1 << 30, asked: 0, taken: 0, guest: None };
        assert_eq!(table(&silent), "memory             1024 M\n");
        let guest = GuestMemory { free: Some(5 << 20), ..GuestMemory::default() };
        let asked = Memory { asked: 256 << 20, taken: 255 << 20, guest: Some(guest), ..silent };
        let expected = "memory             1024 M\nto be given up      256 M\ngiven up            255 M\n\
                        free                  5 M\n";
        assert_eq!(table(&asked), expected);
    }
}
