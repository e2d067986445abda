//! The traditional memory balloon (5.5): the guest lends memory back to the host.
//!
//! The host sets a target; the driver takes so many pages out of use and names them in the inflate queue, and they go
//! back to the host ([`GuestRam::discard`]). A page that is let out of the balloon again is there when it is touched,
//! so the deflate queue needs nothing but an answer, and a guest short of memory may take pages back unasked
//! (DEFLATE_ON_OOM). Apart from that the driver reports pages that are free anyway (F_REPORTING), which go back in the
//! same way without anybody's asking.
//!
//! # What is not believed
//! Page numbers: one that is no RAM is ignored. A guest may name a page that it still uses and finds zeroes there, as
//! it may write them itself; the engine hears of it as of any write. `actual` is only shown.
//!
//! The reporting queue is number 3 and not 4 because free page hints are not offered: drivers number the queues
//! that there are.
//!
//! Not modelled: free page hints and page poisoning (a driver that poisons free pages reports none), large pages.

mod saved;
mod statistics;

pub use saved::BalloonStateV1;
pub use statistics::Statistics;

use std::sync::Arc;

use memory::{GuestRam, PAGE_SIZE};

use super::chain::Chain;
use super::{Activation, DeviceType, Interrupts, QueuePosition, Queues, VirtioDevice, read_structure};

/// VIRTIO_BALLOON_F_STATS_VQ.
const F_STATS_VQ: u64 = 1 << 1;
/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM.
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// VIRTIO_BALLOON_F_REPORTING.
const F_REPORTING: u64 = 1 << 5;

/// Length of every queue; free pages are reported 32 at a time.
const QUEUE_SIZE: u16 = 128;
/// The most pages of one buffer that are given back; drivers name 256. Those beyond stay with the guest, which loses
/// nothing by it.
const MOST_PAGES: usize = 16 << 10;

/// Numbers of the queues.
mod queue {
    pub(super) const INFLATE: u16 = 0;
    pub(super) const DEFLATE: u16 = 1;
    pub(super) const STATISTICS: u16 = 2;
    pub(super) const REPORTING: u16 = 3;
}

/// Where `actual` is in the configuration, behind `num_pages`.
const ACTUAL: usize = 4;

/// The device.
pub struct Balloon {
    // Wiring.
    ram: GuestRam,
    // Volatile state.
    queues: Queues,
    interrupts: Option<Arc<Interrupts>>,
    /// How large the balloon should be, and how large the driver says it is.
    num_pages: u32,
    actual: u32,
    /// The buffer with the last statistics, which goes back to ask for new ones.
    statistics_head: Option<u16>,
    statistics: Option<Statistics>,
}

impl Balloon {
    /// An empty balloon in this RAM.
    pub fn new(ram: &GuestRam) -> Self {
        Self {
            ram: ram.clone(),
            queues: Queues::default(),
            interrupts: None,
            num_pages: 0,
            actual: 0,
            statistics_head: None,
            statistics: None,
        }
    }

    /// Sets how many bytes of memory should be in the balloon; no more than there are.
    pub fn set_target(&mut self, bytes: u64) {
        let pages = bytes.min(self.ram.size()) / PAGE_SIZE;
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        if std::mem::replace(&mut self.num_pages, pages) != pages
            && let Some(interrupts) = &self.interrupts
        {
            interrupts.config_changed();
        }
    }

    /// The target in bytes.
    pub fn target(&self) -> u64 {
        u64::from(self.num_pages) * PAGE_SIZE
    }

    /// How many bytes are in the balloon, as the driver says.
    pub fn size(&self) -> u64 {
        u64::from(self.actual) * PAGE_SIZE
    }

    /// The last statistics; asks for newer ones, which a later call finds. `None` before the driver has given any.
    pub fn statistics(&mut self) -> Option<Statistics> {
        if let Some(queue) = self.queues.get(queue::STATISTICS)
            && let Some(head) = self.statistics_head.take()
        {
            queue.push_head(head, 0);
            queue.interrupt();
        }
        self.statistics
    }

