//! `-v`: a folder of the host in the guest, `HOST:GUEST[:ro]`.
//!
//! In a definition it is the same string, or a table (`{ host = "src", guest = "/src", readonly = true }`). A host
//! path with a colon in it is no trouble, since a guest path has none.
//!
//! The guest finds the folder by its tag and learns from the kernel's command line where it goes:
//! `popf.mount=TAG:GUEST[:ro]`, once for each folder. popf's images mount what they find there; by hand it is
//! `mount -t virtiofs TAG GUEST`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A folder of the host in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// The folder, relative to where popf was started.
    pub host: PathBuf,
    /// Where the guest mounts it.
    pub guest: GuestPath,
    /// Nothing in it can be changed from the guest.
    #[serde(default)]
    pub readonly: bool,
}

/// An absolute path that the kernel's command line can carry, and a mount unit name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestPath(String);

/// Why a volume cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VolumeError {
    /// Not two paths.
    #[error("expected HOST:GUEST or HOST:GUEST:ro, such as ./src:/src:ro")]
    Syntax,
    /// Not absolute, or with components that mean other ones.
    #[error("{0:?} will not do in the guest: give an absolute path without `.` and `..`, other than /")]
    GuestPath(String),
    /// With characters that mean something on the way to a mount in the guest.
    #[error("{0:?} will not do in the guest: leave out blanks, quotes, `:`, `%` and all that is not ASCII")]
    Characters(String),
}

impl VolumeSpec {
    /// The tag of a machine's volume `index`, by which its guest finds it.
    pub fn tag(index: usize) -> String {
        format!("share{index}")
    }

    /// What the guest's kernel is told of volume `index`.
    pub fn parameter(&self, index: usize) -> String {
        let mode = if self.readonly { ":ro" } else { "" };
        format!("popf.mount={}:{}{mode}", Self::tag(index), self.guest)
    }
}

impl FromStr for VolumeSpec {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Self, VolumeError> {
        let (paths, readonly) = match text.strip_suffix(":ro") {
            Some(paths) => (paths, true),
            None => (text, false),
        };
        let (host, guest) = paths.rsplit_once(':').ok_or(VolumeError::Syntax)?;
        if host.is_empty() || guest.is_empty() {
            return Err(VolumeError::Syntax);
        }
        Ok(Self { host: host.into(), guest: GuestPath::try_from(guest.to_owned())?, readonly })
    }
}

impl TryFrom<String> for GuestPath {
    type Error = VolumeError;

    fn try_from(path: String) -> Result<Self, VolumeError> {
        let Some(inner) = path.strip_prefix('/').map(|path| path.trim_end_matches('/')) else {
            return Err(VolumeError::GuestPath(path));
        };
        if inner.split('/').any(|component| matches!(component, "" | "." | "..")) {
            return Err(VolumeError::GuestPath(path));
        }
        let unfit = |c: char| !c.is_ascii_graphic() || matches!(c, '"' | '\'' | ':' | '%' | '\\');
        if path.contains(unfit) {
            return Err(VolumeError::Characters(path));
        }
        Ok(Self(format!("/{inner}")))
    }
}

impl From<GuestPath> for String {
    fn from(path: GuestPath) -> Self {
        path.0
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(host: &str, guest: &str, readonly: bool) -> VolumeSpec {
        VolumeSpec { host: host.into(), guest: GuestPath(guest.into()), readonly }
    }

    #[test]
    fn words_are_read() {
        for (text, expected) in [
            (".:/work", volume(".", "/work", false)),
            ("/srv/data:/data:ro", volume("/srv/data", "/data", true)),
            ("a:b:/mnt/a/b/", volume("a:b", "/mnt/a/b", false)),
            ("my files:/files", volume("my files", "/files", false)),
            ("é:/e", volume("é", "/e", false)),
            (":::/x:ro", volume("::", "/x", true)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "/data", "/data:", ":/data", ":ro", "a::ro"] {
            assert_eq!(text.parse::<VolumeSpec>(), Err(VolumeError::Syntax), "{text}");
        }
        for guest in ["data", "/", "//", "/a/../b", "/.", "/a//b", "rw", "a:ro"] {
            let error = format!("h:{guest}").parse::<VolumeSpec>().unwrap_err();
            assert!(matches!(error, VolumeError::GuestPath(_)), "{guest}: {error}");
        }
        for guest in ["/a b", "/a\tb", "/\"", "/a'", "/a\\040b", "/\u{7f}", "/é", "/%u"] {
            let error = format!("h:{guest}").parse::<VolumeSpec>().unwrap_err();
            assert!(matches!(error, VolumeError::Characters(_)), "{guest}: {error}");
        }
    }

    #[test]
    fn the_guest_is_told_by_a_parameter() {
        assert_eq!(volume("h", "/a/b", false).parameter(0), "popf.mount=share0:/a/b");
        assert_eq!(volume("h", "/c", true).parameter(12), "popf.mount=share12:/c:ro");
    }

    #[test]
    fn tables_are_held_to_the_same_rules() {
        let json = |text: &str| serde_json::from_str::<VolumeSpec>(text).map_err(|error| error.to_string());
        assert_eq!(json(r#"{"host":"a:ro","guest":"/x/"}"#), Ok(volume("a:ro", "/x", false)));
        let table = r#"{"host":"src","guest":"/src","readonly":true}"#;
        assert_eq!(json(table), Ok(volume("src", "/src", true)));
        assert_eq!(serde_json::to_string(&volume("src", "/src", true)).unwrap(), table);
        for (text, why) in [
            (r#"{"host":"a","guest":"x"}"#, "absolute path"),
            (r#"{"host":"a","guest":"/x y"}"#, "leave out blanks"),
            (r#"{"host":"a","guest":"/x","ro":true}"#, "unknown field `ro`"),
            (r#"{"guest":"/x"}"#, "missing field `host`"),
        ] {
            let error = json(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
