//! `--gdb`: where a debugger connects, `PORT[,wait][,arch=x86-64|i386]` or `unix:PATH[,...]`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{WordError, Words};

/// What a debugger finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GdbSpec {
    /// Where it connects.
    pub at: GdbEnd,
    /// The guest runs no instruction before one has come.
    pub wait: bool,
    /// As what the processor is shown, if not as what it is when one comes.
    pub arch: Option<GdbArch>,
}

/// Where a debugger connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GdbEnd {
    /// A port of the host's loopback; 0 for any that is free.
    Port(u16),
    /// A socket that is made there.
    Unix(PathBuf),
}

/// GDB's names of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum GdbArch {
    X86_64,
    I386,
}

/// Why it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GdbSpecError {
    /// The options make no sense by themselves.
    #[error(transparent)]
    Words(#[from] WordError),
    /// Neither port nor path.
    #[error("expected a port of this host or unix:PATH, as in 1234 or unix:gdb.sock,wait")]
    End,
}

impl FromStr for GdbArch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "x86-64" => Ok(Self::X86_64),
            "i386" => Ok(Self::I386),
            _ => Err("expected x86-64 or i386"),
        }
    }
}

impl FromStr for GdbSpec {
    type Err = GdbSpecError;

    fn from_str(text: &str) -> Result<Self, GdbSpecError> {
        let mut words = Words::new(text)?;
        let at = match words.head.strip_prefix("unix:") {
            Some("") => return Err(GdbSpecError::End),
            Some(path) => GdbEnd::Unix(path.into()),
            None => GdbEnd::Port(words.head.parse().map_err(|_| GdbSpecError::End)?),
        };
        let spec = Self { at, wait: words.flag("wait")?, arch: words.value("arch")? };
        words.finish()?;
        Ok(spec)
    }
}

impl TryFrom<String> for GdbSpec {
    type Error = GdbSpecError;

    fn try_from(text: String) -> Result<Self, GdbSpecError> {
        text.parse()
    }
}

impl fmt::Display for GdbSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.at {
            GdbEnd::Port(port) => write!(f, "{port}")?,
            GdbEnd::Unix(path) => write!(f, "unix:{}", path.display())?,
        }
        if self.wait {
            f.write_str(",wait")?;
        }
        match self.arch {
            None => Ok(()),
            Some(GdbArch::X86_64) => f.write_str(",arch=x86-64"),
            Some(GdbArch::I386) => f.write_str(",arch=i386"),
        }
    }
}

impl From<GdbSpec> for String {
    fn from(spec: GdbSpec) -> Self {
        spec.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_and_options() {
        let port = GdbSpec { at: GdbEnd::Port(1234), wait: false, arch: None };
        assert_eq!("1234".parse(), Ok(port.clone()));
        assert_eq!("1234,wait".parse(), Ok(GdbSpec { wait: true, ..port.clone() }));
        let unix = GdbSpec { at: GdbEnd::Unix("a b".into()), wait: true, arch: Some(GdbArch::I386) };
        assert_eq!("unix:a b,arch=i386,wait".parse(), Ok(unix.clone()));
        for spec in [port, unix] {
            assert_eq!(spec.to_string().parse(), Ok(spec));
        }
    }

    #[test]
    fn nonsense_is_told() {
        for text in ["", "unix:", "70000", "-1", "0.0.0.0:1234", "localhost"] {
            assert_eq!(text.parse::<GdbSpec>(), Err(GdbSpecError::End), "{text}");
        }
        let told = |text: &str| text.parse::<GdbSpec>().unwrap_err().to_string();
        assert_eq!(told("1,arch=arm"), "arch=arm: expected x86-64 or i386");
        assert!(told("1,halt").starts_with("there is no option \"halt\""));
    }
}
