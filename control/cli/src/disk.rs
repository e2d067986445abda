//! Disks of `popf run`, and `popf image create`.

use std::path::{Path, PathBuf};

use backends::disk::{self, Access, DiskError, Format, OpenOptions};
use board::virtio::Disk;
use clap::Args;

use crate::error::CliError;
use crate::exit::Failure;
use crate::size::Size;
use crate::spec::disk::{DiskFormat, DiskSpec};

impl From<DiskFormat> for Format {
    fn from(format: DiskFormat) -> Self {
        match format {
            DiskFormat::Raw => Self::Raw,
            DiskFormat::Qcow2 => Self::Qcow2,
            DiskFormat::Vmdk => Self::Vmdk,
        }
    }
}

/// Opens and locks a disk.
pub fn open(spec: &DiskSpec) -> Result<Disk, CliError> {
    let access = match (spec.readonly, spec.snapshot) {
        (true, _) => Access::ReadOnly,
        (_, true) => Access::Snapshot,
        _ => Access::ReadWrite,
    };
    let options = OpenOptions { format: spec.format.map(Format::from), access };
    Disk::open(&spec.path, &options, spec.serial.as_deref().unwrap_or_default(), spec.queues)
        .map_err(disk_error)
}

/// `popf image create`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  popf image create data.qcow2 20G\n  \
                        popf image create mine.qcow2 --backing base.img --backing-format raw")]
pub struct CreateArgs {
    /// The new image; nothing is overwritten.
    pub path: PathBuf,
    /// The disk's size: bytes, or with K, M, G, T.
    #[arg(required_unless_present = "backing", conflicts_with = "backing")]
    pub size: Option<Size>,
    /// An image that the new one begins as a copy of; it must not be written any more.
    #[arg(long, value_name = "IMAGE", requires = "backing_format")]
    pub backing: Option<PathBuf>,
    /// The format of that image: raw or qcow2.
    #[arg(long, value_name = "FORMAT", requires = "backing")]
    pub backing_format: Option<DiskFormat>,
}

/// Makes a qcow2 image.
pub fn create(args: &CreateArgs) -> Result<(), CliError> {
    let made = match (&args.backing, args.backing_format, args.size) {
        (Some(backing), Some(format), _) => disk::create_overlay(&args.path, backing, format.into()),
        (_, _, Some(size)) => create_empty(&args.path, size),
        _ => return Err(CliError::new(Failure::Usage, "give a size, or --backing and --backing-format")),
    };
    made.map_err(disk_error)
}

fn create_empty(path: &Path, size: Size) -> Result<(), DiskError> {
    // Disks have whole sectors.
    disk::create(path, size.0.next_multiple_of(disk::SECTOR))
}

/// As the user sees it.
pub fn disk_error(error: DiskError) -> CliError {
    let failure = match &error {
        DiskError::Open { .. } | DiskError::Kind(_) => Failure::NoInput,
        DiskError::Image { .. } | DiskError::Backing { .. } => Failure::Data,
        DiskError::InUse { .. } => Failure::Busy,
        _ => Failure::Host,
    };
    CliError::new(failure, error.to_string()).because(error)
}
