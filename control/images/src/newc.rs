//! A writer of `newc` cpio archives, the format of an initramfs (`Documentation/driver-api/early-userspace/
//! buffer-format.rst` of Linux; cpio(5) calls it the SVR4 portable format).
//!
//! Times are zero and owners are root, so that the same content gives the same bytes. Not modelled: hard links,
//! checksums (`newcrc`), and reading.

use std::collections::HashSet;
use std::io::{self, Write};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const HEADER_SIZE: usize = 110;
/// What the kernel takes as a name, its NUL included.
const PATH_MAX: usize = 4096;
/// `cpio` pads to a block of 512; a multiple of 4 is what the kernel needs before a further archive.
const BLOCK: u64 = 512;

const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

/// Writes one archive.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    written: u64,
    next_inode: u32,
    directories: HashSet<String>,
    names: HashSet<String>,
}

/// What distinguishes one header from another.
struct Header {
    mode: u32,
    links: u32,
    size: u32,
    device: (u32, u32),
}

impl<W: Write> Writer<W> {
    /// An archive that is written to `out`.
    pub fn new(out: W) -> Self {
        Self { out, written: 0, next_inode: 1, directories: HashSet::new(), names: HashSet::new() }
    }

    /// Adds a directory.
    pub fn directory(&mut self, name: &str, permissions: u32) -> io::Result<()> {
        self.entry(
            name,
            Header { mode: S_IFDIR | permissions & 0o7777, links: 2, size: 0, device: (0, 0) },
            &[],
        )?;
        self.directories.insert(name.to_owned());
        Ok(())
    }

    /// Adds a regular file.
    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| invalid(name, "has 4 GiB or more"))?;
        self.entry(
            name,
            Header { mode: S_IFREG | permissions & 0o7777, links: 1, size, device: (0, 0) },
            content,
        )
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        if target.is_empty() || target.len() >= PATH_MAX || target.contains('\0') {
            return Err(invalid(name, "links to no possible path"));
        }
        let size = target.len() as u32;
        self.entry(name, Header { mode: S_IFLNK | 0o777, links: 1, size, device: (0, 0) }, target.as_bytes())
    }

    /// Adds a character device.
    pub fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        let mode = S_IFCHR | permissions & 0o7777;
        self.entry(name, Header { mode, links: 1, size: 0, device: (major, minor) }, &[])
    }

    /// Ends the archive, padded so that another may follow it.
    pub fn finish(mut self) -> io::Result<W> {
        self.header(TRAILER, 0, &Header { mode: 0, links: 1, size: 0, device: (0, 0) })?;
        self.pad(BLOCK)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, header: Header, content: &[u8]) -> io::Result<()> {
        self.check_name(name)?;
        let inode = self.next_inode;
        self.next_inode = inode.checked_add(1).ok_or_else(|| invalid(name, "is one entry too many"))?;
        self.header(name, inode, &header)?;
        self.put(content)?;
        self.pad(4)?;
        self.names.insert(name.to_owned());
        Ok(())
    }

    /// The kernel silently leaves out an entry whose directory it has not seen, and a name like `a/../b` means
    /// something else than it says; neither shall get that far.
    fn check_name(&self, name: &str) -> io::Result<()> {
        if name.len() >= PATH_MAX || name.contains('\0') || name == TRAILER {
            return Err(invalid(name, "cannot be a name in an archive"));
        }
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid(name, "is not a plain relative path"));
        }
        if self.names.contains(name) {
            return Err(invalid(name, "is in the archive twice"));
        }
        match name.rsplit_once('/') {
            Some((directory, _)) if !self.directories.contains(directory) => {
                Err(invalid(name, "comes before its directory"))
            }
            _ => Ok(()),
        }
    }

    fn header(&mut self, name: &str, inode: u32, header: &Header) -> io::Result<()> {
        let name_size = name.len() as u32 + 1;
        #[rustfmt::skip]
        let fields = [
            inode,
            header.mode,
            0, // c_uid
            0, // c_gid
            header.links,
            0, // c_mtime
            header.size,
            0, // c_devmajor
            0, // c_devminor
            header.device.0,
            header.device.1,
            name_size,
            0, // c_check
        ];
        let mut text = String::with_capacity(HEADER_SIZE);
        text.push_str(MAGIC);
        for field in fields {
            text.push_str(&format!("{field:08x}"));
        }
        debug_assert_eq!(text.len(), HEADER_SIZE);
        self.put(text.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        let missing = self.written.next_multiple_of(alignment) - self.written;
        self.put(&[0; BLOCK as usize][..missing as usize])
    }
}

fn invalid(name: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} {why}"))
}

#[cfg(test)]
#[path = "newc_tests.rs"]
pub(crate) mod tests;
