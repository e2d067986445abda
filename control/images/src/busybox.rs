//! The busybox images: one of Debian's kernels and its statically linked busybox, and nothing else.
//!
//! Neither package is installed: one file is taken out of each. The kernel's modules are left out, as all that
//! the board has drivers are needed for is built in.
//!
//! There is one image for each kind of kernel: Debian's for clouds, and those for 32-bit processors with and without
//! PAE (page tables of three and of two levels).

use crate::apt::{Apt, Architecture, Description, dependencies};
use crate::deb::{Wanted, extract};
use crate::error::{Error, IoContext, PackageError, Result};
use crate::initramfs;
use crate::manifest::{KERNEL, hex};
use crate::package::Package;
use crate::progress::Progress;
use crate::recipe::{Recipe, Site};
use sha2::{Digest, Sha256};
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The busybox program.
const BUSYBOX: &str = "busybox";
const BUSYBOX_PACKAGE: &str = "busybox-static";
const KERNEL_LIMIT: u64 = 256 << 20;
const BUSYBOX_LIMIT: u64 = 32 << 20;

/// The recipe for one kernel.
#[derive(Debug)]
pub(crate) struct Busybox {
    name: &'static str,
    /// How Debian calls the kind of kernel. Its package depends on the current kernel of the kind.
    flavour: &'static str,
    architecture: Architecture,
}

pub(crate) const CLOUD: Busybox =
    Busybox { name: "busybox", flavour: "cloud-amd64", architecture: Architecture::Amd64 };
pub(crate) const I686_PAE: Busybox =
    Busybox { name: "busybox-686-pae", flavour: "686-pae", architecture: Architecture::I386 };
pub(crate) const I686: Busybox =
    Busybox { name: "busybox-686", flavour: "686", architecture: Architecture::I386 };

impl Recipe for Busybox {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cmdline(&self) -> &'static str {
        "console=ttyS0 quiet panic=-1 no_timer_check"
    }

    fn command_cmdline(&self) -> &'static str {
        "console=ttyS1 quiet loglevel=1 panic=-1 no_timer_check"
    }

    fn fetched(&self) -> &'static [&'static str] {
        &[KERNEL, BUSYBOX]
    }

    fn disk(&self) -> Option<&'static str> {
        None
    }

    /// Files out of packages, as they are. The kernel's package names the architecture, too.
    fn base(&self) -> String {
        hex(&Sha256::digest([self.meta_package().as_str(), BUSYBOX_PACKAGE].join(" ")))
    }

    fn finish(&self) -> Result<String> {
        let own = initramfs::write(self.architecture, &[], &[]).map_err(Error::Archive)?;
        Ok(hex(&Sha256::digest(own)))
    }

    fn fetch(&self, site: &Site, progress: &mut dyn Progress) -> Result<Vec<Package>> {
        let Site { tools, cancel, workshop, target } = *site;
        let mut apt = Apt::new(tools, cancel, &workshop.join("apt"), self.architecture)?;
        apt.update(progress)?;
        let meta = apt.describe(&self.meta_package())?;
        let kernel_name = self
            .kernel_package(&meta.depends)
            .ok_or(Error::Description { package: self.meta_package(), field: "Depends" })?;
        let kernel = apt.describe(kernel_name)?;
        let busybox = apt.describe(BUSYBOX_PACKAGE)?;
        let kernel_file = download(&apt, &kernel, &workshop.join("kernel"), progress)?;
        let busybox_file = download(&apt, &busybox, &workshop.join("busybox"), progress)?;
        progress.begin("unpacking", None);
        let kernel_is =
            |path: &str| path.strip_prefix("boot/vmlinuz-").is_some_and(|version| !version.contains('/'));
        take(&kernel_file, "kernel (boot/vmlinuz-*)", kernel_is, KERNEL_LIMIT, &target.join(KERNEL))?;
        let busybox_is = |path: &str| matches!(path, "bin/busybox" | "usr/bin/busybox");
        let program = target.join(BUSYBOX);
        take(&busybox_file, "program (bin/busybox)", busybox_is, BUSYBOX_LIMIT, &program)?;
        if !is_program(&program, self.architecture)? {
            let source = PackageError::Format("its busybox is no program for Linux on the guest's processor");
            return Err(Error::Package { path: busybox_file, source });
        }
        progress.end();
        Ok([kernel, busybox].map(|Description { name, version, .. }| Package { name, version }).to_vec())
    }

    fn initramfs(&self, target: &Path) -> Result<Vec<u8>> {
        let program = target.join(BUSYBOX);
        let busybox = fs::read(&program).at("read", &program)?;
        fs::set_permissions(&program, Permissions::from_mode(0o755)).at("make executable", &program)?;
        initramfs::write(self.architecture, &busybox, &applet_links(&program)).map_err(Error::Archive)
    }
}

impl Busybox {
    fn meta_package(&self) -> String {
        format!("linux-image-{}", self.flavour)
    }

    /// The kernel that the meta package stands for: its name has a version between the two parts of the meta
    /// package's.
    fn kernel_package<'a>(&self, depends: &'a str) -> Option<&'a str> {
        let is_kernel = |name: &str| {
            let version = name.strip_prefix("linux-image-").and_then(|rest| rest.strip_suffix(self.flavour));
            version
                .and_then(|rest| rest.strip_suffix('-'))
                .is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        };
        dependencies(depends).find(|name| is_kernel(name))
    }
}

/// The one file that apt puts into an empty directory, under a name that is apt's business.
fn download(
    apt: &Apt,
    package: &Description,
    directory: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf> {
    apt.download(package, directory, progress)?;
    for entry in fs::read_dir(directory).at("read", directory)? {
        let path = entry.at("read", directory)?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    let source = std::io::Error::new(std::io::ErrorKind::NotFound, "apt-get said it did");
    Err(source).at("find the downloaded package in", directory)
}

fn take(package: &Path, what: &'static str, is: fn(&str) -> bool, limit: u64, to: &Path) -> Result<()> {
    extract(package, &[Wanted { what, is, limit, to }])
        .map_err(|source| Error::Package { path: package.to_owned(), source })
}

/// By the ELF header: little-endian, of the architecture's width and machine (EM_X86_64 or EM_386).
fn is_program(path: &Path, architecture: Architecture) -> Result<bool> {
    let mut header = Vec::new();
    File::open(path).and_then(|file| file.take(20).read_to_end(&mut header)).at("read", path)?;
    let (class, machine) = match architecture {
        Architecture::Amd64 => (2, 62),
        Architecture::I386 => (1, 3),
    };
    Ok(header.starts_with(&[0x7f, b'E', b'L', b'F', class, 1]) && header.get(18..20) == Some(&[machine, 0]))
}

/// Asks the program itself, which runs on this host as it does in the guest. Where it may not (a file system
/// mounted noexec) the image has no links, and the guest's first process makes them at every boot.
fn applet_links(program: &Path) -> Vec<String> {
    match Command::new(program).arg("--list-full").stdin(Stdio::null()).stderr(Stdio::null()).output() {
        Ok(output) if output.status.success() => initramfs::links(&String::from_utf8_lossy(&output.stdout)),
        Ok(output) => {
            tracing::warn!("{} --list-full: {}", program.display(), output.status);
            Vec::new()
        }
        Err(error) => {
            tracing::warn!("{} cannot be run: {error}", program.display());
            Vec::new()
        }
    }
}

#[cfg(test)]
#[path = "busybox_tests.rs"]
mod tests;
