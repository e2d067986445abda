//! What the fuzz targets share: a driver of virtio devices that does anything, the devices with their hosts, and forged
//! saved states.

pub mod arms;
pub mod driver;
pub mod forge;
pub mod input;
pub mod program;
mod watch;
