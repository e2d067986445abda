//! What can be wrong with a saved file, said so that its owner can act on it.

use std::borrow::Cow;

/// A state that decodes but that the unit must not accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(Cow<'static, str>);

impl Invalid {
    /// With what is wrong, such as `"channel 1: mode 6"`.
    pub fn new(what: impl Into<Cow<'static, str>>) -> Self {
        Self(what.into())
    }
}

/// `Ok` if `condition` holds, else [`Invalid`] with `what` is wrong.
pub fn require(condition: bool, what: &'static str) -> Result<(), Invalid> {
    if condition { Ok(()) } else { Err(Invalid::new(what)) }
}

/// State could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The same unit twice, or two units under one name.
    #[error("section {kind}/{instance} saved twice")]
    Duplicate {
        /// The unit's kind.
        kind: String,
        /// Its instance.
        instance: u32,
    },
    /// The state has no form in the file.
    #[error("section {kind}/{instance} cannot be encoded")]
    Encode {
        /// The unit's kind.
        kind: String,
        /// Its instance.
        instance: u32,
        /// Why.
        source: postcard::Error,
    },
    /// The encoded state or the number of sections is beyond what the format admits.
    #[error("section {kind}/{instance} exceeds the limits of the format")]
    TooLarge {
        /// The unit's kind.
        kind: String,
        /// Its instance.
        instance: u32,
    },
}

/// A saved file was not accepted. No unit has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file does not begin as saved states do.
    #[error("not a saved state of popf")]
    NotOurs,
    /// The file's layout is of another time.
    #[error("saved-state format {found} is not known; this popf reads format {known}")]
    Format {
        /// The file's.
        found: u16,
        /// Ours.
        known: u16,
    },
    /// The file ends early.
    #[error("the saved state is cut off at byte {offset}")]
    Truncated {
        /// Where something was missing.
        offset: usize,
    },
    /// Bytes behind the last section.
    #[error("{extra} bytes follow the last section of the saved state")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A header field is out of its limits.
    #[error("bad section header at byte {offset}")]
    Header {
        /// Where the header begins.
        offset: usize,
    },
    /// A checksum does not match: the file was damaged.
    #[error("section {kind}/{instance} is damaged (checksum)")]
    Checksum {
        /// The section's kind.
        kind: String,
        /// Its instance.
        instance: u32,
    },
    /// A section occurs twice.
    #[error("section {kind}/{instance} occurs twice")]
    Duplicate {
        /// The section's kind.
        kind: String,
        /// Its instance.
        instance: u32,
    },
    /// The machine has no unit for a section: it was saved from another machine.
    #[error("section {kind}/{instance} belongs to nothing in this machine")]
    Unknown {
        /// The section's kind.
        kind: String,
        /// Its instance.
        instance: u32,
    },
    /// The file has no section for a unit of the machine.
    #[error("section {kind}/{instance} is missing")]
    Missing {
        /// The unit's kind.
        kind: String,
        /// Its instance.
        instance: u32,
    },
    /// The section's version is newer than ours, or was never published.
    #[error("section {kind}/{instance} has version {found}; this popf reads up to {known}")]
    Version {
        /// The section's kind.
        kind: String,
        /// Its instance.
        instance: u32,
        /// The section's.
        found: u16,
        /// The newest we know.
        known: u16,
    },
    /// The section's body does not decode.
    #[error("section {kind}/{instance} cannot be decoded")]
    Decode {
        /// The section's kind.
        kind: String,
        /// Its instance.
        instance: u32,
        /// Why.
        source: postcard::Error,
    },
    /// The unit does not accept the state.
    #[error("section {kind}/{instance} is not valid")]
    Invalid {
        /// The section's kind.
        kind: String,
        /// Its instance.
        instance: u32,
        /// Why.
        source: Invalid,
    },
}
