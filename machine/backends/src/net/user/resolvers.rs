//! What the host knows of name servers: resolv.conf(5), read once.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const FILE: &str = "/etc/resolv.conf";
/// The C library asks no more either.
const SERVERS: usize = 3;
const NAMES: usize = 6;
const PORT: u16 = 53;

/// Name servers, of which there is always one, and domains to look in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolvers {
    pub servers: Vec<SocketAddr>,
    pub search: Vec<String>,
}

impl Resolvers {
    /// The host's.
    pub(super) fn of_host() -> Self {
        // Without the file the C library asks this host, and so do we.
        Self::parse(&fs::read_to_string(FILE).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut servers = Vec::new();
        let mut search = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                // A link-local server is named with its interface, which a guest's packet has no place for.
                Some("nameserver") => {
                    servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                // The last one counts.
                Some("search" | "domain") => {
                    search = words.map(|word| word.trim_end_matches('.').to_owned()).collect();
                    search.retain(|name| !name.is_empty());
                }
                _ => {}
            }
        }
        if servers.is_empty() {
            servers.push(Ipv4Addr::LOCALHOST.into());
        }
        servers.truncate(SERVERS);
        search.truncate(NAMES);
        Self { servers: servers.into_iter().map(|server| SocketAddr::new(server, PORT)).collect(), search }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_the_c_library_does() {
        let text = "# comment\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 # x\nnameserver fe80::1%eth0\n\
                    domain old.example\nsearch a.example. b.example .\noptions ndots:2\nnameserver nonsense\n";
        let found = Resolvers::parse(text);
        assert_eq!(found.servers, ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
        assert_eq!(found.search, ["a.example", "b.example"]);
        let many = Resolvers::parse(&"nameserver 192.0.2.1\n".repeat(9));
        assert_eq!(many.servers.len(), SERVERS);
        let none = Resolvers::parse("");
        assert_eq!(none.servers, ["127.0.0.1:53".parse().unwrap()]);
    }
}
