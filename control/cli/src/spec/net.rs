//! `--net`: a network device.
//!
//! Written as `user`, `tap:IFNAME`, `bridge:BR`, `hostonly:NAME`, `switch:NAME` or `none`, with the options
//! `mac=52:01:02:03:04:05` and `queues=N`. As a table of a definition: `{ to = "switch:lab", queues = 2 }`.

use std::fmt;
use std::str::FromStr;

use backends::net::Mac;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::{WordError, Words};

/// Pairs of queues a device may have. More than there are processors would serve nobody.
const MAX_QUEUES: u16 = 8;
/// An interface's name has at most so many bytes (IFNAMSIZ less the zero).
const INTERFACE_LENGTH: usize = 15;
/// `popf-` stands before a host-only network's name in its bridge's.
const HOST_ONLY_LENGTH: usize = INTERFACE_LENGTH - "popf-".len();
/// A switch's name is a folder's, and paths of sockets have at most 107 bytes.
const SWITCH_LENGTH: usize = 32;

/// One network device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// Where it leads.
    pub to: Network,
    /// Its address; [`stable_mac`] gives one if the user does not.
    #[serde(default, with = "mac_text", skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Pairs of a receiving and a sending queue.
    #[serde(default)]
    pub queues: Queues,
}

/// What is at the other end of the cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// The host's network by address translation; no privileges.
    User,
    /// A tap interface of the host.
    Tap(String),
    /// A tap interface joined to this bridge of the host.
    Bridge(String),
    /// A network of its own with the host on it.
    HostOnly(String),
    /// A network of its own with this user's VMs on it; no privileges.
    Switch(String),
    /// No device at all.
    None,
}

/// A number of queue pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Queues(u16);

/// Why a network device cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NetSpecError {
    /// No such kind.
    #[error("{0:?} is no network: expected user, tap:IFNAME, bridge:BR, hostonly:NAME, switch:NAME or none")]
    Kind(String),
    /// No interface can be called that.
    #[error(
        "{0:?} cannot be an interface's name: expected 1 to {INTERFACE_LENGTH} characters without blanks, '/', ':' \
         and '%'"
    )]
    Interface(String),
    /// No network of popf's can be called that.
    #[error(
        "{name:?} cannot be a network's name: expected 1 to {limit} letters, digits, '-' and '_', no '-' in front"
    )]
    Name {
        /// What was given.
        name: String,
        /// Its longest.
        limit: usize,
    },
    /// Too many, or none.
    #[error("expected a number from 1 to {MAX_QUEUES}")]
    Queues,
    /// An option.
    #[error(transparent)]
    Word(#[from] WordError),
}

impl NetSpec {
    /// A device of which no more is said.
    pub fn new(to: Network) -> Self {
        Self { to, mac: None, queues: Queues::default() }
    }
}

impl FromStr for NetSpec {
    type Err = NetSpecError;

    fn from_str(text: &str) -> Result<Self, NetSpecError> {
        let mut words = Words::new(text)?;
        let to = words.head.parse()?;
        let (mac, queues) = (words.value("mac")?, words.value("queues")?.unwrap_or_default());
        words.finish()?;
        Ok(Self { to, mac, queues })
    }
}

impl FromStr for Network {
    type Err = NetSpecError;

    fn from_str(text: &str) -> Result<Self, NetSpecError> {
        match text.split_once(':') {
            None if text == "user" => Ok(Self::User),
            None if text == "none" => Ok(Self::None),
            Some(("tap", name)) => interface(name).map(Self::Tap),
            Some(("bridge", name)) => interface(name).map(Self::Bridge),
            Some(("hostonly", name)) => network_name(name, HOST_ONLY_LENGTH).map(Self::HostOnly),
            Some(("switch", name)) => network_name(name, SWITCH_LENGTH).map(Self::Switch),
            _ => Err(NetSpecError::Kind(text.to_owned())),
        }
    }
}

/// What the kernel takes, less `%`, which asks it to make up a number.
fn interface(name: &str) -> Result<String, NetSpecError> {
    let bad = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '%' | '\0');
    if name.is_empty() || name.len() > INTERFACE_LENGTH || matches!(name, "." | "..") || name.contains(bad) {
        return Err(NetSpecError::Interface(name.to_owned()));
    }
    Ok(name.to_owned())
}

fn network_name(name: &str, limit: usize) -> Result<String, NetSpecError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > limit || name.starts_with('-') || !name.chars().all(good) {
        return Err(NetSpecError::Name { name: name.to_owned(), limit });
    }
    Ok(name.to_owned())
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => f.write_str("user"),
            Self::Tap(name) => write!(f, "tap:{name}"),
            Self::Bridge(name) => write!(f, "bridge:{name}"),
            Self::HostOnly(name) => write!(f, "hostonly:{name}"),
            Self::Switch(name) => write!(f, "switch:{name}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Queues {
    /// As many.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<u16> for Queues {
    type Error = NetSpecError;

    fn try_from(count: u16) -> Result<Self, NetSpecError> {
        if (1..=MAX_QUEUES).contains(&count) { Ok(Self(count)) } else { Err(NetSpecError::Queues) }
    }
}

