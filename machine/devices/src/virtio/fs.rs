//! The file system device (5.11): FUSE requests from the guest, and the answers of whoever serves them.
//!
//! Requests are not looked into here: [`FileSystem::take`] hands one out as bytes, [`FileSystem::answer`] gives the
//! driver what came of it. Whoever serves takes one when it has time for it, so what waits is in the ring. The queue for
//! what must not wait behind others (FORGET, INTERRUPT) comes first.
//!
//! # Saving
//! The device has no state but its queues'. What the numbers in the driver's requests mean is known to whoever serves
//! them, who says what becomes of that.
//!
//! Not modelled: notifications by the device (VIRTIO_FS_F_NOTIFICATION), the shared memory region (DAX).

use super::{Activation, Chain, DeviceType, QueuePosition, Queues, VirtioDevice, read_structure};

/// Length of `tag` in the configuration.
pub const TAG: usize = 36;
/// The queue for what must not wait.
const HIPRIO: u16 = 0;
/// Queues for requests: one, as one processor fills it; whoever serves takes several requests from it at a time.
const REQUEST_QUEUES: u32 = 1;
/// Room for the largest request and its answer, 256 pages and headers, in buffers of a page; a power of two.
const QUEUE_SIZE: u16 = 512;
/// Length of `struct fuse_in_header`, without which nothing is a request.
const REQUEST_HEADER: u32 = 40;

/// A request that has been taken, to be answered.
#[derive(Debug)]
pub struct Taken {
    queue: u16,
    chain: Chain,
    life: u64,
    /// Bytes there is room for in the answer.
    pub room: usize,
    /// Another request waits.
    pub more: bool,
}

/// The device.
pub struct FileSystem {
    // Configuration.
    tag: [u8; TAG],
    /// The longest request that is any good.
    most: usize,
    // Volatile state.
    queues: Queues,
    /// Counts resets: what was taken before one is not answered after it.
    life: u64,
}

impl FileSystem {
    /// A device that the guest finds by this tag, of which 36 bytes count. Requests longer than `most` are answered
    /// with nothing.
    pub fn new(tag: &str, most: usize) -> Self {
        let mut bytes = [0; TAG];
        let length = tag.len().min(TAG);
        bytes[..length].copy_from_slice(&tag.as_bytes()[..length]);
        Self { tag: bytes, most, queues: Queues::default(), life: 0 }
    }

    /// Takes the next request and puts it into `request`. What is no request at all goes back to the driver at once.
    pub fn take(&mut self, request: &mut Vec<u8>) -> Option<Taken> {
        for number in HIPRIO..=REQUEST_QUEUES as u16 {
            let Some(queue) = self.queues.get(number) else { continue };
            while let Some(mut chain) = queue.pop() {
                let length = chain.readable();
                request.resize((length as usize).min(self.most), 0);
                if length < REQUEST_HEADER || length as usize > self.most || chain.read(request).is_err() {
                    queue.finish(chain, 0);
                    continue;
                }
                let (room, more) = (chain.writable() as usize, queue.has_more());
                return Some(Taken { queue: number, chain, life: self.life, room, more });
            }
        }
        None
    }

    /// Gives the driver the answer to a request, which may be nothing.
    pub fn answer(&mut self, taken: Taken, reply: &[u8]) {
        let Taken { queue, mut chain, life, .. } = taken;
        let Some(queue) = self.queues.get(queue).filter(|_| life == self.life) else { return };
        // Where there is no room for it, or no memory, the driver finds that nothing has been written.
        let written = match chain.write(reply) {
            Ok(()) => reply.len() as u32,
            Err(_) => 0,
        };
        queue.finish(chain, written);
    }
}

impl VirtioDevice for FileSystem {
    fn device_type(&self) -> DeviceType {
        DeviceType::FileSystem
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 1 + REQUEST_QUEUES as usize]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut structure = [0; TAG + 4];
        structure[..TAG].copy_from_slice(&self.tag);
        structure[TAG..].copy_from_slice(&REQUEST_QUEUES.to_le_bytes());
        read_structure(&structure, offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, activation: Activation) {
        self.queues = activation.queues;
    }

    /// Whoever serves takes requests by [`Self::take`]; the doorbell tells them to.
    fn notify(&mut self, _: u16) {}

    fn reset(&mut self) {
        self.queues = Queues::default();
        self.life += 1;
    }

