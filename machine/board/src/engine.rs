//! Which engine runs guest code, and why.

use memory::GuestRam;
use translator::{Options, Translator};
use vcpu::{Engine, EngineError};

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The best that works on this host: binary translation, which so far is the only one.
    #[default]
    Auto,
    /// Binary translation.
    Translator,
}

/// The name of the binary translator.
pub const TRANSLATOR: &str = "translator";

/// An engine for one vCPU.
pub(crate) fn make(
    choice: EngineChoice,
    ram: &GuestRam,
    physical_bits: u8,
) -> Result<Box<dyn Engine>, (&'static str, EngineError)> {
    match choice {
        EngineChoice::Auto | EngineChoice::Translator => {
            let options = Options { physical_bits, ..Options::default() };
            match Translator::new(ram.clone(), options) {
                Ok(engine) => Ok(Box::new(engine)),
                Err(error) => Err((TRANSLATOR, error)),
            }
        }
    }
}

/// Sets the translator up for a tiny machine and takes it down again: whether it would work on this host.
pub fn try_translator() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let ram = GuestRam::allocate(crate::map::MINIMUM)?;
    Translator::new(ram, Options::default())?;
    Ok(())
}
