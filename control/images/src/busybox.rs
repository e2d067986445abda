//! The image `busybox`: Debian's cloud kernel and its statically linked busybox, and nothing else.
//!
//! Neither package is installed: one file is taken out of each. The kernel's modules are left out, as all that
//! the board has drivers are needed for is built in.

use crate::apt::{Apt, Description, dependencies};
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

pub(crate) const NAME: &str = "busybox";
/// The busybox program.
const BUSYBOX: &str = "busybox";

/// Depends on the current kernel of its kind.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
const BUSYBOX_PACKAGE: &str = "busybox-static";
const KERNEL_LIMIT: u64 = 256 << 20;
const BUSYBOX_LIMIT: u64 = 32 << 20;

/// The recipe.
#[derive(Debug)]
pub(crate) struct Busybox;

impl Recipe for Busybox {
    fn name(&self) -> &'static str {
        NAME
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

    /// Files out of packages, as they are.
    fn base(&self) -> String {
        hex(&Sha256::digest([META_PACKAGE, BUSYBOX_PACKAGE].join(" ")))
    }

    fn finish(&self) -> Result<String> {
        let own = initramfs::write(&[], &[]).map_err(Error::Archive)?;
        Ok(hex(&Sha256::digest(own)))
    }

    fn fetch(&self, site: &Site, progress: &mut dyn Progress) -> Result<Vec<Package>> {
        fetch(site, progress)
    }

    fn initramfs(&self, target: &Path) -> Result<Vec<u8>> {
        let program = target.join(BUSYBOX);
        let busybox = fs::read(&program).at("read", &program)?;
        fs::set_permissions(&program, Permissions::from_mode(0o755)).at("make executable", &program)?;
        initramfs::write(&busybox, &applet_links(&program)).map_err(Error::Archive)
    }
}

fn fetch(site: &Site, progress: &mut dyn Progress) -> Result<Vec<Package>> {
    let Site { tools, cancel, workshop, target } = *site;
    let mut apt = Apt::new(tools, cancel, &workshop.join("apt"))?;
    apt.update(progress)?;
    let meta = apt.describe(META_PACKAGE)?;
    let kernel_name = kernel_package(&meta.depends)
        .ok_or(Error::Description { package: META_PACKAGE.to_owned(), field: "Depends" })?;
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
    if !is_amd64_program(&program)? {
        let source = PackageError::Format("its busybox is no program for x86-64 Linux");
        return Err(Error::Package { path: busybox_file, source });
    }
    progress.end();
    Ok([kernel, busybox].map(|Description { name, version, .. }| Package { name, version }).to_vec())
}

/// The kernel that the meta package stands for.
fn kernel_package(depends: &str) -> Option<&str> {
    dependencies(depends).find(|name| name.starts_with("linux-image-") && name.ends_with("-cloud-amd64"))
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

/// By the ELF header: 64 bits, little-endian, EM_X86_64.
fn is_amd64_program(path: &Path) -> Result<bool> {
    let mut header = Vec::new();
    File::open(path).and_then(|file| file.take(20).read_to_end(&mut header)).at("read", path)?;
    Ok(header.starts_with(b"\x7fELF\x02\x01") && header.get(18..20) == Some(&[62, 0]))
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
