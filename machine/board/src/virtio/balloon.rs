//! The balloon, and the handle by which the VM's owner moves it.
//!
//! Every machine should have one: it costs nothing until a target is set.
//!
//! ```
//! use std::sync::Arc;
//!
//! let balloon = Arc::new(board::virtio::Balloon::new()?);
//! let peripherals: Vec<Arc<dyn board::virtio::Peripheral>> = vec![balloon.clone()];
//! // Later, from any thread: take 256 MiB from the guest.
//! balloon.set_target(256 << 20);
//! # drop(peripherals);
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io;
use std::sync::{Arc, Mutex};

use backends::Worker;
use devices::virtio::VirtioDevice;
use devices::virtio::balloon::{self, Statistics};
use devices::wiring::lock;
use memory::GuestRam;

use super::{Attached, Peripheral, WorkerDoorbell};

/// The device of this life, and what outlives it.
#[derive(Default)]
struct State {
    device: Option<Arc<Mutex<balloon::Balloon>>>,
    target: u64,
}

/// A balloon. Giving memory back to the host takes its time, which a thread takes.
pub struct Balloon {
    worker: Worker,
    state: Arc<Mutex<State>>,
}

impl Balloon {
    /// An empty balloon.
    pub fn new() -> io::Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let current = state.clone();
        let worker = Worker::start("balloon", move |asked| {
            // Held meanwhile, for `detach` to wait for.
            if let Some(device) = &lock(&current).device {
                let mut device = lock(device);
                (0..4).filter(|queue| asked & 1 << queue != 0).for_each(|queue| device.notify(queue));
            }
        })?;
        Ok(Self { worker, state })
    }

    /// Sets how many bytes the guest should be without; it gives them up as it can, and gets them back when this is
    /// less. It holds for later lives, too.
    pub fn set_target(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.target = bytes;
        if let Some(device) = &state.device {
            lock(device).set_target(bytes);
        }
    }

    /// How many bytes it should be without.
    pub fn target(&self) -> u64 {
        lock(&self.state).target
    }

    /// How many bytes the guest is without now, as it says.
    pub fn size(&self) -> u64 {
        lock(&self.state).device.as_ref().map_or(0, |device| lock(device).size())
    }

    /// What the guest last said of its memory; asks it anew, which the next call finds.
    pub fn statistics(&self) -> Option<Statistics> {
        lock(&self.state).device.as_ref().and_then(|device| lock(device).statistics())
    }
}

impl Peripheral for Balloon {
    fn attach(&self, ram: &GuestRam) -> Attached {
        let mut balloon = balloon::Balloon::new(ram);
        let mut state = lock(&self.state);
        balloon.set_target(state.target);
        let device = Arc::new(Mutex::new(balloon));
        state.device = Some(device.clone());
        Attached::with_state(&device).with_doorbell(Arc::new(WorkerDoorbell(self.worker.bell())))
    }

    fn detach(&self) {
        lock(&self.state).device = None;
    }
}
