//! `--port`: a named port of the virtio console, `NAME=unix:PATH` or `NAME=file:PATH`.
//!
//! In a definition it is the same string, or a table (`{ name = "org.example.agent", to = "unix:agent.sock" }`).
//!
//! A program in the guest finds the port as `/dev/virtio-ports/NAME`. At the other end is whoever connects to the
//! socket, one at a time, or a file that takes what the guest writes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use backends::PortKind;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A port with its far end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// By which the guest finds it.
    pub name: PortName,
    /// Its far end.
    pub to: PortEnd,
}

/// What a file name and a property of a virtio port can be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortName(String);

/// A [`PortKind`] that can be written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortEnd(pub PortKind);

/// Why a port cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortSpecError {
    /// No name.
    #[error("expected NAME=unix:PATH or NAME=file:PATH, such as org.example.agent=unix:agent.sock")]
    Syntax,
    /// A name that is none for a file.
    #[error("{0:?} will not do as a port's name: up to 63 letters, digits, `.`, `-` and `_`, not only dots")]
    Name(String),
    /// An end there is not.
    #[error("{0}")]
    End(String),
}

impl PortEnd {
    /// The path, taken as seen from `directory`.
    pub fn seen_from(&mut self, directory: &Path) {
        let (PortKind::Unix(path) | PortKind::File(path)) = &mut self.0;
        *path = directory.join(&*path);
    }

    fn parts(&self) -> (&'static str, &PathBuf) {
        match &self.0 {
            PortKind::Unix(path) => ("unix", path),
            PortKind::File(path) => ("file", path),
        }
    }
}

impl FromStr for PortSpec {
    type Err = PortSpecError;

    fn from_str(text: &str) -> Result<Self, PortSpecError> {
        let (name, to) = text.split_once('=').ok_or(PortSpecError::Syntax)?;
        Ok(Self { name: name.to_owned().try_into()?, to: to.to_owned().try_into()? })
    }
}

impl TryFrom<String> for PortName {
    type Error = PortSpecError;

    fn try_from(name: String) -> Result<Self, PortSpecError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let good = (1..64).contains(&name.len()) && name.chars().all(fits) && name.chars().any(|c| c != '.');
        if good { Ok(Self(name)) } else { Err(PortSpecError::Name(name)) }
    }
}

impl From<PortName> for String {
    fn from(name: PortName) -> Self {
        name.0
    }
}

impl TryFrom<String> for PortEnd {
    type Error = PortSpecError;

    fn try_from(text: String) -> Result<Self, PortSpecError> {
        text.parse().map(Self).map_err(|error: backends::PortError| PortSpecError::End(error.to_string()))
    }
}

impl From<PortEnd> for String {
    fn from(end: PortEnd) -> Self {
        let (kind, path) = end.parts();
        format!("{kind}:{}", path.display())
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read() {
        let port = |name: &str, kind| PortSpec { name: PortName(name.into()), to: PortEnd(kind) };
        for (text, expected) in [
            ("agent=unix:a.sock", port("agent", PortKind::Unix("a.sock".into()))),
            (
                "org.example.log=file:/var/log/a=b",
                port("org.example.log", PortKind::File("/var/log/a=b".into())),
            ),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            let table = serde_json::to_string(&expected).unwrap();
            assert_eq!(serde_json::from_str::<PortSpec>(&table).unwrap(), expected, "{table}");
        }
        assert_eq!("agent".parse::<PortSpec>(), Err(PortSpecError::Syntax));
        for name in ["", "..", "a/b", "a b", "é", &"x".repeat(64)] {
            let error = format!("{name}=unix:x").parse::<PortSpec>().unwrap_err();
            assert!(matches!(error, PortSpecError::Name(_)), "{name}: {error}");
        }
        for end in ["", "unix:", "tcp:80", "/path"] {
            let error = format!("a={end}").parse::<PortSpec>().unwrap_err();
            assert!(matches!(error, PortSpecError::End(_)), "{end}: {error}");
        }
    }

    #[test]
    fn paths_are_seen_from_a_directory() {
        let mut end = PortEnd(PortKind::Unix("a".into()));
        end.seen_from(Path::new("/dir"));
        assert_eq!(end, PortEnd(PortKind::Unix("/dir/a".into())));
    }
}
