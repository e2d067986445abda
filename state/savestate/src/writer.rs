//! Makes a saved file.

use std::collections::BTreeSet;

use crate::format::{FORMAT, MAGIC, MAX_BODY, MAX_SECTIONS, RawSection, kind_is_valid};
use crate::{SaveError, Unit};

/// Collects sections.
#[derive(Debug, Default)]
pub struct Writer {
    seen: BTreeSet<(&'static str, u32)>,
    sections: Vec<u8>,
}

impl Writer {
    /// A file without sections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Saves a unit. `instance` tells units of the same kind apart; a machine numbers them always in one way.
    pub fn add(&mut self, instance: u32, unit: &(impl Unit + ?Sized)) -> Result<(), SaveError> {
        let kind = unit.kind();
        // Our own bug, not the user's: no file with such a kind could be read.
        assert!(kind_is_valid(kind.as_bytes()), "section kind {kind:?}");
        if self.seen.contains(&(kind, instance)) {
            return Err(SaveError::Duplicate { kind: kind.to_owned(), instance });
        }
        let body =
            unit.encode().map_err(|source| SaveError::Encode { kind: kind.to_owned(), instance, source })?;
        if body.len() as u64 > MAX_BODY || self.seen.len() >= MAX_SECTIONS {
            return Err(SaveError::TooLarge { kind: kind.to_owned(), instance });
        }
        self.seen.insert((kind, instance));
        RawSection { kind, instance, version: unit.version(), body: &body }.encode(&mut self.sections);
        Ok(())
    }

    /// The file.
    pub fn finish(self) -> Vec<u8> {
        let mut file = Vec::with_capacity(MAGIC.len() + 6 + self.sections.len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&FORMAT.to_le_bytes());
        // At most MAX_SECTIONS.
        file.extend_from_slice(&(self.seen.len() as u32).to_le_bytes());
        file.extend_from_slice(&self.sections);
        file
    }
}
