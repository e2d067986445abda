//! From what is said of devices to devices with their back-ends.

use std::sync::Arc;

use board::virtio::{Peripheral, Rng};

use crate::definition::Definition;
use crate::disk;
use crate::error::CliError;

/// Opens all that is plugged in, in the order in which the guest finds it.
pub fn open(definition: &Definition) -> Result<Vec<Arc<dyn Peripheral>>, CliError> {
    let mut all: Vec<Arc<dyn Peripheral>> = vec![Arc::new(Rng)];
    for spec in &definition.disk {
        all.push(Arc::new(disk::open(spec)?));
    }
    Ok(all)
}
