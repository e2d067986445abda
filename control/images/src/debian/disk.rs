//! The root file system as a disk: unpacked, then written as ext4 by `mke2fs -d`.
//!
//! Both steps run under one fakeroot where popf is not root itself, so that owners, modes and device nodes survive.
//! The archive is not given to mke2fs directly, which Debian 12's cannot read.

use crate::cancel::Cancel;
use crate::error::{IoContext, Result};
use crate::progress::Progress;
use crate::running::{Errors, Running};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the guest can fill; an overlay takes what it does.
const SIZE: u64 = 8 << 30;

/// $1 tar, $2 the archive, $3 where to, $4 mke2fs, $5 the disk.
///
/// The journal of a fresh file is zero as it is. Nobody else needs the blocks that are usually kept for root.
const SCRIPT: &str = "set -e
\"$1\" --extract --file \"$2\" --directory \"$3\" --numeric-owner --xattrs --xattrs-include='*'
\"$4\" -q -t ext4 -L debian -m 0 -E lazy_journal_init=1,root_owner=0:0 -d \"$3\" \"$5\"
";

pub(super) fn description() -> String {
    format!("{SIZE} {SCRIPT}")
}

pub(super) struct Programs<'a> {
    pub(super) tar: &'a Path,
    pub(super) mke2fs: &'a Path,
    pub(super) fakeroot: &'a Path,
}

/// Unpacks `archive` to `tree` and makes a disk of that. The archive is removed.
pub(super) fn make(
    programs: &Programs,
    archive: &Path,
    tree: &Path,
    disk: &Path,
    cancel: &Cancel,
    progress: &mut dyn Progress,
) -> Result<()> {
    progress.begin("making the disk", None);
    fs::create_dir(tree).at("create", tree)?;
    File::create_new(disk).and_then(|file| file.set_len(SIZE)).at("create", disk)?;
    let mut command = if is_root() {
        Command::new("sh")
    } else {
        let mut command = Command::new(programs.fakeroot);
        command.arg("sh");
        command
    };
    command.args(["-c", SCRIPT, "sh"]).args([programs.tar, archive, tree, programs.mke2fs, disk]);
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    Running::start(command, Errors::Among, cancel)?.succeed()?;
    fs::remove_file(archive).at("remove", archive)?;
    progress.end();
    Ok(())
}

/// By whom this process is owned, as the kernel shows it.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
