//! The system calls by which the Debian image's first process comes to its root file system and puts files there.
//!
//! With `bare` and `sys` it has that program's `unsafe`. Not modelled: what to do about an error, which is the
//! caller's.

use core::ffi::CStr;

use crate::sys::call;

/// Mount options of mount(2).
pub const READ_ONLY: usize = 1;
pub const NO_SETUID: usize = 2;
pub const NO_DEVICES: usize = 4;
const MOVE: usize = 8192;

/// 0, or the negative error number.
pub fn mount(source: &CStr, path: &CStr, kind: &CStr, flags: usize, options: &CStr) -> isize {
    call!(165, source.as_ptr(), path.as_ptr(), kind.as_ptr(), flags, options.as_ptr())
}

pub fn move_mount(from: &CStr, to: &CStr) {
    mount(from, to, c"", MOVE, c"");
}

/// Makes the mount at `path` the root. The old root, the kernel's own, cannot be unmounted and stays below.
pub fn change_root(path: &CStr) {
    crate::sys::chdir(path);
    move_mount(c".", c"/");
    call!(161, c".".as_ptr());
    crate::sys::chdir(c"/");
}

/// 0, or the negative error number.
pub fn load_module(path: &CStr) -> isize {
    let Some(fd) = crate::sys::open_read(path) else {
        return crate::sys::ENOENT;
    };
    let result = call!(313, fd, c"".as_ptr(), 0);
    crate::sys::close(fd);
    result
}

pub fn remove(path: &CStr) {
    call!(87, path.as_ptr());
}

/// Writes a new file.
pub fn write_file(path: &CStr, permissions: usize, content: &[u8]) {
    const WRITE_CREATE_TRUNCATE: usize = 0o1101;
    let fd = call!(2, path.as_ptr(), WRITE_CREATE_TRUNCATE, permissions);
    if fd < 0 {
        return;
    }
    let mut rest = content;
    while !rest.is_empty() {
        let written = call!(1, fd, rest.as_ptr(), rest.len());
        match usize::try_from(written).ok().filter(|written| *written > 0) {
            Some(written) => rest = &rest[written..],
            None => break,
        }
    }
    crate::sys::close(fd as i32);
}

pub fn sleep_ms(milliseconds: u32) {
    let time = [u64::from(milliseconds / 1000), u64::from(milliseconds % 1000) * 1_000_000];
    call!(35, time.as_ptr(), 0);
}
