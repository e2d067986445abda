//! Values of a definition's fields, each written alike in a flag and in TOML.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use board::SerialKind;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// `--engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineArg {
    /// The best that works on this host.
    #[default]
    Auto,
    /// Binary translation: needs nothing of the host.
    Translator,
}

/// `--direct`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirectArg {
    /// Programs that are found busy, as long as it pays, on a machine with one processor and a host that lets popf trace them.
    #[default]
    Auto,
    /// All programs, at any price: for tests.
    Always,
    /// None: all code is translated.
    Off,
}

/// `--sandbox`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxArg {
    /// All that this host can do; what it cannot is told.
    #[default]
    Auto,
    /// All there is; on a host that cannot do it, no guest.
    Strict,
    /// Nothing.
    Off,
}

/// `--serial`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SerialArg {
    /// Standard input and output.
    Stdio,
    /// Nowhere.
    Null,
    /// What the guest sends, to a file.
    File(PathBuf),
}

impl SerialArg {
    /// What the back-end calls it.
    pub fn kind(&self) -> SerialKind {
        match self {
            Self::Stdio => SerialKind::Stdio,
            Self::Null => SerialKind::Null,
            Self::File(path) => SerialKind::File(path.clone()),
        }
    }
}

impl FromStr for SerialArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("file:")) {
            ("stdio", _) => Ok(Self::Stdio),
            ("null", _) => Ok(Self::Null),
            (_, Some(path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("expected stdio, null or file:PATH".into()),
        }
    }
}

impl TryFrom<String> for SerialArg {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SerialArg> for String {
    fn from(serial: SerialArg) -> Self {
        serial.to_string()
    }
}

impl fmt::Display for SerialArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::Null => f.write_str("null"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// A command's words: text in TOML, where the command line may have other bytes.
pub mod text {
    use std::ffi::OsString;

    use serde::de::{Deserialize, Deserializer};
    use serde::ser::{Error, Serialize, Serializer};

    pub fn serialize<S: Serializer>(words: &[OsString], serializer: S) -> Result<S::Ok, S::Error> {
        let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
        words.ok_or_else(|| S::Error::custom("the command is not UTF-8"))?.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OsString>, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        Ok(words.into_iter().map(OsString::from).collect())
    }
}
