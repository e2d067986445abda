//! Runs mmdebstrap, and tells from what it says how far it is.
//!
//! Its own progress bars are for a terminal. With `--verbose` it lets through what apt and dpkg say, a line for each
//! package that is fetched, unpacked and set up; those are counted against what apt announces.

use crate::cancel::Cancel;
use crate::error::Result;
use crate::progress::{Progress, Total};
use crate::running::{Errors, Running};
use std::path::Path;
use std::process::{Command, Stdio};

/// Besides what is essential and apt.
#[rustfmt::skip]
const PACKAGES: &[&str] = &[
    // The system
    "dbus", "e2fsprogs", "init", "kmod", "libnss-myhostname", "linux-image-cloud-amd64", "systemd-resolved", "udev",
    // The network
    "ca-certificates", "curl", "iproute2", "iputils-ping", "netbase",
    // The user
    "busybox", "less", "nano", "procps",
];

/// Nobody reads these in a guest that is started for an hour; packages installed later bring theirs.
const EXCLUDED: &[&str] = &["/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*"];

const CUSTOMIZE: &str = include_str!("customize.sh");

/// Lets the file system start out with /usr merged, where mmdebstrap has it; without, a package does it that needs
/// 50 MB of Perl.
const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/merged-usr";

/// All that decides what comes out, but for the packages themselves.
pub(super) fn description() -> String {
    [super::sources::SUITE, &PACKAGES.join(","), &EXCLUDED.join(","), CUSTOMIZE].join("\n")
}

/// Makes the root file system as an archive.
pub(super) fn run(
    mmdebstrap: &Path,
    sources: &[String],
    proxies: &[String],
    archive: &Path,
    cancel: &Cancel,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut command = Command::new(mmdebstrap);
    command.args(["--verbose", "--variant=minbase", "--architectures=amd64", "--format=tar"]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.args(EXCLUDED.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    command.args(proxies.iter().map(|proxy| format!("--aptopt={proxy}")));
    if Path::new(MERGED_USR).is_dir() {
        command.arg(format!("--hook-dir={MERGED_USR}"));
    }
    // As text: mmdebstrap may run it as a user who cannot enter a directory of ours.
    command.arg(format!("--customize-hook={CUSTOMIZE}"));
    command.arg(super::sources::SUITE).arg(archive).args(sources);
    // The kernel's package then makes no initramfs.
    command.env("INITRD", "No").env("LC_ALL", "C").stdin(Stdio::null());
    let mut stages = Stages { progress, open: false, packages: 0, counting: None, reached: 0 };
    stages.begin("starting mmdebstrap", None);
    let mut child = Running::start(command, Errors::Among, cancel)?;
    child.lines(&mut |line| stages.line(line))?;
    child.succeed()?;
    stages.end();
    Ok(())
}

/// What is counted in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counting {
    /// Bytes fetched.
    Bytes,
    /// Packages unpacked, and again set up.
    Packages,
}

/// What the lines so far amount to.
struct Stages<'a> {
    progress: &'a mut dyn Progress,
    open: bool,
    /// How many packages apt is about to install.
    packages: u64,
    counting: Option<Counting>,
    reached: u64,
}

impl Stages<'_> {
    fn line(&mut self, line: &str) {
        if let Some(stage) = line.strip_prefix("I: ").and_then(stage) {
            self.begin(stage, None);
        } else if let Some(bytes) = line.strip_prefix("Need to get ").and_then(size) {
            self.begin("downloading packages", Some(Total::Bytes(bytes)));
            self.counting = Some(Counting::Bytes);
        } else if let Some((_, rest)) = line.split_once(" upgraded, ")
            && let Some((count, _)) = rest.split_once(" newly installed")
        {
            self.packages = count.parse().unwrap_or(0);
        } else if line.starts_with("Get:") && self.counting == Some(Counting::Bytes) {
            let bytes = line.rsplit_once('[').and_then(|(_, size_text)| size(size_text));
            self.advance(bytes.unwrap_or(0));
        } else if self.packages > 0 && (line.starts_with("Unpacking ") || line.starts_with("Setting up ")) {
            if self.counting != Some(Counting::Packages) {
                self.begin("unpacking and setting up packages", Some(Total::Steps(2 * self.packages)));
                self.counting = Some(Counting::Packages);
            }
            self.advance(1);
        }
    }

    fn begin(&mut self, stage: &str, total: Option<Total>) {
        self.end();
        self.progress.begin(stage, total);
        (self.open, self.counting, self.reached) = (true, None, 0);
    }

    fn advance(&mut self, by: u64) {
        self.reached += by;
        self.progress.reached(self.reached);
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            self.progress.end();
        }
    }
}

/// What mmdebstrap's own messages announce, where it takes long.
fn stage(message: &str) -> Option<&'static str> {
    #[rustfmt::skip]
    const STAGES: &[(&str, &str)] = &[
        ("running apt-get update",  "updating package lists"),
        ("extracting archives",     "unpacking the base system"),
        ("cleaning package lists",  "cleaning up"),
        ("creating tarball",        "packing the root file system"),
    ];
    STAGES.iter().find(|(start, _)| message.starts_with(start)).map(|(_, stage)| *stage)
}

/// A size as apt writes it: `22.2 MB of archives`, `37.6 kB]`, `5616 B`.
fn size(text: &str) -> Option<u64> {
    let mut words = text.split([' ', '/', ']']);
    let number: f64 = words.next()?.replace(',', "").parse().ok().filter(|number| *number >= 0.0)?;
    let unit = match words.next()? {
        "B" => 1e0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some((number * unit) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::tests::Recorded;

    #[test]
    fn sizes_are_apts() {
        assert_eq!(size("22.2 MB of archives."), Some(22_200_000));
        assert_eq!(size("37.6 kB]"), Some(37_600));
        assert_eq!(size("5616 B]"), Some(5616));
        for text in ["", "x MB", "-1 MB", "NaN MB", "1 parsec", "1"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn stages_are_told_from_what_is_said() {
        let mut progress = Recorded::default();
        let mut stages =
            Stages { progress: &mut progress, open: false, packages: 0, counting: None, reached: 0 };
        for line in [
            "I: automatically chosen mode: root",
            "I: running apt-get update...",
            "Get:1 http://mirror bookworm InRelease [151 kB]",
            "I: downloading packages with apt...",
            "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
            "Need to get 1,500 B of archives.",
            "Get:1 http://mirror bookworm/main amd64 one amd64 1.0 [500 B]",
            "Get:2 http://mirror bookworm/main amd64 two amd64 1.0 [1000 B]",
            "Fetched 1500 B in 0s (10 kB/s)",
            "I: extracting archives...",
            "I: installing essential packages...",
            "Unpacking one (1.0) ...",
            "Unpacking two (1.0) ...",
            "Setting up one (1.0) ...",
            "Get:1 is a line of a package's own",
            "Setting up two (1.0) ...",
            "I: creating tarball...",
        ] {
            stages.line(line);
        }
        stages.end();
        assert_eq!(
            progress.stages,
            [
                "updating package lists",
                "downloading packages",
                "unpacking the base system",
                "unpacking and setting up packages",
                "packing the root file system",
            ]
        );
        assert_eq!((progress.open, progress.most), (false, 1500));
        assert_eq!(progress.totals, [None, Some(Total::Bytes(1500)), None, Some(Total::Steps(4)), None]);
    }
}
