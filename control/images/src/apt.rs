//! Debian packages through the host's own apt: its sources, keys, proxies and preferences, but a state directory
//! of ours, so that neither root nor fresh package lists are needed and the host's are never touched.
//!
//! The options are those of apt.conf(5). What the host hooks onto an update (cleaning its cache, telling its
//! software centre) is left out, as are the lists that only other programs read. The host's dpkg need not know the
//! guest's architecture. Not modelled: sources, and guests of several architectures.

use crate::cancel::Cancel;
use crate::error::{Error, IoContext, Result};
use crate::progress::{Progress, Total};
use crate::running::{Errors, Running};
use crate::tools::Tools;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Read after the host's configuration; only there can a setting be cleared.
const CONFIGURATION: &str = r#"#clear APT::Update;
#clear Acquire::IndexTargets;
Acquire::IndexTargets::deb::Packages {
    MetaKey "$(COMPONENT)/binary-$(ARCHITECTURE)/Packages";
    flatMetaKey "Packages";
    ShortDescription "Packages";
    Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Packages";
    flatDescription "$(RELEASE) Packages";
    Optional "0";
};
"#;

/// The fields of a package's description, by name.
pub(crate) type Stanza = BTreeMap<String, String>;

/// What is needed to know of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) depends: String,
    /// In bytes; only for display.
    pub(crate) size: u64,
}

/// A list of packages that the host's sources name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexTarget {
    pub(crate) uri: String,
    pub(crate) suite: String,
    pub(crate) component: String,
}

/// The guest's architecture, whatever the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    Amd64,
    I386,
}

impl Architecture {
    /// As Debian calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::I386 => "i386",
        }
    }
}

/// apt with a private state directory.
#[derive(Debug)]
pub(crate) struct Apt {
    tools: Tools,
    cancel: Cancel,
    directory: PathBuf,
    architecture: Architecture,
    /// What the update said, for when a package is missing.
    complaints: String,
}

impl Apt {
    /// Sets an empty state up in `directory`.
    pub(crate) fn new(
        tools: &Tools,
        cancel: &Cancel,
        directory: &Path,
        architecture: Architecture,
    ) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            let path = directory.join(sub);
            fs::create_dir_all(&path).at("create", &path)?;
        }
        for (name, content) in [("conf", CONFIGURATION), ("status", "")] {
            let path = directory.join(name);
            fs::write(&path, content).at("write", &path)?;
        }
        Ok(Self {
            tools: tools.clone(),
            cancel: cancel.clone(),
            directory: directory.to_owned(),
            architecture,
            complaints: String::new(),
        })
    }

    /// Fetches the package lists. A source that fails is no error as long as the others have what is needed.
    pub(crate) fn update(&mut self, progress: &mut dyn Progress) -> Result<()> {
        progress.begin("updating package lists", None);
        let mut command = self.command(&self.tools.apt_get);
        command.args(["-q", "update"]);
        let (_, complaints) = self.run(command, &mut |_| {})?;
        self.complaints = failures(&complaints);
        progress.end();
        Ok(())
    }

    /// The version of a package that would be installed.
    pub(crate) fn describe(&self, package: &str) -> Result<Description> {
        let mut command = self.command(&self.tools.apt_cache);
        command.args(["-q", "--no-all-versions", "show", package]);
        let mut answer = String::new();
        let (success, _) = self.run(command, &mut |line| {
            answer.push_str(line);
            answer.push('\n');
        })?;
        let stanza = stanza(&answer);
        if !success || stanza.is_empty() {
            let (package, message) = (package.to_owned(), self.complaints.clone());
            return Err(if message.is_empty() {
                Error::NoPackage { package }
            } else {
                Error::NoLists { package, message }
            });
        }
        describe(package, stanza)
    }

    /// Fetches a package's file, which apt checks against the signed lists, into `directory`.
    pub(crate) fn download(
        &self,
        package: &Description,
        directory: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        fs::create_dir_all(directory).at("create", directory)?;
        progress.begin(&format!("downloading {}", package.name), Some(Total::Bytes(package.size)));
        let mut command = self.command(&self.tools.apt_get);
        // Status lines among the messages, as a further file descriptor cannot be given to a child.
        command.args(["-q", "-o", "APT::Status-Fd=1", "download"]);
        command.arg(format!("{}={}", package.name, package.version)).current_dir(directory);
        let mut child = self.start(command)?;
        child.lines(&mut |line| {
            if let Some(share) = downloaded_share(line) {
                progress.reached((share * package.size as f64) as u64);
            }
        })?;
        child.succeed()?;
        progress.end();
        Ok(())
    }

    /// The lists that an update would fetch.
    pub(crate) fn index_targets(&self) -> Result<Vec<IndexTarget>> {
        let mut command = self.command(&self.tools.apt_get);
        command.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"]);
        let mut targets = Vec::new();
        let mut child = self.start(command)?;
        child.lines(&mut |line| targets.extend(index_target(line)))?;
        child.succeed()?;
        Ok(targets)
    }

    /// The host's settings for proxies, each as apt.conf(5) has it.
    pub(crate) fn proxies(&self) -> Result<Vec<String>> {
        let mut command = self.command(&self.tools.apt_config);
        command.arg("dump");
        let mut proxies = Vec::new();
        let mut child = self.start(command)?;
        child.lines(&mut |line| {
            let line = line.trim_end();
            let lower = line.to_ascii_lowercase();
            if ["http", "https"].iter().any(|method| lower.starts_with(&format!("acquire::{method}::proxy")))
            {
                proxies.push(line.to_owned());
            }
        })?;
        child.succeed()?;
        Ok(proxies)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, path: PathBuf| {
            let mut text = OsString::from(name);
            text.push("=");
            text.push(path);
            text
        };
        command.arg("-c").arg(self.directory.join("conf"));
        for (name, path) in [
            ("Dir::State", self.directory.clone()),
            ("Dir::State::Lists", self.directory.join("lists")),
            // Nothing is installed, so nothing of the host's influences which version is taken.
            ("Dir::State::status", self.directory.join("status")),
            ("Dir::Cache", self.directory.join("cache")),
        ] {
            command.arg("-o").arg(option(name, path));
        }
        for setting in [
            // As root, apt would change to a user who cannot enter a private directory.
            "APT::Sandbox::User=root".to_owned(),
            format!("APT::Architecture={}", self.architecture.name()),
            format!("APT::Architectures={}", self.architecture.name()),
        ] {
            command.arg("-o").arg(setting);
        }
        command.env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Whether it succeeded, and what it said on standard error.
    fn run(&self, command: Command, line: &mut dyn FnMut(&str)) -> Result<(bool, String)> {
        let mut child = self.start(command)?;
        child.lines(line)?;
        let (status, message) = child.finish()?;
        Ok((status.success(), message))
    }

    fn start(&self, command: Command) -> Result<Running> {
        Running::start(command, Errors::File(self.directory.join("errors")), &self.cancel)
    }
}