    /// Calls `act` with each buffer of a queue, and gives it back.
    fn serve(&mut self, queue: u16, mut act: impl FnMut(&GuestRam, &mut Chain)) {
        let Some(queue) = self.queues.get(queue) else { return };
        while let Some(mut chain) = queue.pop() {
            act(&self.ram, &mut chain);
            queue.finish(chain, 0);
        }
    }

    /// Keeps the newest buffer, and gives those back that there should not be.
    fn take_statistics(&mut self) {
        let Some(queue) = self.queues.get(queue::STATISTICS) else { return };
        while let Some(mut chain) = queue.pop() {
            let mut bytes = vec![0; (chain.readable() as usize).min(statistics::MOST_BYTES)];
            self.statistics = chain.read(&mut bytes).ok().map(|()| Statistics::parse(&bytes));
            if let Some(earlier) = self.statistics_head.replace(chain.head()) {
                queue.push_head(earlier, 0);
                queue.interrupt();
            }
        }
    }

    fn config(&self) -> [u8; 8] {
        let mut config = [0; 8];
        config[..ACTUAL].copy_from_slice(&self.num_pages.to_le_bytes());
        config[ACTUAL..].copy_from_slice(&self.actual.to_le_bytes());
        config
    }
}

/// Gives back the pages whose numbers stand in a buffer.
fn inflate(ram: &GuestRam, chain: &mut Chain) {
    let count = (chain.readable() as usize / 4).min(MOST_PAGES);
    let mut bytes = vec![0; 4 * count];
    if let Err(error) = chain.read(&mut bytes) {
        tracing::debug!("pages for the balloon: {error}");
        return;
    }
    let numbers = bytes.chunks_exact(4).map(|number| number.try_into().expect("four bytes"));
    let mut pages: Vec<_> = numbers.map(u32::from_le_bytes).collect();
    // Neighbours go together: one call to the host for each run.
    pages.sort_unstable();
    pages.dedup();
    for run in pages.chunk_by(|before, after| before + 1 == *after) {
        discard(ram, u64::from(run[0]) * PAGE_SIZE, run.len() as u64 * PAGE_SIZE);
    }
}

/// Gives back the pages that are themselves the buffers.
fn report(ram: &GuestRam, chain: &mut Chain) {
    while let Some(buffer) = chain.next_writable() {
        discard(ram, buffer.gpa, buffer.len.into());
    }
}

/// Gives back what is RAM of a range, and no more.
fn discard(ram: &GuestRam, gpa: u64, len: u64) {
    for region in ram.regions() {
        let start = gpa.max(region.gpa);
        let end = gpa.saturating_add(len).min(region.gpa + region.len);
        if start < end
            && let Err(error) = ram.discard(start, (end - start) as usize)
        {
            tracing::debug!("{error}");
        }
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn features(&self) -> u64 {
        F_STATS_VQ | F_DEFLATE_ON_OOM | F_REPORTING
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 4]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_structure(&self.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut actual = self.actual.to_le_bytes();
        for (at, to) in (ACTUAL as u64..).zip(&mut actual) {
            let from = at.checked_sub(offset).and_then(|at| data.get(usize::try_from(at).ok()?));
            *to = from.copied().unwrap_or(*to);
        }
        self.actual = u32::from_le_bytes(actual);
    }

    fn activate(&mut self, activation: Activation) {
        self.queues = activation.queues;
        self.interrupts = Some(activation.interrupts);
    }

    fn notify(&mut self, queue: u16) {
        match queue {
            queue::INFLATE => self.serve(queue, inflate),
            queue::DEFLATE => self.serve(queue, |_, _| {}),
            queue::STATISTICS => self.take_statistics(),
            queue::REPORTING => self.serve(queue, report),
            _ => {}
        }
    }

    /// The target stays: it is the host's.
    fn reset(&mut self) {
        self.queues = Queues::default();
        self.interrupts = None;
        self.actual = 0;
        self.statistics_head = None;
        self.statistics = None;
    }

    fn positions(&self) -> Vec<Option<QueuePosition>> {
        self.queues.positions()
    }
}

#[cfg(test)]
mod tests;
