//! Versioned sections of saved state. Knows no device.
//!
//! Every stateful unit of a machine implements [`Persist`]. A [`Writer`] asks each unit for its state and makes
//! one file of sections; [`Sections::parse`] takes such a file apart, [`Sections::check`] holds it against the
//! units of a machine, [`Checked::commit`] puts it into them. A file is untrusted: until `commit`, which cannot
//! fail, no unit has changed, and no other order of these steps compiles.
//!
//! # A unit
//! ```
//! use savestate::{Invalid, NoOlder, Persist, Saved, Sections, Writer, require};
//! use serde::{Deserialize, Serialize};
//!
//! /// A latch with a port in front of it.
//! struct Latch {
//!     // Wiring: what the board decided. Not saved; the board of the restored machine decides again.
//!     inverted: bool,
//!     // Volatile state.
//!     value: u8,
//!     armed: bool,
//! }
//!
//! /// The saved form: plain, versioned, never changed after a release. A new field makes a `LatchStateV2` with
//! /// `From<LatchStateV1>` and `type Older = LatchStateV1`, and `Persist::State` becomes V2.
//! #[derive(Serialize, Deserialize)]
//! struct LatchStateV1 {
//!     value: u8,
//!     armed: bool,
//! }
//!
//! impl Saved for LatchStateV1 {
//!     const VERSION: u16 = 1;
//!     type Older = NoOlder;
//! }
//!
//! impl Persist for Latch {
//!     const KIND: &'static str = "latch";
//!     type State = LatchStateV1;
//!
//!     fn save(&self) -> LatchStateV1 {
//!         // No `..`: a field added to the device and forgotten here does not compile.
//!         let Self { inverted: _, value, armed } = self;
//!         LatchStateV1 { value: *value, armed: *armed }
//!     }
//!
//!     fn check(&self, state: &LatchStateV1) -> Result<(), Invalid> {
//!         // Everything the device relies on and the types do not guarantee.
//!         require(state.value < 0x80, "value has bit 7 set")
//!     }
//!
//!     fn commit(&mut self, state: LatchStateV1) {
//!         let LatchStateV1 { value, armed } = state;
//!         self.value = value;
//!         self.armed = armed;
//!         // Here a device also re-derives what it did not save: raises its line, sets its timer.
//!     }
//! }
//!
//! let old = Latch { inverted: true, value: 5, armed: true };
//! let mut writer = Writer::new();
//! writer.add(0, &old)?; // 0: the instance, where a machine has several latches
//! let file = writer.finish();
//!
//! let mut new = Latch { inverted: true, value: 0, armed: false };
//! let sections = Sections::parse(&file)?;
//! let checked = sections.check([(0, &mut new as _)])?;
//! checked.commit();
//! assert_eq!((new.value, new.armed), (5, true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Not here: guest RAM, which travels in pages and by each carrier's own ways.

mod error;
mod format;
mod persist;
mod restore;
mod writer;

pub use error::{Invalid, ReadError, SaveError, require};
pub use persist::{Before, NoOlder, Persist, Saved, Unit};
pub use restore::{Checked, Sections};
pub use writer::Writer;
