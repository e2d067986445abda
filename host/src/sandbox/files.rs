//! The Landlock rules: which files may be opened, whether the internet may be reached, and by name no socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RestrictSelfAttr, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use super::{Sandbox, SandboxError, threads};
use crate::HostError;

/// The newest that this was written for. What an older kernel does not know of it is left out.
const NEWEST: ABI = ABI::V10;

/// From this version on all threads can be restricted by one call.
const ALL_THREADS: u32 = ABI::V8 as u32;

/// From this version on a rule can say which Unix sockets may be reached by name.
pub(super) const KNOWS_SOCKETS: u32 = ABI::V9 as u32;

/// What may be done to a path, and to what lies below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading files and directories.
    Read,
    /// Everything but executing, making devices, and talking to sockets.
    ReadWrite,
    /// Making, reaching and removing Unix sockets.
    Sockets,
    /// Listing and removing.
    Remove,
    /// Removing directories that are empty.
    Prune,
}

impl Access {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Self::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            Self::ReadWrite => {
                let never = AccessFs::Execute
                    | AccessFs::MakeChar
                    | AccessFs::MakeBlock
                    | AccessFs::IoctlDev
                    | AccessFs::ResolveUnix;
                AccessFs::from_all(NEWEST) & !never
            }
            Self::Sockets => {
                AccessFs::ReadDir | AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::ResolveUnix
            }
            Self::Remove => AccessFs::ReadDir | AccessFs::RemoveFile | AccessFs::RemoveDir,
            Self::Prune => AccessFs::RemoveDir.into(),
        }
    }
}

/// Restricts all threads. The outer error is a path or a thread that cannot be had, the inner one a kernel without
/// Landlock; otherwise the version of its interface.
pub(super) fn restrict(sandbox: &Sandbox) -> Result<Result<u32, HostError>, SandboxError> {
    let version = match support() {
        Ok(version) => version,
        Err(error) => return Ok(Err(error)),
    };
    let ruleset = ruleset(sandbox)?;
    let descriptor: Option<OwnedFd> =
        ruleset.try_clone().map_err(|source| HostError::Call { call: "dup", source })?.into();
    // The others first: this thread could not look for them afterwards.
    if let Some(descriptor) = descriptor
        && version < ALL_THREADS
    {
        threads::restrict_others(descriptor.as_fd())?;
    }
    ruleset.all_threads(true)?.restrict_self()?;
    Ok(Ok(version))
}

fn ruleset(sandbox: &Sandbox) -> Result<RulesetCreated, SandboxError> {
    let all = AccessFs::from_all(NEWEST);
    let mut ruleset = Ruleset::default().handle_access(all)?.scope(Scope::AbstractUnixSocket)?;
    // Signals to others are the filter's business.
    if !sandbox.internet {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut ruleset = ruleset.create()?;
    for (path, access) in &sandbox.paths {
        let refused = |source| SandboxError::Path { path: path.clone(), source };
        let metadata = path.metadata().map_err(refused)?;
        let descriptor = PathFd::new(path).map_err(|error| refused(io::Error::other(error)))?;
        // A rule for a file may not speak of what can be done to directories only.
        let possible = if metadata.is_dir() { all } else { AccessFs::from_file(NEWEST) };
        ruleset = ruleset.add_rule(PathBeneath::new(descriptor, access.rights() & possible))?;
    }
    Ok(ruleset)
}

/// The version of the kernel's Landlock interface.
pub(super) fn support() -> Result<u32, HostError> {
    /// `LANDLOCK_CREATE_RULESET_VERSION` of linux/landlock.h.
    const VERSION: u32 = 1;
    // SAFETY: with this flag nothing is read.
    let result = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION)
    };
    u32::try_from(result).map_err(|_| HostError::last("landlock_create_ruleset"))
}
