//! Prescan: the sensitive instructions of a program, a kernel or a raw image, by address, symbol and class.
//!
//! What control can be seen to reach is decoded first, by [recursive descent](Way::Descent) from entry points and
//! symbols: that is code. What is left in executable sections is [swept](Way::Sweep) from its beginning on, and may
//! be code that only a pointer leads to, or data; what is found there is marked so. No prescan can know all code of
//! an x86 program, which is why a translator does not rely on one: it decodes when control arrives.
//!
//! A file is believed in nothing: what it says of itself is checked, and what it makes of memory is bounded.

mod decode;
mod findings;
pub mod image;
mod symbols;

pub use findings::{Finding, Occurrence, Report, Way, scan};
pub use image::{Format, Image, Region, ScanError};
pub use symbols::Symbols;
