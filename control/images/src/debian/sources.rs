//! Where the guest's packages come from: the host's own sources of Debian 12, else Debian's.
//!
//! They become the guest's sources too, so that `apt-get update` in the guest asks the mirror that the host does.

use crate::apt::IndexTarget;
use std::fmt::Write as _;

/// The code name of Debian 12.
pub(crate) const SUITE: &str = "bookworm";

#[rustfmt::skip]
const DEFAULT: &[(&str, &str)] = &[
    ("http://deb.debian.org/debian",          "bookworm"),
    ("http://deb.debian.org/debian",          "bookworm-updates"),
    ("http://deb.debian.org/debian-security", "bookworm-security"),
];

/// As of sources.list(5), one line for each archive and suite.
pub(crate) fn lines(targets: &[IndexTarget]) -> Vec<String> {
    let mut archives: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for target in targets.iter().filter(|target| serves(target)) {
        let (uri, suite) = (target.uri.as_str(), target.suite.as_str());
        let components = match archives.iter_mut().find(|(u, s, _)| (*u, *s) == (uri, suite)) {
            Some((.., components)) => components,
            None => {
                archives.push((uri, suite, Vec::new()));
                &mut archives.last_mut().expect("it was just put there").2
            }
        };
        if !components.contains(&target.component.as_str()) {
            components.push(&target.component);
        }
    }
    let whole = archives.iter().any(|(_, suite, components)| *suite == SUITE && components.contains(&"main"));
    if !whole {
        archives = DEFAULT.iter().map(|(uri, suite)| (*uri, *suite, vec!["main"])).collect();
    }
    let line = |(uri, suite, components): &(&str, &str, Vec<&str>)| {
        let mut line = format!("deb [signed-by={}] {uri} {suite}", super::KEYRING);
        for component in components {
            // Writing to a string cannot fail.
            _ = write!(line, " {component}");
        }
        line
    };
    archives.iter().map(line).collect()
}

/// A guest reaches no files or discs of the host.
fn serves(target: &IndexTarget) -> bool {
    let reachable = target.uri.starts_with("http://") || target.uri.starts_with("https://");
    let suite = target.suite.strip_prefix(SUITE);
    reachable && suite.is_some_and(|rest| matches!(rest, "" | "-updates" | "-security"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str, suite: &str, component: &str) -> IndexTarget {
        IndexTarget { uri: uri.to_owned(), suite: suite.to_owned(), component: component.to_owned() }
    }

    #[test]
    fn the_hosts_mirrors_are_taken() {
        let targets = [
            target("http://mirror/debian/", "bookworm", "main"),
            target("http://mirror/debian/", "bookworm", "contrib"),
            target("http://mirror/debian/", "bookworm", "main"),
            target("http://mirror/security/", "bookworm-security", "main"),
            target("https://elsewhere/", "nodistro", "main"),
            target("http://mirror/debian/", "bookworm-backports", "main"),
        ];
        let key = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        assert_eq!(
            lines(&targets),
            [
                format!("{key} http://mirror/debian/ bookworm main contrib"),
                format!("{key} http://mirror/security/ bookworm-security main"),
            ]
        );
    }

    #[test]
    fn another_distributions_host_asks_debian() {
        for targets in [
            vec![],
            vec![target("http://archive.ubuntu.com/ubuntu/", "noble", "main")],
            vec![target("file:/mnt/debian/", "bookworm", "main")],
            vec![target("http://mirror/debian/", "bookworm", "contrib")],
            vec![target("http://mirror/debian/", "bookworm-updates", "main")],
        ] {
            let lines = lines(&targets);
            assert_eq!(lines.len(), DEFAULT.len(), "{targets:?}");
            assert!(lines[0].ends_with("http://deb.debian.org/debian bookworm main"), "{lines:?}");
        }
    }
}
