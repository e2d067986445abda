//! A machine that runs, looked at from outside: its counters, its translation cache, its memory.
//!
//! A [`Question`] goes to the vCPU it is about, which answers on its own thread between two instructions
//! (`dispatcher::Desk`): so what it tells fits together, and nothing that counts takes a lock. Questions and answers
//! are plain data, which travel as the control socket's and lie in recordings.
//!
//! Counting by place, and sampling, are on for as long as somebody asks: [`Question::Trace`] is a lease of
//! [`LEASE`], so that a watcher that dies leaves nothing behind that costs.

pub(crate) mod answer;
mod sampler;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use dispatcher::{Desk, Dispatcher};
use serde::{Deserialize, Serialize};
use vcpu::Environment;

use crate::waker::Waker;
use devices::apic::Wake as _;
use sampler::Sampler;

pub use dispatcher::{Counter, Frame, Place, Row, Sample};
pub use vcpu::{BlockView, HostCode, HostPart, PieceView, Sighting};

/// How long counting by place and sampling go on after the last question about them.
pub const LEASE: Duration = Duration::from_secs(5);
/// The fastest that vCPUs are sampled.
pub const MOST_HERTZ: u32 = 1000;
/// Most places in one answer: a line of the control socket has room for so many.
pub const MOST_PLACES: usize = 128;
/// Most bytes of memory in one answer.
pub const MOST_BYTES: u32 = 24 << 10;
/// Most parts of an engine's host code in one answer.
pub const MOST_PARTS: usize = 400;
/// The longest range whose mappings are told in one answer.
pub const MOST_MAPPED: u64 = 64 << 20;

/// A vCPU comes out of guest code in microseconds; what it is at meanwhile may be a device's.
const PATIENCE: Duration = Duration::from_secs(2);

/// What can be asked of a machine that runs. `vcpu` counts from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// What has been counted since the start.
    Counters {
        /// Of which.
        vcpu: u8,
    },
    /// The same with what is counted by place; begins that, and keeps it up for [`LEASE`].
    Trace {
        /// Of which.
        vcpu: u8,
        /// How often per second all vCPUs are to be sampled; 0 for never. The last one asked for counts.
        hertz: u32,
    },
    /// What sampling has seen.
    Samples {
        /// Of which.
        vcpu: u8,
        /// The number of the first one wanted.
        from: u64,
    },
    /// What the engine has made of the code at an address.
    Blocks {
        /// Whose engine: each has a cache of its own.
        vcpu: u8,
        /// Guest rip.
        rip: u64,
    },
    /// What an engine's host code is, from an address on; at most [`MOST_PARTS`] parts.
    HostCode {
        /// Whose engine.
        vcpu: u8,
        /// First host address.
        from: u64,
    },
    /// Which pages of linear memory are there, from the first address to before the second.
    Mappings {
        /// In whose address space.
        vcpu: u8,
        /// First address.
        from: u64,
        /// One past the last; at most [`MOST_MAPPED`] further.
        to: u64,
    },
    /// What stands in linear memory. Shorter than asked if pages are missing, or there is a device's.
    Read {
        /// In whose address space.
        vcpu: u8,
        /// First address.
        linear: u64,
        /// How many bytes, at most [`MOST_BYTES`].
        len: u32,
    },
}