impl FromStr for Queues {
    type Err = NetSpecError;

    fn from_str(text: &str) -> Result<Self, NetSpecError> {
        text.parse::<u16>().map_err(|_| NetSpecError::Queues)?.try_into()
    }
}

impl<'de> Deserialize<'de> for Queues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u16::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
    }
}

/// An address as text.
mod mac_text {
    use super::*;

    pub fn serialize<S: Serializer>(mac: &Option<Mac>, serializer: S) -> Result<S::Ok, S::Error> {
        mac.map(|mac| mac.to_string()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mac>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse()).transpose().map_err(de::Error::custom)
    }
}

/// The address of a VM's network device `index` where the user gives none: the same at every run, so that leases and
/// names in the guest stay, and of those that anybody may use (locally administered).
///
/// By FNV-1a, which is fixed for all time, as the standard library's hash is not. Its 40 bits keep even thousands of
/// VMs on one network apart.
pub fn stable_mac(vm: &str, index: u32) -> Mac {
    let bytes = vm.bytes().chain([0]).chain(index.to_le_bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let [.., a, b, c, d, e] = (hash ^ hash >> 40).to_be_bytes();
    Mac([0x52, a, b, c, d, e])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<NetSpec, NetSpecError> {
        text.parse()
    }

    #[test]
    fn every_kind_is_read_and_written() {
        for (text, to) in [
            ("user", Network::User),
            ("tap:tap0", Network::Tap("tap0".into())),
            ("bridge:br-lan", Network::Bridge("br-lan".into())),
            ("hostonly:lab", Network::HostOnly("lab".into())),
            ("switch:lab_2", Network::Switch("lab_2".into())),
            ("none", Network::None),
        ] {
            assert_eq!(read(text), Ok(NetSpec::new(to.clone())), "{text}");
            assert_eq!(to.to_string(), text);
        }
        let mac = Mac([0x52, 1, 2, 3, 4, 0xff]);
        let full = NetSpec { to: Network::User, mac: Some(mac), queues: Queues(4) };
        assert_eq!(read("user,queues=4,mac=52:01:02:03:04:FF"), Ok(full));
    }

    #[test]
    fn nonsense_is_refused_with_what_would_do() {
        for (text, why) in [
            ("", "expected user, tap:IFNAME"),
            ("usr", "expected user, tap:IFNAME"),
            ("tap", "expected user, tap:IFNAME"),
            ("user:x", "expected user, tap:IFNAME"),
            ("tap:", "an interface's name"),
            ("tap:sixteen-letters-", "1 to 15 characters"),
            ("tap:a/b", "an interface's name"),
            ("bridge:..", "an interface's name"),
            ("hostonly:elevenchars", "1 to 10 letters"),
            ("switch:../x", "1 to 32 letters"),
            ("switch:-x", "no '-' in front"),
            ("user,mac=52:1:2:3:4:5", "mac=52:1:2:3:4:5: "),
            ("user,queues=0", "queues=0: expected a number from 1 to 8"),
            ("user,queues=9", "queues=9: expected a number from 1 to 8"),
            ("user,queues=x", "queues=x: expected a number from 1 to 8"),
            ("user,queues=2,queues=2", "\"queues\" is given twice"),
            ("user,vlan=3", "there is no option \"vlan\"; there is mac, queues"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn tables_say_the_same() {
        let json = |text: &str| serde_json::from_str::<NetSpec>(text).map_err(|error| error.to_string());
        let spec = read("switch:lab,mac=52:00:00:00:00:01,queues=2").unwrap();
        let table = r#"{"to":"switch:lab","mac":"52:00:00:00:00:01","queues":2}"#;
        assert_eq!(json(table), Ok(spec.clone()));
        assert_eq!(serde_json::to_string(&spec).unwrap(), table);
        assert_eq!(json(r#"{"to":"user"}"#), Ok(NetSpec::new(Network::User)));
        for (text, why) in [
            (r#"{"to":"user","speed":1}"#, "unknown field `speed`"),
            (r#"{"mac":"52:00:00:00:00:01"}"#, "missing field `to`"),
            (r#"{"to":"user","queues":99}"#, "from 1 to 8"),
            (r#"{"to":"user","mac":"x"}"#, "no address of a network card"),
            (r#"{"to":"usr"}"#, "expected user, tap:IFNAME"),
        ] {
            let error = json(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_are_stable_and_differ() {
        // A value that must never change: guests keep what they know by it.
        assert_eq!(stable_mac("web", 0).to_string(), "52:a3:7e:3c:4e:6c");
        let mut all = Vec::new();
        for vm in ["web", "db", "a", "b", "a1", ""] {
            for index in 0..16 {
                let mac = stable_mac(vm, index);
                assert_eq!(mac.0[0] & 3, 2, "local, of one card");
                all.push(mac);
            }
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
