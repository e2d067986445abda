//! What this process may still do once a guest runs: a seccomp filter and Landlock rules, for every thread.
//!
//! A guest that breaks out of its machine finds itself in a process that can go on doing what a machine does, with
//! what is open already, and nothing else. [`Sandbox`] starts from what every machine does; whatever stands behind
//! a device adds what it needs beyond that, so that each machine gets the smallest policy it can live with.
//! [`Sandbox::enter`] puts it in force, for good:
//!
//! 1. `no_new_privs`, thread by thread, each before it takes the next step: without it an ordinary user may take
//!    none of them.
//! 2. Landlock, for all other threads and then for this one: see [`threads`] for why that is not one step. Threads
//!    started later inherit it.
//! 3. The handler that names a system call that was refused ([`trap`]).
//! 4. The seccomp filters, for all threads at once (`SECCOMP_FILTER_FLAG_TSYNC`). They come last, because they
//!    forbid all of the above.
//!
//! Neither looks at what a descriptor that is open already leads to. Not guarded: the processor's time and memory; what
//! can be learnt by timing; whether a file exists and how large it is, since `stat` by name cannot be told from `fstat`
//! by a filter; and with a folder that the guest may write, the mode, owner, times and extended attributes of any file
//! that popf's user may change, since Landlock does not look at those.
#![allow(unsafe_code)] // System calls.

mod calls;
mod files;
mod filter;
mod names;
mod threads;
mod trap;

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::HostError;

pub use files::Access;
pub(crate) use filter::{Filter, only};

/// The policy of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    strict: bool,
    paths: Vec<(PathBuf, Access)>,
    /// Whether folders are shared with the guest, and the most that it may do to one.
    shares: Option<Access>,
    internet: bool,
    unix_sockets: bool,
    unix_connections: bool,
    tun: bool,
    rings: bool,
    /// Processes that may be signalled, bound and traced.
    stubs: Vec<u32>,
}

impl Sandbox {
    /// The policy of a machine with nothing but memory, processors, chips, and serial lines that are open already.
    pub fn new() -> Self {
        Self::default()
    }

    /// A host that cannot do all of it is an error, not a gap.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// A file, or a directory and everything below, may be opened and used in these ways. It has to exist.
    pub fn path(&mut self, path: impl AsRef<Path>, access: Access) {
        self.paths.push((path.as_ref().into(), access));
    }

    /// A folder that the guest shares.
    pub fn share(&mut self, folder: impl AsRef<Path>, access: Access) {
        self.path(folder, access);
        if self.shares != Some(Access::ReadWrite) {
            self.shares = Some(access);
        }
    }

    /// A directory of this machine's own may be removed at its end, with whatever lies in it.
    pub fn removal(&mut self, directory: impl AsRef<Path>) {
        let directory = directory.as_ref();
        self.path(directory, Access::Remove);
        if let Some(parent) = directory.parent() {
            self.path(parent, Access::Prune);
        }
    }

    /// TCP, UDP and ICMP echo over IPv4 and IPv6, to and from anywhere: the user network's.
    pub fn internet(&mut self) {
        self.internet = true;
    }

    /// Using Unix sockets that are listened on or connected already: a control socket's server, a switch.
    pub fn unix_sockets(&mut self) {
        self.unix_sockets = true;
    }

    /// Making Unix sockets in a directory and connecting to those there, as far as this host can keep it to that
    /// directory: Landlock can from version 9 on. Before, no socket can be made, and trying is an error: a process
    /// that may connect to any socket by name is out of its sandbox as soon as it talks to the host's other servers.
    pub fn unix_connections(&mut self, directory: impl AsRef<Path>) {
        self.unix_sockets = true;
        if files::support().is_ok_and(|version| version >= files::KNOWS_SOCKETS) {
            self.unix_connections = true;
            self.path(directory, Access::Sockets);
        }
    }

    /// The same where it has to work on every host: before version 9, with sockets anywhere.
    pub fn unix_connections_at_any_price(&mut self, directory: impl AsRef<Path>) {
        self.unix_sockets = true;
        self.unix_connections = true;
        self.path(directory, Access::Sockets);
    }

    /// The settings of a TUN/TAP interface's queue that a guest changes while it runs.
    pub fn tun(&mut self) {
        self.tun = true;
    }

    /// Submitting to io_uring rings that are there already; making new ones stays forbidden. What a ring does no
    /// filter sees, so a ring has to be restricted (`IORING_REGISTER_RESTRICTIONS`) by the one who makes it.
    pub fn rings(&mut self) {
        self.rings = true;
    }

