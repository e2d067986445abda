//! Kernel loading: from the bytes of an image to what guest memory and the processor hold at its first
//! instruction. Nothing here touches a machine: the result is a list of [`Piece`]s and a [`CpuState`], so that
//! every loader is a pure function that tests and fuzzers can call with any bytes.
//!
//! Formats: Linux bzImage by the 64- and 32-bit boot protocol, ELF with the Xen PVH entry note, and multiboot 1. A plain
//! ELF without either note says nothing about how it wants to be entered and is refused; so are 16-bit boot
//! sectors and kernels of boot protocols before 2.10.

mod bytes;
mod elf;
mod entry;
mod error;
mod linux;
mod multiboot;
mod place;
mod pvh;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use vcpu::CpuState;

use crate::map::MemoryMap;
pub use error::LoadError;

/// What is to be booted.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The kernel file.
    pub kernel: &'a [u8],
    /// Files handed to the kernel. Linux sees them as one initial RAM disk, each part on a four-byte boundary,
    /// as its unpacker expects of concatenated archives.
    pub modules: &'a [&'a [u8]],
    /// The command line.
    pub cmdline: &'a str,
    /// The guest's memory.
    pub map: &'a MemoryMap,
    /// Address of the ACPI root pointer.
    pub rsdp: u64,
}

/// Bytes and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Guest-physical address.
    pub gpa: u64,
    /// What goes there.
    pub bytes: Cow<'a, [u8]>,
}

/// What to put into zeroed guest memory, and the processor's state then.
#[derive(Clone, Debug)]
pub struct Loaded<'a> {
    /// Does not overlap and lies inside the guest's RAM.
    pub pieces: Vec<Piece<'a>>,
    /// The boot processor.
    pub cpu: CpuState,
    /// What was recognised, for messages.
    pub format: Format,
}

/// How a kernel is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Linux boot protocol.
    Linux,
    /// PVH.
    Pvh,
    /// Multiboot 1.
    Multiboot,
}

/// Recognises the kernel and decides where everything goes.
pub fn load<'a>(request: &Request<'a>) -> Result<Loaded<'a>, LoadError> {
    if request.cmdline.as_bytes().contains(&0) {
        return Err(LoadError::CommandLineNul);
    }
    if linux::recognises(request.kernel) {
        return linux::load(request);
    }
    let header = multiboot::find(request.kernel)?;
    if elf::recognises(request.kernel) {
        let image = elf::parse(request.kernel)?;
        return match (image.pvh_entry, header) {
            (Some(entry), _) => pvh::load(request, &image, entry),
            (None, Some(header)) => multiboot::load(request, &header, Some(&image)),
            (None, None) => Err(LoadError::Unsupported(
                "an ELF file with neither a PVH note nor a multiboot header".into(),
            )),
        };
    }
    match header {
        Some(header) => multiboot::load(request, &header, None),
        None => Err(LoadError::NotAKernel),
    }
}

/// A command line as a zero-terminated string.
fn terminated(cmdline: &str) -> Vec<u8> {
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
