//! What all engines agree on: the state of a virtual CPU, the ways an engine gives up control, and the traits
//! between an engine, the monitor and the machine.
//!
//! Between two runs [`CpuState`] is the whole truth about a vCPU, whichever engine ran it last.

mod debug;
mod engine;
mod environment;
mod inspect;
mod persist;
mod state;

pub use debug::{DebugEvent, DebugPoints, Watchpoint};
pub use engine::{Delivery, Engine, EngineError, Entry, Event, Exit, Insn, Invalidation, Kick, Mmio};
pub use environment::{Environment, Signal};
pub use inspect::{BlockView, HostCode, HostPart, PieceView, Sighting};
pub use persist::{ActivityV1, CpuStateV1, MsrsV1, SegmentV1, ShadowV1, TableRegisterV1};
pub use state::{Activity, CpuState, FpuState, Msrs, Shadow, Width};
