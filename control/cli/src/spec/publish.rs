//! `-p`/`--publish`: a port of the host that leads into the guest.
//!
//! Written as `[ADDR:]HOSTPORT:GUESTPORT[/udp]`; an IPv6 address stands in brackets. Without an address the port is
//! reached from this host only: what a guest serves is nobody else's business until its owner says so. As a table
//! of a definition: `{ host = 8080, guest = 80, address = "0.0.0.0", protocol = "udp" }`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishSpec {
    /// Where the host listens.
    #[serde(default = "loopback")]
    pub address: IpAddr,
    /// The host's port.
    pub host: NonZeroU16,
    /// The guest's port.
    pub guest: NonZeroU16,
    /// What is carried.
    #[serde(default)]
    pub protocol: Protocol,
}

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

/// What a published port carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// Why a published port cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// Not of the form.
    #[error("expected [ADDR:]HOSTPORT:GUESTPORT[/udp], such as 8080:80, 0.0.0.0:2222:22 or 5353:53/udp")]
    Syntax,
    /// No port.
    #[error("{0:?} is no port: a port is a number from 1 to 65535")]
    Port(String),
    /// No address.
    #[error("{0:?} is no address of the host: write one such as 127.0.0.1, 0.0.0.0 or [::1]")]
    Address(String),
    /// Neither TCP nor UDP.
    #[error("{0:?} is no protocol: write /tcp or /udp, or nothing for TCP")]
    Protocol(String),
}

impl PublishSpec {
    /// Where the host listens.
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.host.get())
    }
}

impl FromStr for PublishSpec {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(PublishError::Protocol(other.to_owned())),
        };
        let (rest, guest) = ports.rsplit_once(':').ok_or(PublishError::Syntax)?;
        let (address, host) = match rest.rsplit_once(':') {
            Some((address, host)) => (parse_address(address)?, host),
            None => (loopback(), rest),
        };
        Ok(Self { address, host: parse_port(host)?, guest: parse_port(guest)?, protocol })
    }
}

fn parse_port(text: &str) -> Result<NonZeroU16, PublishError> {
    // u16 would take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| PublishError::Port(text.to_owned()))
}

fn parse_address(text: &str) -> Result<IpAddr, PublishError> {
    let wrong = || PublishError::Address(text.to_owned());
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| wrong()),
        None => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| wrong()),
    }
}

impl fmt::Display for PublishSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.listen(), self.guest)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_printed_in_full() {
        for (text, full) in [
            ("8080:80", "127.0.0.1:8080:80"),
            ("8080:80/tcp", "127.0.0.1:8080:80"),
            ("0.0.0.0:2222:22", "0.0.0.0:2222:22"),
            ("5353:53/udp", "127.0.0.1:5353:53/udp"),
            ("[::1]:1:65535/udp", "[::1]:1:65535/udp"),
        ] {
            let spec: PublishSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), full, "{text}");
            assert_eq!(full.parse(), Ok(spec), "{full}");
        }
    }

    #[test]
    fn nonsense_says_which_part_is_wrong() {
        let port = |text: &str| PublishError::Port(text.into());
        let address = |text: &str| PublishError::Address(text.into());
        for (text, error) in [
            ("", PublishError::Syntax),
            ("80", PublishError::Syntax),
            (":", port("")),
            ("8080:", port("")),
            ("0:80", port("0")),
            ("80:65536", port("65536")),
            ("+80:80", port("+80")),
            ("80:http", port("http")),
            ("localhost:80:80", address("localhost")),
            (":80:80", address("")),
            ("::1:80:80", address("::1")),
            ("[127.0.0.1]:80:80", address("[127.0.0.1]")),
            ("80:80/sctp", PublishError::Protocol("sctp".into())),
            ("80:80/", PublishError::Protocol(String::new())),
        ] {
            assert_eq!(text.parse::<PublishSpec>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_table_has_the_same_parts() {
        let table = |text| serde_json::from_str::<PublishSpec>(text);
        let spec: PublishSpec = "8080:80".parse().unwrap();
        assert_eq!(table(r#"{"host": 8080, "guest": 80}"#).unwrap(), spec);
        let spec: PublishSpec = "[::]:5353:53/udp".parse().unwrap();
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(text, r#"{"address":"::","host":5353,"guest":53,"protocol":"udp"}"#);
        assert_eq!(table(&text).unwrap(), spec);
        for text in
            [r#"{"host": 0, "guest": 80}"#, r#"{"host": 8080}"#, r#"{"host": 1, "guest": 1, "port": 1}"#]
        {
            assert!(table(text).is_err(), "{text}");
        }
    }
}
