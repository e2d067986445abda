//! What users say of one device, on the command line and in a definition.
//!
//! On the command line a device is a word with options, `PATH,format=raw,readonly`, which [`Words`] takes apart;
//! in a TOML definition it is that word, or a table of the same keys:
//!
//! ```toml
//! disk = ["scratch.img,format=raw", { path = "data,1.qcow2", readonly = true }]
//! ```
//!
//! So each device's type implements `FromStr` for the word, and `Serialize` and `Deserialize` with
//! `deny_unknown_fields` for the table; a field of it in a definition is read by [`list`]. A path with a comma can
//! be written as a table only.

pub mod disk;
pub mod gdb;
pub mod net;
pub mod port;
pub mod publish;
pub mod volume;

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer};
use thiserror::Error;

/// Why a word cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WordError {
    /// An option that this device does not have.
    #[error("there is no option {given:?}; there is {}", known.join(", "))]
    Unknown {
        /// What was given.
        given: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// An option was given twice.
    #[error("{0:?} is given twice")]
    Twice(String),
    /// An option without its value.
    #[error("{0:?} wants a value: {0}=...")]
    NoValue(&'static str),
    /// A value for an option that has none.
    #[error("{0:?} takes no value")]
    Value(&'static str),
    /// A value that cannot be read.
    #[error("{key}={value}: {reason}")]
    Invalid {
        /// The option.
        key: &'static str,
        /// What was given for it.
        value: String,
        /// Why not.
        reason: String,
    },
}

/// A word taken apart at its commas: what it is about, then options. Every option that was given has to be asked
/// for before [`Words::finish`].
#[derive(Debug)]
pub struct Words<'a> {
    /// What comes before the first comma.
    pub head: &'a str,
    options: Vec<(&'a str, Option<&'a str>)>,
    known: Vec<&'static str>,
}

impl<'a> Words<'a> {
    /// Takes `head[,key[=value]]...` apart.
    pub fn new(text: &'a str) -> Result<Self, WordError> {
        let mut words = text.split(',');
        let head = words.next().unwrap_or_default();
        let mut options: Vec<(&str, Option<&str>)> = Vec::new();
        for word in words {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word, None),
            };
            if options.iter().any(|(other, _)| *other == key) {
                return Err(WordError::Twice(key.to_owned()));
            }
            options.push((key, value));
        }
        Ok(Self { head, options, known: Vec::new() })
    }

    fn take(&mut self, key: &'static str) -> Option<Option<&'a str>> {
        self.known.push(key);
        let index = self.options.iter().position(|(given, _)| *given == key)?;
        Some(self.options.remove(index).1)
    }

    /// Whether `key` is there, which takes no value.
    pub fn flag(&mut self, key: &'static str) -> Result<bool, WordError> {
        match self.take(key) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(_)) => Err(WordError::Value(key)),
        }
    }

    /// The value of `key=value`, if it is there.
    pub fn value<T>(&mut self, key: &'static str) -> Result<Option<T>, WordError>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let Some(value) = self.take(key) else { return Ok(None) };
        let value = value.filter(|value| !value.is_empty()).ok_or(WordError::NoValue(key))?;
        let invalid =
            |reason: T::Err| WordError::Invalid { key, value: value.to_owned(), reason: reason.to_string() };
        value.parse().map(Some).map_err(invalid)
    }

    /// Refuses what nobody has asked for.
    pub fn finish(self) -> Result<(), WordError> {
        match self.options.first() {
            None => Ok(()),
            Some((given, _)) => Err(WordError::Unknown { given: (*given).to_owned(), known: self.known }),
        }
    }
}

/// For `#[serde(deserialize_with)]`: a list of devices, each a word or a table.
pub fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display> + Deserialize<'de>,
{
    let devices = Vec::<Device<T>>::deserialize(deserializer)?;
    Ok(devices.into_iter().map(|device| device.0).collect())
}

/// A device as a definition has it.
struct Device<T>(T);

impl<'de, T> Deserialize<'de> for Device<T>
where
    T: FromStr<Err: fmt::Display> + Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T> de::Visitor<'de> for Visitor<T>
        where
            T: FromStr<Err: fmt::Display> + Deserialize<'de>,
        {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string as on the command line, or a table")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(Visitor(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Cake {
        name: String,
        #[serde(default)]
        layers: Option<u8>,
        #[serde(default)]
        iced: bool,
    }

    impl FromStr for Cake {
        type Err = WordError;

        fn from_str(text: &str) -> Result<Self, WordError> {
            let mut words = Words::new(text)?;
            let cake = Self {
                name: words.head.to_owned(),
                layers: words.value("layers")?,
                iced: words.flag("iced")?,
            };
            words.finish()?;
            Ok(cake)
        }
    }

    fn cake(name: &str, layers: Option<u8>, iced: bool) -> Cake {
        Cake { name: name.to_owned(), layers, iced }
    }

    #[test]
    fn words_are_taken_apart() {
        assert_eq!("plain".parse(), Ok(cake("plain", None, false)));
        assert_eq!("plum,iced,layers=3".parse(), Ok(cake("plum", Some(3), true)));
        for (text, reason) in [
            ("plum,icing", r#"there is no option "icing"; there is layers, iced"#),
            ("plum,", r#"there is no option ""; there is layers, iced"#),
            ("plum,iced,iced", r#""iced" is given twice"#),
            ("plum,layers", r#""layers" wants a value: layers=..."#),
            ("plum,layers=", r#""layers" wants a value: layers=..."#),
            ("plum,iced=yes", r#""iced" takes no value"#),
            ("plum,layers=300", "layers=300: number too large to fit in target type"),
        ] {
            assert_eq!(text.parse::<Cake>().unwrap_err().to_string(), reason, "{text}");
        }
    }

    #[test]
    fn a_definition_has_words_and_tables() {
        #[derive(serde::Deserialize)]
        struct Tray {
            #[serde(deserialize_with = "list")]
            cakes: Vec<Cake>,
        }
        let read = |text: &str| serde_json::from_str::<Tray>(text).map(|tray| tray.cakes);
        let both = r#"{"cakes": ["plum,iced", {"name": "a,b", "layers": 2}]}"#;
        assert_eq!(read(both).unwrap(), [cake("plum", None, true), cake("a,b", Some(2), false)]);
        for (text, reason) in [
            (r#"{"cakes": ["plum,icing"]}"#, "there is no option \"icing\""),
            (r#"{"cakes": [{"name": "plum", "icing": 1}]}"#, "unknown field `icing`"),
            (r#"{"cakes": [7]}"#, "a string as on the command line, or a table"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
