//! From what is said of devices to devices with their back-ends.

use std::path::Path;
use std::sync::Arc;

use backends::share::{ShareConfig, ShareError};
use board::machine::Control;
use board::virtio::{Balloon, Peripheral, Rng, Share, Socket};
use vms::Claim;

use super::overlay;
use super::serial::Lines;
use crate::definition::Definition;
use crate::disk;
use crate::error::CliError;
use crate::exit::Failure;
use crate::net;
use crate::spec::disk::{DiskFormat, DiskSpec};
use crate::spec::volume::VolumeSpec;

/// What is plugged in.
pub struct Devices {
    /// In the order in which the guest finds it.
    pub peripherals: Vec<Arc<dyn Peripheral>>,
    /// One of them.
    pub balloon: Arc<Balloon>,
}

/// Opens all that is plugged in. An image's disk comes first of the disks, as `disk`.
pub fn open(
    definition: &Definition,
    disk: Option<&Path>,
    claim: &mut Claim,
    control: &Control,
    lines: &Lines,
) -> Result<Devices, CliError> {
    let balloon = Balloon::new()
        .map_err(|error| CliError::new(Failure::Host, "there is no thread for the balloon").because(error))?;
    let balloon = Arc::new(balloon);
    let socket = Socket::listen(&claim.path(vms::VSOCK_SOCKET)).map_err(|error| {
        CliError::new(Failure::Host, "nobody could reach this VM's sockets").because(error)
    })?;
    let mut all: Vec<Arc<dyn Peripheral>> = vec![Arc::new(Rng), balloon.clone(), Arc::new(socket)];
    if let Some(disk) = disk {
        let layer = overlay::over(disk, claim)?;
        let spec = DiskSpec { format: Some(DiskFormat::Qcow2), ..DiskSpec::new(layer) };
        all.push(Arc::new(disk::open(&spec)?));
    }
    for spec in &definition.disk {
        all.push(Arc::new(disk::open(spec)?));
    }
    for card in net::open(definition, claim)? {
        all.push(Arc::new(card));
    }
    for (index, spec) in definition.volume.iter().enumerate() {
        all.push(Arc::new(share(index, spec)?));
    }
    if let Some(console) = definition.console() {
        all.push(lines.open_console(console, &definition.port, control)?);
    }
    Ok(Devices { peripherals: all, balloon })
}

fn share(index: usize, spec: &VolumeSpec) -> Result<Share, CliError> {
    let config = ShareConfig { path: spec.host.clone(), readonly: spec.readonly };
    Share::open(&VolumeSpec::tag(index), &config).map_err(|error| {
        let failure = match &error {
            ShareError::Folder { .. } => Failure::NoInput,
            _ => Failure::Host,
        };
        CliError::new(failure, error.to_string()).because(error)
    })
}