    /// Puts the policy in force for this process, for all its threads and those to come, for good.
    pub fn enter(&self) -> Result<Protection, SandboxError> {
        self.enter_with(Vec::new)
    }

    /// The same with processes that are started half-way, so that they are under the same rules for files, which tracing them asks
    /// for; tracing them stays allowed. They are given by their numbers.
    pub fn enter_with(&self, start: impl FnOnce() -> Vec<u32>) -> Result<Protection, SandboxError> {
        let landlock = files::restrict(self)?;
        let this = &Self { stubs: start(), ..self.clone() };
        let protection = Protection {
            landlock,
            seccomp: {
                trap::install().map_err(SandboxError::Host)?;
                filter::install(this)?
            },
            names_matter: self.opens_files() || self.unix_connections,
        };
        if self.strict { protection.whole() } else { Ok(protection) }
    }

    /// Whether files may be opened by name, so that only Landlock says which.
    fn opens_files(&self) -> bool {
        !self.paths.is_empty()
    }

    fn uses_sockets(&self) -> bool {
        self.internet || self.unix_sockets
    }

    fn makes_sockets(&self) -> bool {
        self.internet || self.unix_connections
    }
}

/// What is in force after [`Sandbox::enter`].
#[derive(Debug)]
pub struct Protection {
    seccomp: Result<(), HostError>,
    landlock: Result<u32, HostError>,
    /// Whether the filter lets names through, of files or sockets.
    names_matter: bool,
}

impl Protection {
    /// Both halves, or an error that tells which is not there.
    fn whole(self) -> Result<Self, SandboxError> {
        match self {
            Self { seccomp: Err(source), .. } => Err(SandboxError::Missing { what: "seccomp", source }),
            Self { landlock: Err(source), .. } => Err(SandboxError::Missing { what: "Landlock", source }),
            whole => Ok(whole),
        }
    }

    /// What stands open because this host cannot guard it, and why. A host without Landlock leaves no gap in a
    /// machine whose filter lets no name through in the first place.
    pub fn gaps(&self) -> Vec<String> {
        let why = |error: &HostError| error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let mut gaps = Vec::new();
        if let Err(error) = &self.seccomp {
            gaps.push(format!("every system call, for want of seccomp ({})", why(error)));
        }
        if let Err(error) = &self.landlock
            && (self.names_matter || self.seccomp.is_err())
        {
            gaps.push(format!("every file, for want of Landlock ({})", why(error)));
        }
        gaps
    }
}

/// Why the sandbox is not in force. The process must not run a guest then.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Asked to be strict, on a host that cannot do all of it.
    #[error("this host has no {what}")]
    Missing {
        /// What.
        what: &'static str,
        /// How it said so.
        source: HostError,
    },
    /// A path of the policy.
    #[error("cannot make a rule for {}", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread that cannot be restricted.
    #[error("thread {thread} cannot be restricted")]
    Thread {
        /// Its number.
        thread: i64,
    },
    /// The rules.
    #[error("cannot set up Landlock")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter.
    #[error("cannot compile the filter")]
    Filter(#[from] seccompiler::BackendError),
    /// A system call.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What this kernel offers.
#[derive(Debug)]
pub struct Support {
    /// Filters of system calls.
    pub seccomp: Result<(), HostError>,
    /// Rules for files and sockets: the version of the interface.
    pub landlock: Result<u32, HostError>,
}

/// Looks what this kernel offers.
pub fn support() -> Support {
    Support { seccomp: filter::support(), landlock: files::support() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_what_nothing_guards() {
        let absent = || HostError::Call { call: "test", source: io::Error::from_raw_os_error(libc::ENOSYS) };
        let gaps = |seccomp: bool, landlock: bool, names_matter| {
            let seccomp = if seccomp { Ok(()) } else { Err(absent()) };
            let landlock = if landlock { Ok(7) } else { Err(absent()) };
            Protection { seccomp, landlock, names_matter }.gaps()
        };
        for names_matter in [false, true] {
            assert_eq!(gaps(true, true, names_matter).len(), 0);
            assert_eq!(gaps(false, true, names_matter).len(), 1);
            assert_eq!(gaps(false, false, names_matter).len(), 2);
        }
        assert_eq!(gaps(true, false, false).len(), 0);
        let gaps = gaps(true, false, true);
        assert_eq!(gaps.len(), 1);
        assert!(gaps[0].contains("for want of Landlock (Function not implemented"), "{}", gaps[0]);
    }
}
