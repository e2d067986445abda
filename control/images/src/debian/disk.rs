//! The root file system as a disk: unpacked, then written as ext4 by `mke2fs -d`.
//!
//! Both steps run under one fakeroot where popf is not root itself, so that owners, modes and device nodes survive.
//! The archive is not given to mke2fs directly, which Debian 12's cannot read.

use crate::cancel::Cancel;
use crate::error::{IoContext, Result};
use crate::progress::Progress;
use crate::running::{Errors, Running};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

/// What the guest can fill; an overlay takes what it does.
const SIZE: u64 = 8 << 30;

/// $1 tar, $2 the archive, $3 where to, $4 mke2fs, $5 the disk, and further arguments for tar.
///
/// The journal of a fresh file is zero as it is. Nobody else needs the blocks that are usually kept for root.
const SCRIPT: &str = "set -e
tar=$1 archive=$2 tree=$3 mke2fs=$4 disk=$5
shift 5
\"$tar\" --extract --file \"$archive\" --directory \"$tree\" --numeric-owner \"$@\"
\"$mke2fs\" -q -t ext4 -L debian -m 0 -E lazy_journal_init=1,root_owner=0:0 -d \"$tree\" \"$disk\"
";

/// What root's tar is told besides, for programs with capabilities. Under fakeroot, a file that is given some loses its
/// type, and mke2fs leaves it out. `ping`, the one that has any, can do without where systemd sets
/// `net.ipv4.ping_group_range`.
const WITH_CAPABILITIES: [&str; 2] = ["--xattrs", "--xattrs-include=*"];

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
    let root = host::process::user_id() == 0;
    let mut command = if root {
        Command::new("sh")
    } else {
        let mut command = Command::new(programs.fakeroot);
        command.arg("sh");
        command
    };
    command.args(["-c", SCRIPT, "sh"]).args([programs.tar, archive, tree, programs.mke2fs, disk]);
    command.args(WITH_CAPABILITIES.iter().filter(|_| root));
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    Running::start(command, Errors::Among, cancel)?.succeed()?;
    fs::remove_file(archive).at("remove", archive)?;
    progress.end();
    Ok(())
}
