//! The entropy device on the host's random numbers.

use std::sync::{Arc, Mutex};

use devices::virtio::rng::{self, Entropy};
use memory::GuestRam;

use super::{Attached, Peripheral};

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng;

impl Peripheral for Rng {
    fn attach(&self, _: &GuestRam) -> Attached {
        Attached::new(&Arc::new(Mutex::new(rng::Rng::new(Box::new(HostEntropy)))))
    }

    fn detach(&self) {}
}

struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        host::entropy::fill(bytes).is_ok()
    }
}
