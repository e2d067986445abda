//! Telling formats by the first bytes.

use std::fs::File;
use std::io;

use super::qcow2::header;
use super::{Format, read_up_to, vmdk};

/// What the first bytes say. Anything may be a raw image.
pub fn probe(file: &File) -> io::Result<Format> {
    let mut head = [0; PROBED];
    let length = read_up_to(file, &mut head)?;
    Ok(format_of(&head[..length]))
}

/// How many bytes tell a format.
pub(super) const PROBED: usize = vmdk::DESCRIPTOR_MAGIC.len();

pub(super) fn format_of(head: &[u8]) -> Format {
    if head.starts_with(&header::MAGIC) {
        Format::Qcow2
    } else if head.starts_with(&vmdk::SPARSE_MAGIC) || head.starts_with(vmdk::DESCRIPTOR_MAGIC) {
        Format::Vmdk
    } else {
        Format::Raw
    }
}
