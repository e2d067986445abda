//! From what is said of devices to devices with their back-ends.

use std::path::Path;
use std::sync::Arc;

use board::virtio::{Peripheral, Rng};
use vms::Claim;

use super::overlay;
use crate::definition::Definition;
use crate::disk;
use crate::error::CliError;
use crate::net;
use crate::spec::disk::{DiskFormat, DiskSpec};

/// Opens all that is plugged in, in the order in which the guest finds it. An image's disk comes first, as `disk`.
pub fn open(
    definition: &Definition,
    disk: Option<&Path>,
    claim: &mut Claim,
) -> Result<Vec<Arc<dyn Peripheral>>, CliError> {
    let mut all: Vec<Arc<dyn Peripheral>> = vec![Arc::new(Rng)];
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
    Ok(all)
}