fn index_target(line: &str) -> Option<IndexTarget> {
    let mut words = line.split(' ').map(str::to_owned);
    let (uri, suite, component) = (words.next()?, words.next()?, words.next()?);
    words.next().is_none().then_some(IndexTarget { uri, suite, component })
}

/// The lines which say that a list is missing; there are warnings besides, of old keys for instance.
fn failures(complaints: &str) -> String {
    let failed = |line: &&str| line.starts_with("E:") || line.contains("Failed to fetch");
    complaints.lines().filter(failed).collect::<Vec<_>>().join("\n")
}

/// The first paragraph of a control file (deb822(5)); continuation lines are joined to their field.
pub(crate) fn stanza(text: &str) -> Stanza {
    let mut fields = Stanza::new();
    let mut current: Option<String> = None;
    for line in text.lines().skip_while(|line| line.trim().is_empty()) {
        if line.trim().is_empty() {
            break;
        }
        if line.starts_with([' ', '\t']) {
            if let Some(value) = current.as_ref().and_then(|name| fields.get_mut(name)) {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.insert(name.to_owned(), value.trim().to_owned());
            current = Some(name.to_owned());
        }
    }
    fields
}

fn describe(package: &str, mut stanza: Stanza) -> Result<Description> {
    let missing = |field| Error::Description { package: package.to_owned(), field };
    let mut take = |field| stanza.remove(field).filter(|value| !value.is_empty());
    let name = take("Package").filter(|name| is_package_name(name)).ok_or(missing("Package"))?;
    // It becomes part of an argument, and of the manifest.
    let is_version =
        |text: &String| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-~:".contains(&byte));
    let version = take("Version").filter(is_version).ok_or(missing("Version"))?;
    let size = take("Size").and_then(|size| size.parse().ok()).ok_or(missing("Size"))?;
    Ok(Description { name, version, size, depends: take("Depends").unwrap_or_default() })
}

/// Debian Policy, 5.6.1.
fn is_package_name(name: &str) -> bool {
    name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
}

/// The package names in a dependency field, alternatives included, versions and architectures left out.
pub(crate) fn dependencies(field: &str) -> impl Iterator<Item = &str> {
    field
        .split([',', '|'])
        .filter_map(|item| item.split([' ', '\t', '\n', '(', '[', '<', ':']).find(|word| !word.is_empty()))
        .filter(|name| is_package_name(name))
}

/// How much is done, by a line `dlstatus:ITEM:PERCENT:TEXT` of apt's progress protocol.
fn downloaded_share(line: &str) -> Option<f64> {
    let percent: f64 = line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = "\nPackage: linux-image-cloud-amd64\nVersion: 6.1.10-2\nArchitecture: amd64\n\
        Depends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.10-2)\nDescription: Linux for x86-64 cloud\n meta\n .\n\tx\n\
        Size: 1504\n\nPackage: linux-image-cloud-amd64\nVersion: 5.0\nSize: 1\n";

    #[test]
    fn the_first_paragraph_is_taken() {
        let fields = stanza(META);
        assert_eq!(fields["Version"], "6.1.10-2");
        assert_eq!(fields["Description"], "Linux for x86-64 cloud\nmeta\n.\nx");
        assert_eq!(fields.len(), 6);
        assert!(stanza("").is_empty());
        assert!(stanza("\n\n").is_empty());
        assert!(stanza(" continuation of nothing\nno colon\n").is_empty());
    }

    #[test]
    fn a_description_needs_sane_fields() {
        let description = describe("p", stanza(META)).unwrap();
        assert_eq!((description.version.as_str(), description.size), ("6.1.10-2", 1504));
        let field_missing = |text: &str| match describe("p", stanza(text)) {
            Err(Error::Description { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field_missing("Version: 1\nSize: 1"), "Package");
        assert_eq!(field_missing("Package: --evil\nVersion: 1\nSize: 1"), "Package");
        assert_eq!(field_missing("Package: good\nVersion:\nSize: 1"), "Version");
        assert_eq!(field_missing("Package: good\nVersion: 1 2\nSize: 1"), "Version");
        assert_eq!(field_missing("Package: good\nVersion: 1/../2\nSize: 1"), "Version");
        assert_eq!(field_missing("Package: good\nVersion: 1\nSize: -1"), "Size");
        assert_eq!(field_missing("Package: good\nVersion: 1"), "Size");
    }

    #[test]
    fn dependencies_lose_their_conditions() {
        let field = "kmod, linux-base (>= 4.3~), aa|bb (= 1),\n initramfs-tools (>= 0.120+deb8u2) | xx:any, yy [amd64], , (, -bad";
        let names: Vec<&str> = dependencies(field).collect();
        assert_eq!(names, ["kmod", "linux-base", "aa", "bb", "initramfs-tools", "xx", "yy"]);
        assert_eq!(dependencies("").count(), 0);
    }

    #[test]
    fn status_lines_are_shares() {
        assert_eq!(downloaded_share("dlstatus:1:25.0000:Retrieving file 1 of 1"), Some(0.25));
        for line in [
            "Get:1 http://host",
            "dlstatus:1",
            "dlstatus:1:x:y",
            "dlstatus:1:NaN:y",
            "dlstatus:1:101:y",
            "pmstatus:1:25:y",
        ] {
            assert_eq!(downloaded_share(line), None, "{line}");
        }
    }

    #[test]
    fn only_failures_are_quoted() {
        let said = "W: http://a: Key is stored in a legacy keyring\nW: Failed to fetch http://b  Not found\nE: No space";
        assert_eq!(failures(said), "W: Failed to fetch http://b  Not found\nE: No space");
        assert_eq!(failures(""), "");
    }

    #[test]
    fn index_targets_have_three_parts() {
        let target = index_target("http://mirror/debian/ bookworm main").unwrap();
        assert_eq!((target.suite.as_str(), target.component.as_str()), ("bookworm", "main"));
        assert_eq!(index_target("http://mirror/debian/ bookworm"), None);
        assert_eq!(index_target("N: a notice of four words"), None);
    }

    #[test]
    fn a_host_without_apt_is_told_what_to_pass() {
        let directory = tempfile::tempdir().unwrap();
        let tools = Tools { apt_get: directory.path().join("apt-get"), ..Tools::default() };
        let path = directory.path().join("apt");
        let mut apt = Apt::new(&tools, &Cancel::default(), &path, Architecture::Amd64).unwrap();
        let error = apt.update(&mut crate::progress::Silent).unwrap_err();
        assert!(matches!(error, Error::NoApt { .. }));
        assert!(error.to_string().contains("popf run --kernel F --initrd F"), "{error}");
    }
}
