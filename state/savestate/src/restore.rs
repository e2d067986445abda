//! Takes a saved file back: parse, check everything, then commit everything.

use std::collections::BTreeMap;
use std::fmt;

use crate::format::{self, RawSection};
use crate::persist::{Commit, SectionRef};
use crate::{ReadError, Unit};

/// A file that is whole: every section complete, undamaged and there once. What its bodies say is not yet known.
#[derive(Debug)]
pub struct Sections<'a> {
    sections: BTreeMap<(&'a str, u32), RawSection<'a>>,
}

impl<'a> Sections<'a> {
    /// Takes a file apart.
    pub fn parse(file: &'a [u8]) -> Result<Self, ReadError> {
        let mut sections = BTreeMap::new();
        for section in format::parse(file)? {
            let (kind, instance) = (section.kind, section.instance);
            if sections.insert((kind, instance), section).is_some() {
                return Err(ReadError::Duplicate { kind: kind.to_owned(), instance });
            }
        }
        Ok(Self { sections })
    }

    /// Kind, instance, version and body length of each section, sorted.
    pub fn list(&self) -> impl Iterator<Item = (&'a str, u32, u16, usize)> + '_ {
        self.sections
            .values()
            .map(|section| (section.kind, section.instance, section.version, section.body.len()))
    }

    /// Holds the file against the units of a machine, each with its instance. Every unit must have its section
    /// and every section its unit. No unit changes.
    ///
    /// # Panics
    /// When two units share kind and instance: such a machine could not have been saved either.
    pub fn check<'u, I>(mut self, units: I) -> Result<Checked<'u>, ReadError>
    where
        I: IntoIterator<Item = (u32, &'u mut dyn Unit)>,
    {
        let mut commits = Vec::new();
        let mut taken = std::collections::BTreeSet::new();
        for (instance, unit) in units {
            let kind = unit.kind();
            assert!(taken.insert((kind, instance)), "two units {kind}/{instance}");
            let section = self
                .sections
                .remove(&(kind, instance))
                .ok_or_else(|| ReadError::Missing { kind: kind.to_owned(), instance })?;
            commits.push(unit.prepare(&SectionRef(&section))?);
        }
        match self.sections.into_keys().next() {
            Some((kind, instance)) => Err(ReadError::Unknown { kind: kind.to_owned(), instance }),
            None => Ok(Checked { commits }),
        }
    }
}

/// A file that fits a machine in every part. Dropping it leaves the machine as it was.
#[must_use = "nothing is restored before `commit`"]
pub struct Checked<'u> {
    commits: Vec<Commit<'u>>,
}

impl Checked<'_> {
    /// Puts the states into the units, in the order in which the units were given.
    pub fn commit(self) {
        for commit in self.commits {
            commit();
        }
    }
}

impl fmt::Debug for Checked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked").field("sections", &self.commits.len()).finish()
    }
}