    fn positions(&self) -> Vec<Option<QueuePosition>> {
        self.queues.positions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{Driver, RAM};

    const MOST: usize = 4096;

    fn active(driver: &Driver) -> FileSystem {
        let mut device = FileSystem::new("share0", MOST);
        device.activate(driver.activation());
        device
    }

    #[test]
    fn the_configuration_has_the_tag() {
        let device = FileSystem::new("share0", MOST);
        let mut config = [0xff; 44];
        device.read_config(0, &mut config);
        let expected = [&b"share0"[..], &[0; 30], &[1, 0, 0, 0], &[0; 4]].concat();
        assert_eq!(config, expected[..]);
        let long = FileSystem::new(&"x".repeat(50), MOST);
        long.read_config(0, &mut config);
        assert_eq!(config[..40], [&[b'x'; 36][..], &[1, 0, 0, 0]].concat());
    }

    #[test]
    fn requests_are_answered_in_any_order() {
        let mut driver = Driver::with_queues(8, 2);
        let mut device = active(&driver);
        driver.ram().write(0x8000, &[1; 40]).unwrap();
        driver.ram().write(0x9000, &[2; 50]).unwrap();
        let first = driver.offer_in(1, &[(0x8000, 40)], &[(0xa000, 16), (0xb000, 16)]);
        let second = driver.offer_in(1, &[(0x8000, 40), (0x9000, 10)], &[(0xc000, 16)]);
        // Comes last and is taken first.
        let forget = driver.offer_in(0, &[(0x9000, 48)], &[]);
        let mut request = Vec::new();
        let urgent = device.take(&mut request).unwrap();
        assert_eq!((urgent.room, urgent.more, &request[..]), (0, false, &[2; 48][..]));
        let one = device.take(&mut request).unwrap();
        assert_eq!((one.room, one.more, &request[..]), (32, true, &[1; 40][..]));
        let two = device.take(&mut request).unwrap();
        assert_eq!((two.room, two.more), (16, false));
        assert_eq!(request, [&[1; 40][..], &[2; 10]].concat());
        assert!(device.take(&mut request).is_none());
        device.answer(two, &[7; 16]);
        device.answer(urgent, &[]);
        device.answer(one, &[9; 20]);
        assert_eq!(driver.used_in(1), [(second, 16), (first, 20)]);
        assert_eq!(driver.used_in(0), [(forget, 0)]);
        let mut answer = [0; 5];
        driver.ram().read(0xb000, &mut answer).unwrap();
        assert_eq!(answer, [9, 9, 9, 9, 0]);
    }

    #[test]
    fn what_is_no_request_goes_back() {
        let mut driver = Driver::with_queues(16, 2);
        let mut device = active(&driver);
        let short = driver.offer_in(1, &[(0x8000, 39)], &[(0x9000, 16)]);
        let long = driver.offer_in(1, &[(0x8000, u32::MAX)], &[(0x9000, 16)]);
        let wild = driver.offer_in(1, &[(RAM - 8, 40)], &[(0x9000, 16)]);
        let none = driver.offer_in(1, &[], &[(0x9000, 16)]);
        let good = driver.offer_in(1, &[(0x8000, MOST as u32)], &[(RAM - 8, 16)]);
        let mut request = Vec::new();
        let taken = device.take(&mut request).unwrap();
        assert_eq!(request.len(), MOST);
        device.answer(taken, &[0; 16]);
        assert_eq!(driver.used_in(1), [(short, 0), (long, 0), (wild, 0), (none, 0), (good, 0)]);
        assert!(!driver.needs_reset());
    }

    #[test]
    fn a_reset_forgets_what_was_taken() {
        let mut driver = Driver::with_queues(8, 2);
        let mut device = active(&driver);
        driver.offer_in(1, &[(0x8000, 40)], &[(0x9000, 16)]);
        let taken = device.take(&mut Vec::new()).unwrap();
        device.reset();
        device.activate(driver.activation());
        device.answer(taken, &[1; 16]);
        assert_eq!(driver.used_in(1), []);
    }

    /// Rings and descriptors of noise: whatever a driver writes, taking ends, and every request that is taken can be
    /// answered.
    #[test]
    fn noise_in_the_rings_is_survived() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for _ in 0..2000 {
            let mut driver = Driver::new(16);
            let mut device = active(&driver);
            for index in 0..16 {
                let gpa = [random(RAM), RAM - 8, random(u64::MAX)][random(3) as usize];
                let len = [40, random(5000), random(1 << 32)][random(3) as usize] as u32;
                // NEXT, WRITE, INDIRECT, and bits that mean nothing.
                let flags = [1, 3, 0, 2, 4, random(1 << 16)][random(6) as usize] as u16;
                driver.describe(index, gpa, len, flags, random(20) as u16);
            }
            for _ in 0..random(20) {
                driver.make_available(random(18) as u16);
            }
            let (mut request, mut taken) = (Vec::new(), Vec::new());
            while let Some(one) = device.take(&mut request) {
                assert!((REQUEST_HEADER as usize..=MOST).contains(&request.len()));
                taken.push(one);
            }
            assert!(taken.len() <= 20);
            for one in taken {
                let reply = vec![0; one.room.min(5000)];
                device.answer(one, &reply);
            }
        }
    }
}
