//! The transport's saved state, with how far the device's queues have got. What a device has beyond that is in a
//! section of its own, which is restored after this one.

use std::sync::atomic::Ordering;

use savestate::{Invalid, NoOlder, Persist, Saved, require};
use serde::{Deserialize, Serialize};

use super::common::QueueRegisters;
use super::{VirtioPci, status};
use crate::pci::ConfigSpaceV1;
use crate::pci::config::command;
use crate::pci::msix::MsixV1;
use crate::virtio::interrupts::{NO_VECTOR, isr};
use crate::virtio::queue::{QueuePosition, check_setup};
use crate::wiring::lock;

/// See [`VirtioPci`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioPciStateV1 {
    pub(super) config: ConfigSpaceV1,
    pub(super) msix: MsixV1,
    pub(super) status: u8,
    pub(super) needs_reset: bool,
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<QueueRegisters>,
    pub(super) config_vector: u16,
    pub(super) queue_vectors: Vec<u16>,
    pub(super) isr: u8,
    pub(super) generation: u8,
    pub(super) positions: Vec<Option<QueuePosition>>,
}

impl Saved for VirtioPciStateV1 {
    const VERSION: u16 = 1;
    type Older = NoOlder;
}

impl Persist for VirtioPci {
    const KIND: &'static str = "virtio-pci";
    type State = VirtioPciStateV1;

    fn save(&self) -> VirtioPciStateV1 {
        let Self {
            device,
            ram: _,
            doorbell: _,
            interrupts,
            message_control: _,
            window: _,
            config,
            common,
            status,
        } = self;
        VirtioPciStateV1 {
            config: config.save(),
            msix: interrupts.msix.save(),
            status: *status,
            needs_reset: interrupts.needs_reset.load(Ordering::Relaxed),
            device_feature_select: common.device_feature_select,
            driver_feature_select: common.driver_feature_select,
            driver_features: common.driver_features,
            queue_select: common.queue_select,
            queues: common.queues.clone(),
            config_vector: interrupts.config_vector.load(Ordering::Relaxed),
            queue_vectors: interrupts
                .queue_vectors
                .iter()
                .map(|vector| vector.load(Ordering::Relaxed))
                .collect(),
            isr: *lock(&interrupts.isr),
            generation: interrupts.generation.load(Ordering::Relaxed),
            positions: lock(device).positions(),
        }
    }

    fn check(&self, state: &VirtioPciStateV1) -> Result<(), Invalid> {
        self.config.check(&state.config)?;
        self.interrupts.msix.check(&state.msix)?;
        require(state.status & !status::WRITABLE == 0, "the device status has reserved bits")?;
        require(state.isr & !(isr::QUEUE | isr::CONFIG) == 0, "the ISR status has reserved bits")?;
        let most = &self.common.most;
        let counts = [state.queues.len(), state.queue_vectors.len()];
        require(
            counts == [most.len(); 2] && state.positions.len() <= most.len(),
            "another number of queues",
        )?;
        for (queue, &most) in state.queues.iter().zip(most) {
            check_setup(&queue.setup, most)?;
        }
        let vectors = self.interrupts.msix.vectors();
        let known = |&vector: &u16| vector < vectors || vector == NO_VECTOR;
        require(
            known(&state.config_vector) && state.queue_vectors.iter().all(known),
            "a vector that does not exist",
        )
    }

    fn commit(&mut self, state: VirtioPciStateV1) {
        let VirtioPciStateV1 {
            config,
            msix,
            status,
            needs_reset,
            device_feature_select,
            driver_feature_select,
            driver_features,
            queue_select,
            queues,
            config_vector,
            queue_vectors,
            isr,
            generation,
            positions,
        } = state;
        self.reset();
        self.config.commit(config);
        self.common.device_feature_select = device_feature_select;
        self.common.driver_feature_select = driver_feature_select;
        self.common.driver_features = driver_features;
        self.common.queue_select = queue_select;
        self.common.queues = queues;
        self.interrupts.config_vector.store(config_vector, Ordering::Relaxed);
        for (to, from) in self.interrupts.queue_vectors.iter().zip(queue_vectors) {
            to.store(from, Ordering::Relaxed);
        }
        self.interrupts.generation.store(generation, Ordering::Relaxed);
        *lock(&self.interrupts.isr) = isr;
        self.interrupts.needs_reset.store(needs_reset, Ordering::Relaxed);
        self.interrupts.msix.commit(msix, self.message_control());
        self.interrupts.mask_line(self.config.command() & command::INTERRUPT_DISABLE != 0);
        self.status = status;
        // A forged state may claim that a device works whose features were never agreed on.
        if self.is_active() && self.common.features_will_do() && !needs_reset {
            self.activate(&positions);
        }
    }
}
