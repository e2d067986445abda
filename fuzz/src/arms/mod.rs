//! Each virtio device with a host that answers late, out of order or not at all, and holds the device to what it
//! promises. A new device is a module here and a row in [`ALL`].

mod balloon;
mod block;
mod console;
mod fs;
mod net;
mod rng;
mod socket;

use std::sync::{Arc, Mutex};

use devices::virtio::{Doorbell, VirtioDevice};
use memory::GuestRam;
use savestate::Persist;

use crate::driver::Driver;
use crate::forge::Forge;
use crate::input::Input;

pub use block::block;
pub use net::net;

/// Makes a device in this RAM; the byte chooses how it is configured.
pub type Make = fn(&GuestRam, u8) -> Arm;

/// Every device.
pub const ALL: &[Make] = &[rng::rng, block, net, console::console, balloon::balloon, socket::socket, fs::fs];

/// A device and its host.
pub struct Arm {
    /// The device.
    pub device: Arc<Mutex<dyn VirtioDevice>>,
    /// How it is told of notifications.
    pub doorbell: Arc<dyn Doorbell>,
    /// What it saves beside its transport, restored after that.
    pub state: Option<Box<dyn Forge>>,
    /// Its host.
    pub host: Box<dyn Host>,
}

/// The far side of a device, and what a sound driver asks of it.
pub trait Host {
    /// Does something to the device, as the input will have it.
    fn act(&mut self, input: &mut Input);

    /// Makes a request as a sound driver would; says in which queue. With an input that is at its end it is one that
    /// every device answers once its host has [settled](Self::settle).
    fn request(&mut self, driver: &mut Driver, input: &mut Input) -> u16;

    /// Ends what has begun: nothing is in flight afterwards.
    fn settle(&mut self);
}

impl Arm {
    /// A device that works where it is notified and has no state but its queues'.
    fn new<T: VirtioDevice + 'static>(device: &Arc<Mutex<T>>, host: impl Host + 'static) -> Self {
        Self { device: device.clone(), doorbell: device.clone(), state: None, host: Box::new(host) }
    }

    /// The same with a state of its own.
    fn with_state<T: VirtioDevice + Persist + 'static>(
        device: &Arc<Mutex<T>>,
        host: impl Host + 'static,
    ) -> Self {
        Self { state: Some(Box::new(device.clone())), ..Self::new(device, host) }
    }
}
