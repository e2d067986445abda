//! The image `debian`: Debian 12 with systemd on a disk, its kernel and an initramfs beside it for direct boot.
//!
//! ```text
//! host's apt sources ── sources ──► mmdebstrap ──► root file system ──► mke2fs -d ──► disk.raw
//!                                                     │
//!                                                     └── kernel, modules ──► vmlinuz, modules.cpio ──► initrd
//! ```
//!
//! mmdebstrap needs no root where the host has user namespaces (and `newuidmap`) or fakechroot; it chooses. The disk is one ext4 file
//! system without a partition table, as nothing boots from it. It is sparse: what a guest does not use is a hole.
//!
//! The initramfs is ours (`guest/debian.rs` says why), so Debian's own is not made, which would take a fifth of the
//! build's time. What popf needs in the guest comes with it at each boot and is not on the disk.
//!
//! Not modelled: other suites and architectures, and keys other than Debian's own.

mod bootstrap;
mod disk;
mod initramfs;
mod modules;
mod sources;

use crate::apt::{Apt, Architecture};
use crate::error::{Error, IoContext, Result};
use crate::manifest::{KERNEL, hex};
use crate::package::Package;
use crate::progress::Progress;
use crate::recipe::{Recipe, Site};
use crate::tools;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

pub(crate) const NAME: &str = "debian";

const DISK: &str = "disk.raw";
/// The modules that lead to the disk, as a part of the initramfs.
const MODULES: &str = "modules.cpio";
/// By which Debian's archive is trusted, on the host and in the guest.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The recipe.
#[derive(Debug)]
pub(crate) struct Debian;

impl Recipe for Debian {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cmdline(&self) -> &'static str {
        "console=ttyS0 quiet panic=-1 no_timer_check root=/dev/vda rw"
    }

    fn command_cmdline(&self) -> &'static str {
        // Standard error is no place for a login, or for units that are slow to start.
        "console=ttyS1 quiet loglevel=1 panic=-1 no_timer_check root=/dev/vda rw systemd.show_status=no \
         systemd.mask=serial-getty@ttyS1.service"
    }

    fn fetched(&self) -> &'static [&'static str] {
        &[KERNEL, DISK, MODULES]
    }

    fn disk(&self) -> Option<&'static str> {
        Some(DISK)
    }

    fn base(&self) -> String {
        let mut digest = Sha256::new();
        for part in [bootstrap::description(), disk::description(), modules::WANTED.join(" ")] {
            digest.update(part);
            digest.update([0]);
        }
        hex(&digest.finalize())
    }

    fn finish(&self) -> Result<String> {
        Ok(hex(&Sha256::digest(initramfs::write(&[]).map_err(Error::Archive)?)))
    }

    fn fetch(&self, site: &Site, progress: &mut dyn Progress) -> Result<Vec<Package>> {
        let Site { tools, cancel, workshop, target } = *site;
        let apt = Apt::new(tools, cancel, &workshop.join("apt"), Architecture::Amd64)?;
        let sources = sources::lines(&apt.index_targets()?);
        let [mmdebstrap, tar, mke2fs, fakeroot, _] = tools::find([
            (&tools.mmdebstrap, "mmdebstrap"),
            (&tools.tar, "tar"),
            (&tools.mke2fs, "e2fsprogs"),
            (&tools.fakeroot, "fakeroot"),
            (Path::new(KEYRING), "debian-archive-keyring"),
        ])?;
        if host::process::user_id() != 0 && tools::locate(&tools.fakechroot).is_none() {
            tools::find([(&tools.newuidmap, "uidmap")])?;
        }
        let archive = workshop.join("root.tar");
        bootstrap::run(&mmdebstrap, &sources, &apt.proxies()?, &archive, cancel, progress)?;
        let tree = workshop.join("root");
        let programs = disk::Programs { tar: &tar, mke2fs: &mke2fs, fakeroot: &fakeroot };
        disk::make(&programs, &archive, &tree, &target.join(DISK), cancel, progress)?;
        progress.begin("taking the kernel", None);
        let version = kernel_version(&tree)?;
        let kernel = tree.join(format!("boot/vmlinuz-{version}"));
        fs::copy(&kernel, target.join(KERNEL)).at("copy", &kernel)?;
        let modules = modules::archive(&tree.join("usr/lib/modules").join(version))?;
        let path = target.join(MODULES);
        fs::write(&path, modules).at("write", &path)?;
        let packages = packages(&tree.join("var/lib/dpkg/status"))?;
        progress.end();
        Ok(packages)
    }

    fn initramfs(&self, target: &Path) -> Result<Vec<u8>> {
        let path = target.join(MODULES);
        let modules = fs::read(&path).at("read", &path)?;
        initramfs::write(&modules).map_err(Error::Archive)
    }
}

/// The one kernel's, which is what its modules' folder is called.
fn kernel_version(tree: &Path) -> Result<String> {
    let directory = tree.join("usr/lib/modules");
    for entry in fs::read_dir(&directory).at("read", &directory)? {
        let name = entry.at("read", &directory)?.file_name();
        if let Some(name) = name.to_str().filter(|name| tree.join(format!("boot/vmlinuz-{name}")).is_file()) {
            return Ok(name.to_owned());
        }
    }
    Err(Error::Incomplete("kernel (boot/vmlinuz-*)".to_owned()))
}

/// What dpkg says is installed.
fn packages(status: &Path) -> Result<Vec<Package>> {
    let text = fs::read_to_string(status).at("read", status)?;
    let package = |paragraph: &str| {
        let mut fields = crate::apt::stanza(paragraph);
        let installed = fields.get("Status").is_some_and(|status| status == "install ok installed");
        installed.then_some(())?;
        Some(Package { name: fields.remove("Package")?, version: fields.remove("Version")? })
    };
    let mut packages: Vec<Package> = text.split("\n\n").filter_map(package).collect();
    // The kernel first: it is what a reader of a list looks for.
    packages.sort_by_key(|package| (!package.name.starts_with("linux-image-"), package.name.clone()));
    Ok(packages)
}
