//! Guests of a kernel, an initramfs that mounts the first disk, and a root file system with one program on it; and the
//! one that tries its disk (`xtask/guest/disk.rs`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::bench::boot;

const SOURCE: &str = "xtask/guest/disk.rs";
/// What the program does depends on what it is called.
const NAMES: [&str; 3] = ["writer", "verify", "bench"];
const IMAGE: &str = "debian";
pub const MEMORY_MIB: u32 = 512;

/// What boots.
#[derive(Args)]
pub struct Guest {
    /// A kernel [default: the one of the image debian].
    #[arg(long, value_name = "FILE", requires = "initrd")]
    kernel: Option<PathBuf>,
    /// Its initramfs, which mounts root= and starts init=.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
}

/// Its kernel and initramfs.
pub struct Files {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

impl Guest {
    /// The files it boots from; the image is built if it is missing.
    pub fn files(&self, popf: &Path) -> Result<Files, String> {
        match (&self.kernel, &self.initrd) {
            (Some(kernel), Some(initrd)) => Ok(Files { kernel: kernel.clone(), initrd: initrd.clone() }),
            _ => {
                let image = boot::find_image(popf, IMAGE)?;
                Ok(Files { kernel: image.kernel, initrd: image.initrd })
            }
        }
    }

    /// Makes a root file system of this size.
    pub fn make_root(&self, path: &Path, size: &str) -> Result<(), String> {
        make_root(SOURCE, &NAMES, path, size)
    }

    /// popf with this guest, to which disks are to be added; the first is its root.
    pub fn popf(&self, popf: &Path, init: &str) -> Result<Command, String> {
        let Files { kernel, initrd } = self.files(popf)?;
        let mut command = Command::new(popf);
        command.arg("run").arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
        command.args(["--cmdline", &cmdline(init), "--memory", &format!("{MEMORY_MIB}M"), "--no-reboot"]);
        Ok(command)
    }
}

/// Makes a root file system of this size with one program on it, under these names.
pub fn make_root(source: &str, names: &[&str], path: &Path, size: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let made = |error: io::Error| format!("cannot make the guest's files: {error}");
    for name in ["dev", "proc", "sys", "run"] {
        fs::create_dir(folder.path().join(name)).map_err(made)?;
    }
    let (first, others) = names.split_first().ok_or("a program without a name")?;
    let program = folder.path().join(first);
    compile(source, &program)?;
    for name in others {
        fs::hard_link(&program, folder.path().join(name)).map_err(made)?;
    }
    make_disk(folder.path(), path, size)
}

/// Compiles a guest's program. Static, because the guest may have no C library, or another.
pub fn compile(source: &str, program: &Path) -> Result<(), String> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"])
        .arg(program)
        .arg(source);
    boot::output(&mut rustc).map(drop)
}

/// Makes a raw image of an ext4 file system of this size with a folder's content.
pub fn make_disk(folder: &Path, image: &Path, size: &str) -> Result<(), String> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-d"]).arg(folder).arg(image).arg(size);
    boot::output(&mut mke2fs).map(drop)
}

/// The kernel's command line. Its check of the timer is left out: on a busy host ticks come too late for it.
pub fn cmdline(init: &str) -> String {
    format!("console=ttyS0 quiet panic=-1 no_timer_check root=/dev/vda rw init={init}")
}
