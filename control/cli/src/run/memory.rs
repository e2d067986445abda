//! Whether this host can give a guest so much memory; asked before anything is built or fetched.

use board::map::MemoryMap;

use crate::error::CliError;
use crate::exit::Failure;
use crate::limits;
use crate::size::Size;

/// Refuses what cannot be.
pub fn check(size: Size) -> Result<(), CliError> {
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

/// For more memory than there is.
pub fn too_much(wanted: u64, total: u64) -> CliError {
    CliError::new(
        Failure::Host,
        format!("--memory {} is more than this host has ({} MiB)", Size(wanted), total >> 20),
    )
    .hint("give the guest less with --memory")
}
