//! The entropy device (5.4): fills the driver's buffers with random bytes.

use super::{Activation, DeviceType, QueuePosition, Queues, VirtioDevice};

/// At most so many bytes for one buffer: a driver that asks for gigabytes is given fewer, as 5.4.6.1 allows.
const MOST: u32 = 64 << 10;

/// Where random bytes come from.
pub trait Entropy: Send {
    /// Fills all of `bytes`; `false` if there is no randomness to be had.
    fn fill(&mut self, bytes: &mut [u8]) -> bool;
}

/// The device.
pub struct Rng {
    // Wiring.
    entropy: Box<dyn Entropy>,
    // Volatile state.
    queues: Queues,
}

impl Rng {
    /// A device that draws on this.
    pub fn new(entropy: Box<dyn Entropy>) -> Self {
        Self { entropy, queues: Queues::default() }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64]
    }

    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, activation: Activation) {
        self.queues = activation.queues;
    }

    fn notify(&mut self, queue: u16) {
        let Some(queue) = self.queues.get(queue) else { return };
        while let Some(mut chain) = queue.pop() {
            let mut bytes = vec![0; chain.writable().min(MOST) as usize];
            let written = match self.entropy.fill(&mut bytes) && chain.write(&bytes).is_ok() {
                // No more than MOST.
                true => bytes.len() as u32,
                false => 0,
            };
            queue.finish(chain, written);
        }
    }

    fn reset(&mut self) {
        self.queues = Queues::default();
    }

    fn positions(&self) -> Vec<Option<QueuePosition>> {
        self.queues.positions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::Driver;

    struct Counting(u8);

    impl Entropy for Counting {
        fn fill(&mut self, bytes: &mut [u8]) -> bool {
            for byte in bytes {
                self.0 = self.0.wrapping_add(1);
                *byte = self.0;
            }
            self.0 != 0
        }
    }

    #[test]
    fn buffers_are_filled() {
        let mut driver = Driver::new(8);
        let mut rng = Rng::new(Box::new(Counting(0)));
        rng.activate(driver.activation());
        let head = driver.offer(&[], &[(0x8000, 3), (0x9000, 2)]);
        let wild = driver.offer(&[], &[(u64::MAX - 9, 8)]);
        let large = driver.offer(&[], &[(0x1_0000, u32::MAX)]);
        rng.notify(0);
        assert_eq!(driver.used(), [(head, 5), (wild, 0), (large, 65536)]);
        let mut bytes = [0; 3];
        driver.ram().read(0x8000, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3]);
        rng.notify(1);
        rng.reset();
        driver.offer(&[], &[(0x8000, 3)]);
        rng.notify(0);
        assert_eq!(driver.used(), []);
    }
}
