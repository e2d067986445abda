//! The control queue (5.1.6.5).

use super::filter::MAX_ADDRESSES;
use super::{Mac, Net, feature};
use crate::virtio::{Chain, ChainError};

/// VIRTIO_NET_OK and VIRTIO_NET_ERR.
const OK: u8 = 0;
const ERR: u8 = 1;

/// Classes of commands.
mod class {
    pub const RX: u8 = 0;
    pub const MAC: u8 = 1;
    pub const MQ: u8 = 4;
    pub const GUEST_OFFLOADS: u8 = 5;
}

/// The command was refused, or makes no sense.
struct Refused;

impl From<ChainError> for Refused {
    fn from(_: ChainError) -> Self {
        Self
    }
}

impl Net {
    /// Carries out what is in the control queue.
    pub(super) fn control(&mut self) {
        let number = self.control_queue();
        while let Some(mut chain) = self.life.as_mut().and_then(|life| life.queues.get(number)?.pop()) {
            let ack = if self.command(&mut chain).is_ok() { OK } else { ERR };
            let written = u32::from(chain.write(&[ack]).is_ok());
            if let Some(queue) = self.life.as_mut().and_then(|life| life.queues.get(number)) {
                queue.finish(chain, written);
            }
        }
    }

    fn command(&mut self, chain: &mut Chain) -> Result<(), Refused> {
        let features = self.life.as_ref().map_or(0, |life| life.features);
        let agreed = |feature: u64| if features & feature != 0 { Ok(()) } else { Err(Refused) };
        let [class, command] = chain.read_array()?;
        match (class, command) {
            (class::RX, 0..=1) => agreed(feature::CTRL_RX)?,
            (class::RX, 2..=5) => agreed(feature::CTRL_RX_EXTRA)?,
            (class::MAC, 0) => agreed(feature::CTRL_RX)?,
            (class::MAC, 1) => agreed(feature::CTRL_MAC_ADDR)?,
            (class::MQ, 0) => agreed(feature::MQ)?,
            (class::GUEST_OFFLOADS, 0) => agreed(feature::CTRL_GUEST_OFFLOADS)?,
            _ => return Err(Refused),
        }
        match (class, command) {
            (class::RX, mode) => {
                let [on] = chain.read_array()?;
                let filter = &mut self.filter;
                let modes = [
                    &mut filter.promiscuous,
                    &mut filter.all_multicast,
                    &mut filter.all_unicast,
                    &mut filter.no_multicast,
                    &mut filter.no_unicast,
                    &mut filter.no_broadcast,
                ];
                if let Some(mode) = modes.into_iter().nth(mode.into()) {
                    *mode = on != 0;
                }
            }
            // VIRTIO_NET_CTRL_MAC_TABLE_SET
            (class::MAC, 0) => {
                // Both, or neither.
                let (unicast, multicast) = (table(chain)?, table(chain)?);
                (self.filter.unicast, self.filter.multicast) = (unicast, multicast);
            }
            // VIRTIO_NET_CTRL_MAC_ADDR_SET
            (class::MAC, _) => self.mac = chain.read_array()?,
            // VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET
            (class::MQ, _) => {
                let pairs = u16::from_le_bytes(chain.read_array()?);
                if !(1..=self.config.queue_pairs).contains(&pairs) {
                    return Err(Refused);
                }
                self.pairs = pairs;
            }
            // VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET
            _ => {
                let offloads = u64::from_le_bytes(chain.read_array()?);
                if offloads & !(features & feature::GUEST) != 0 {
                    return Err(Refused);
                }
                self.set_guest_offloads(offloads);
            }
        }
        Ok(())
    }
}

/// `struct virtio_net_ctrl_mac`: a count, and as many addresses. `None` if they are more than are kept.
fn table(chain: &mut Chain) -> Result<Option<Vec<Mac>>, Refused> {
    let count = u32::from_le_bytes(chain.read_array()?) as usize;
    if count > MAX_ADDRESSES {
        chain.skip_readable(count.checked_mul(size_of::<Mac>()).ok_or(Refused)?)?;
        return Ok(None);
    }
    let mut table = Vec::with_capacity(count);
    for _ in 0..count {
        table.push(chain.read_array()?);
    }
    Ok(Some(table))
}
