//! A disk: `--disk PATH[,format=raw|qcow2|vmdk][,readonly][,snapshot][,serial=S][,queues=N]`.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{WordError, Words};

/// How long a serial number may be: virtio's GET_ID answers with 20 bytes.
const SERIAL_MAX: usize = 20;
/// More queues than any guest here has processors for.
const QUEUES_MAX: u16 = 16;

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Fields")]
pub struct DiskSpec {
    /// The image or host block device.
    pub path: PathBuf,
    /// Its format; told from its first bytes when it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// The guest may not write.
    pub readonly: bool,
    /// The guest may write, and everything is forgotten at the end.
    pub snapshot: bool,
    /// The serial number the guest reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Request queues.
    pub queues: u16,
}

/// How an image's bytes are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// As they are: plain images, ISO images, block devices.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
    /// VMware's, which is only read.
    Vmdk,
}

impl FromStr for DiskFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "vmdk" => Ok(Self::Vmdk),
            _ => Err("expected raw, qcow2 or vmdk"),
        }
    }
}

/// Why a disk cannot be had as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiskSpecError {
    /// The options make no sense by themselves.
    #[error(transparent)]
    Words(#[from] WordError),
    /// Options, but for what?
    #[error("expected the path of an image first, as in disk.qcow2,readonly")]
    NoPath,
    /// A serial number the guest could not be told.
    #[error("a disk's serial number has 1 to {SERIAL_MAX} printable ASCII characters")]
    Serial,
    /// None, or far too many.
    #[error("a disk has 1 to {QUEUES_MAX} queues")]
    Queues,
    /// Contradicting wishes.
    #[error("readonly and snapshot exclude each other: a snapshot is there to be written")]
    ReadonlySnapshot,
}

/// A disk before it is checked, as a definition has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    path: PathBuf,
    format: Option<DiskFormat>,
    #[serde(default)]
    readonly: bool,
    #[serde(default)]
    snapshot: bool,
    serial: Option<String>,
    queues: Option<u16>,
}

impl DiskSpec {
    /// A disk of which only the path is given.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: None, readonly: false, snapshot: false, serial: None, queues: 1 }
    }
}

impl TryFrom<Fields> for DiskSpec {
    type Error = DiskSpecError;

    fn try_from(fields: Fields) -> Result<Self, DiskSpecError> {
        let Fields { path, format, readonly, snapshot, serial, queues } = fields;
        let queues = queues.unwrap_or(1);
        let is_serial = |text: &str| {
            (1..=SERIAL_MAX).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        };
        if path.as_os_str().is_empty() {
            Err(DiskSpecError::NoPath)
        } else if !serial.as_deref().is_none_or(is_serial) {
            Err(DiskSpecError::Serial)
        } else if !(1..=QUEUES_MAX).contains(&queues) {
            Err(DiskSpecError::Queues)
        } else if readonly && snapshot {
            Err(DiskSpecError::ReadonlySnapshot)
        } else {
            Ok(Self { path, format, readonly, snapshot, serial, queues })
        }
    }
}

impl FromStr for DiskSpec {
    type Err = DiskSpecError;

    fn from_str(text: &str) -> Result<Self, DiskSpecError> {
        let mut words = Words::new(text)?;
        let fields = Fields {
            path: words.head.into(),
            format: words.value("format")?,
            readonly: words.flag("readonly")?,
            snapshot: words.flag("snapshot")?,
            serial: words.value("serial")?,
            queues: words.value("queues")?,
        };
        words.finish()?;
        fields.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DiskSpec, DiskSpecError> {
        text.parse()
    }

    #[test]
    fn options_follow_the_path() {
        assert_eq!(parse("a.img"), Ok(DiskSpec::new("a.img")));
        let full = DiskSpec {
            path: "a b.img".into(),
            format: Some(DiskFormat::Qcow2),
            readonly: true,
            snapshot: false,
            serial: Some("S 1".into()),
            queues: 4,
        };
        assert_eq!(parse("a b.img,format=qcow2,readonly,serial=S 1,queues=4"), Ok(full));
        assert!(parse("a.vmdk,snapshot").unwrap().snapshot);
    }

    #[test]
    fn nonsense_is_told() {
        for (text, error) in [
            ("", DiskSpecError::NoPath),
            (",readonly", DiskSpecError::NoPath),
            ("a,serial=123456789012345678901", DiskSpecError::Serial),
            ("a,serial=\u{fc}", DiskSpecError::Serial),
            ("a,queues=0", DiskSpecError::Queues),
            ("a,queues=17", DiskSpecError::Queues),
            ("a,readonly,snapshot", DiskSpecError::ReadonlySnapshot),
            ("a,readonly,readonly", DiskSpecError::Words(WordError::Twice("readonly".into()))),
            ("a,readonly=yes", DiskSpecError::Words(WordError::Value("readonly"))),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        let told = |text| parse(text).unwrap_err().to_string();
        assert_eq!(told("a,format=vdi"), "format=vdi: expected raw, qcow2 or vmdk");
        assert!(told("a,cache=none").starts_with("there is no option \"cache\""));
    }

    #[test]
    fn definitions_have_the_same_fields() {
        let spec: DiskSpec = serde_json::from_str(r#"{"path":"a.img","format":"raw","queues":2}"#).unwrap();
        assert_eq!(spec, parse("a.img,format=raw,queues=2").unwrap());
        let written = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<DiskSpec>(&written).unwrap(), spec);
        for (json, told) in [
            (r#"{"format":"raw"}"#, "missing field `path`"),
            (r#"{"path":"a","cache":"none"}"#, "unknown field `cache`"),
            (r#"{"path":"a","format":"vdi"}"#, "unknown variant `vdi`"),
            (r#"{"path":"a","queues":0}"#, "1 to 16 queues"),
        ] {
            let error = serde_json::from_str::<DiskSpec>(json).unwrap_err().to_string();
            assert!(error.contains(told), "{json}: {error}");
        }
    }
}
