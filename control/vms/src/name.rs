//! What a VM is called.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A name: a word that can be a directory, in front of a colon (`popf cp web:/etc/motd .`), and in a socket's path,
/// which has room for 108 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a word is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a VM's name is 1 to {} letters, digits, '.', '_' or '-', the first a letter or a digit", Name::MAX)]
pub struct NameError;

impl Name {
    /// The longest.
    pub const MAX: usize = 40;

    /// A name for a VM that was given none, such as `debian-7f3a`. It may be in use.
    pub fn generate(stem: &str) -> Self {
        // Each state is keyed anew, from the system's random numbers.
        let number = RandomState::new().build_hasher().finish() & 0xffff;
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let stem: String = stem.chars().filter(plain).take(Self::MAX - 5).collect();
        let stem = stem.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        Self(format!("{}-{number:04x}", if stem.is_empty() { "vm" } else { stem }))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let sound = text.len() <= Self::MAX
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(inner);
        if sound { Ok(Self(text.to_owned())) } else { Err(NameError) }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for text in ["web", "7", "debian-7f3a", "a.b_C-9", &"x".repeat(Name::MAX)] {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
        }
        let long = "x".repeat(Name::MAX + 1);
        for text in ["", ".", "..", ".lock", "-d", "a/b", "a:b", "a b", "a\n", "ä", "web\0", &long] {
            assert_eq!(text.parse::<Name>(), Err(NameError), "{text:?}");
        }
        assert!(serde_json::from_str::<Name>("\"../x\"").is_err());
    }

    #[test]
    fn generated_names_are_names() {
        for stem in ["debian", "", "-", "/boot/vmlinuz", "..", &"long".repeat(30), "ärger"] {
            let name = Name::generate(stem);
            assert_eq!(name.as_str().parse(), Ok(name.clone()), "{stem:?}");
        }
        let some: std::collections::HashSet<_> = (0..32).map(|_| Name::generate("x")).collect();
        assert!(some.len() > 16, "they differ");
    }
}