impl Question {
    /// Who it is for.
    pub fn vcpu(&self) -> u8 {
        match *self {
            Self::Counters { vcpu }
            | Self::Trace { vcpu, .. }
            | Self::Samples { vcpu, .. }
            | Self::Blocks { vcpu, .. }
            | Self::HostCode { vcpu, .. }
            | Self::Mappings { vcpu, .. }
            | Self::Read { vcpu, .. } => vcpu,
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Question::Counters`] and [`Question::Trace`].
    Counters(Box<Snapshot>),
    /// To [`Question::Samples`].
    Samples(Samples),
    /// To [`Question::Blocks`].
    Blocks(Vec<BlockView>),
    /// To [`Question::HostCode`], in the order of addresses.
    HostCode(Vec<HostCode>),
    /// To [`Question::Mappings`].
    Mappings(Vec<Mapped>),
    /// To [`Question::Read`], two hexadecimal digits a byte.
    Bytes(String),
}

/// One vCPU at one moment. Counts are since the machine's start, those of [`Traced`] since tracing began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which.
    pub vcpu: u8,
    /// Of how many.
    pub vcpus: u8,
    /// Its engine.
    pub engine: String,
    /// Where it is.
    pub rip: u64,
    /// The time-stamp counter as the VM sees it.
    pub tsc: u64,
    /// How fast that runs.
    pub tsc_hz: u64,
    /// Cycles in the engine: guest code, and what the engine does for it.
    pub engine_cycles: u64,
    /// Cycles outside of it, waiting included, up to when it was entered last.
    pub monitor_cycles: u64,
    /// Cycles of waiting for interrupts.
    pub idle_cycles: u64,
    /// Exits and deliveries by cause.
    pub rows: Vec<Row>,
    /// What the engine has counted.
    pub counters: Vec<(String, u64)>,
    /// What it holds.
    pub contents: Vec<(String, u64)>,
    /// What is counted by place, if that was asked for.
    pub traced: Option<Traced>,
}

/// What is counted while somebody watches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// The costliest places.
    pub places: Vec<Place>,
    /// How many places there are.
    pub known: u64,
    /// Events at places that there was no room to keep apart.
    pub beyond: u64,
    /// Exceptions and interrupts delivered, by vector.
    pub delivered: Vec<(String, u64)>,
}

/// Samples in the order they were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// The number of the first; more than was asked for if some are gone already.
    pub from: u64,
    /// They.
    pub list: Vec<Sample>,
}

/// Pages side by side that may be used alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// Linear address of the first byte.
    pub linear: u64,
    /// Bytes.
    pub len: u64,
    /// May be executed.
    pub executable: bool,
    /// May be used in ring 3.
    pub user: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Not yet built, or ended.
    #[error("the machine does not run at this moment")]
    NotRunning,
    /// No such vCPU.
    #[error("there is no vCPU {asked}: the machine has {there}, counted from 0")]
    NoProcessor {
        /// The one asked.
        asked: u8,
        /// How many there are.
        there: usize,
    },
    /// It did not come.
    #[error("vCPU {0} does not answer: it is stopped by a debugger, or its host is very busy")]
    Silent(u8),
    /// Too much at once, or nothing.
    #[error("{0}")]
    Range(&'static str),
    /// Sampling cannot begin.
    #[error("cannot sample: {0}")]
    Sampling(String),
}

/// A vCPU, as far as it can be reached from other threads.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) desk: Arc<Desk>,
    pub(crate) waker: Arc<Waker>,
}

impl Seat {
    /// Has this done on the vCPU's thread.
    fn leave(&self, visit: impl FnOnce(&mut Dispatcher, &mut dyn Environment) + Send + 'static) {
        self.desk.leave(Box::new(visit));
        self.waker.wake();
    }
}

/// What of one life of a machine can be looked at.
pub(crate) struct Insight {
    seats: Vec<Seat>,
    whole: Whole,
    sampler: Arc<Sampler>,
}

/// What an answer about one vCPU says of the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    pub(crate) vcpus: u8,
    pub(crate) tsc_hz: u64,
}

/// Asks a machine that stands still at its end: see [`crate::machine::Config::last_look`].
pub type Ask<'a> = dyn FnMut(&Question) -> Result<Answer, AskError> + 'a;

impl Insight {
    pub(crate) fn new(seats: Vec<Seat>, whole: Whole) -> Self {
        Self { sampler: Arc::new(Sampler::new(seats.clone())), seats, whole }
    }

    /// Answers a question.
    pub(crate) fn ask(&self, question: &Question) -> Result<Answer, AskError> {
        let (asked, whole) = (question.clone(), self.whole);
        let answer =
            self.visit(question.vcpu(), move |dispatcher, env| answer::to(&asked, whole, dispatcher, env))??;
        if let Question::Trace { hertz, .. } = question {
            self.sampler.extend((*hertz).min(MOST_HERTZ)).map_err(AskError::Sampling)?;
        }
        Ok(answer)
    }

    fn visit<T: Send + 'static>(
        &self,
        vcpu: u8,
        visit: impl FnOnce(&mut Dispatcher, &mut dyn Environment) -> T + Send + 'static,
    ) -> Result<T, AskError> {
        let there = self.seats.len();
        let seat = self.seats.get(usize::from(vcpu)).ok_or(AskError::NoProcessor { asked: vcpu, there })?;
        let (sender, receiver) = mpsc::sync_channel(1);
        seat.leave(move |dispatcher, env| {
            // Whoever asked may have lost patience.
            let _ = sender.send(visit(dispatcher, env));
        });
        receiver.recv_timeout(PATIENCE).map_err(|_| AskError::Silent(vcpu))
    }
}
