//! The port bus and the memory-mapped bus: who answers at which address.
//!
//! Claims may come and go while the machine runs (a PCI base address register moves); a claim that would
//! overlap another is an error to whoever made it. What nobody claims reads as ones and swallows writes, as
//! on a PC's bus.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use thiserror::Error;

use crate::wiring::{MmioDevice, PortDevice, lock};

/// Why a claim was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BusError {
    /// Someone is there already.
    #[error("{name} at {first:#x}..={last:#x} overlaps {other}")]
    Overlap {
        /// Who came second.
        name: &'static str,
        /// First address wanted.
        first: u64,
        /// Last address wanted.
        last: u64,
        /// Who came first.
        other: &'static str,
    },
    /// The range has no address in it, or reaches past the end of the address space.
    #[error("the range of {name} is empty or too long")]
    Range {
        /// Who wanted it.
        name: &'static str,
    },
    /// All 254 claims of the port bus are taken.
    #[error("no room for {name}: the port bus has too many claims")]
    Full {
        /// Who wanted it.
        name: &'static str,
    },
}

/// A device as the port bus shares it among vCPU threads.
pub type SharedPortDevice = Arc<Mutex<dyn PortDevice>>;

/// A device as the memory-mapped bus shares it among vCPU threads.
pub type SharedMmioDevice = Arc<Mutex<dyn MmioDevice>>;

#[derive(Clone)]
struct PortClaim {
    name: &'static str,
    first: u16,
    last: u16,
    /// The register number at `first`.
    register: u16,
    width: u8,
    device: SharedPortDevice,
}

struct PortTable {
    /// One more than the index into `claims`, by port; 0 is nobody.
    owner: Box<[u8; 0x1_0000]>,
    /// The same for accesses of one byte only; takes precedence.
    byte_owner: Vec<(u16, u8)>,
    claims: Vec<Option<PortClaim>>,
}

impl PortTable {
    fn find(&self, port: u16, size: u8) -> Option<&PortClaim> {
        let mut slot = self.owner[usize::from(port)];
        if size == 1
            && let Some(&(_, byte_slot)) = self.byte_owner.iter().find(|(p, _)| *p == port)
        {
            slot = byte_slot;
        }
        self.claims[usize::from(slot).checked_sub(1)?].as_ref()
    }

    fn enter(&mut self, claim: PortClaim) -> Result<u8, BusError> {
        let free = self.claims.iter().position(Option::is_none);
        let index = free.unwrap_or(self.claims.len());
        let slot = u8::try_from(index + 1).map_err(|_| BusError::Full { name: claim.name })?;
        if index == self.claims.len() {
            self.claims.push(Some(claim));
        } else {
            self.claims[index] = Some(claim);
        }
        Ok(slot)
    }
}

/// The 64 Ki ports of IN and OUT.
pub struct PortBus {
    table: RwLock<PortTable>,
}

impl Default for PortBus {
    fn default() -> Self {
        Self::new()
    }
}

impl PortBus {
    /// A bus with nobody on it.
    pub fn new() -> Self {
        let owner = vec![0; 0x1_0000].into_boxed_slice();
        Self {
            table: RwLock::new(PortTable {
                owner: owner.try_into().expect("64 Ki ports"),
                byte_owner: Vec::new(),
                claims: Vec::new(),
            }),
        }
    }

    /// Gives `device` these ports; at the first of them it sees register number `register`.
    pub fn claim(
        &self,
        name: &'static str,
        ports: RangeInclusive<u16>,
        register: u16,
        device: SharedPortDevice,
    ) -> Result<(), BusError> {
        let (first, last) = (*ports.start(), *ports.end());
        if first > last || register.checked_add(last - first).is_none() {
            return Err(BusError::Range { name });
        }
        let width = lock(&device).width();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for port in first..=last {
            if let Some(other) = table.find(port, 4) {
                return Err(BusError::Overlap {
                    name,
                    first: first.into(),
                    last: last.into(),
                    other: other.name,
                });
            }
        }
        let slot = table.enter(PortClaim { name, first, last, register, width, device })?;
        table.owner[usize::from(first)..=usize::from(last)].fill(slot);
        Ok(())
    }

    /// Gives `device` the accesses of one byte at `port`, over the head of whoever has the port otherwise:
    /// the reset control register lies so inside PCI's address register.
    pub fn claim_byte(
        &self,
        name: &'static str,
        port: u16,
        register: u16,
        device: SharedPortDevice,
    ) -> Result<(), BusError> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.byte_owner.iter().any(|(p, _)| *p == port) {
            let other = table.find(port, 1).map_or("another", |claim| claim.name);
            return Err(BusError::Overlap { name, first: port.into(), last: port.into(), other });
        }
        let slot = table.enter(PortClaim { name, first: port, last: port, register, width: 1, device })?;
        table.byte_owner.push((port, slot));
        Ok(())
    }

    /// Ends the claim that begins at `first`, if there is one.
    pub fn release(&self, first: u16) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let slot = table.owner[usize::from(first)];
        let Some(index) = usize::from(slot).checked_sub(1) else {
            return;
        };
        if let Some(claim) = table.claims[index].take_if(|claim| claim.first == first) {
            table.owner[usize::from(claim.first)..=usize::from(claim.last)].fill(0);
        }
    }

    /// Finds who answers an access of `size` bytes at `port`, if it takes that in one. The claim is cloned out
    /// so that a device may change the bus while it is accessed.
    fn find(&self, port: u16, size: u8) -> Found {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        match table.find(port, size) {
            Some(claim)
                if size == 1
                    || (size <= claim.width
                        && port.is_multiple_of(u16::from(size))
                        && claim.last - port >= u16::from(size) - 1) =>
            {
                Found::Whole(claim.device.clone(), claim.register.wrapping_add(port - claim.first))
            }
            None if size == 1 => Found::Nobody,
            // Perhaps the next port is somebody's.
            None | Some(_) => Found::Split,
        }
    }

    /// IN: `size` is 1, 2 or 4.
    pub fn read(&self, port: u16, size: u8) -> u32 {
        match self.find(port, size) {
            Found::Whole(device, register) => lock(&device).read(register, size) & ones(size),
            Found::Nobody => ones(size),
            Found::Split => {
                let half = size / 2;
                let low = self.read(port, half);
                let high = self.read(port.wrapping_add(half.into()), half);
                low | high << (half * 8)
            }
        }
    }

    /// OUT: `size` is 1, 2 or 4.
    pub fn write(&self, port: u16, size: u8, value: u32) {
        match self.find(port, size) {
            Found::Whole(device, register) => {
                lock(&device).write(register, size, value & ones(size));
            }
            Found::Nobody => {}
            Found::Split => {
                let half = size / 2;
                self.write(port, half, value & ones(half));
                self.write(port.wrapping_add(half.into()), half, value >> (half * 8));
            }
        }
    }
}

enum Found {
    Whole(SharedPortDevice, u16),
    Split,
    Nobody,
}

/// All ones in `size` bytes.
fn ones(size: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)))
}

struct MmioClaim {
    name: &'static str,
    first: u64,
    last: u64,
    device: SharedMmioDevice,
}

/// Guest-physical memory that is not RAM.
#[derive(Default)]
pub struct MmioBus {
    /// By address.
    claims: RwLock<Vec<MmioClaim>>,
}

impl MmioBus {
    /// A bus with nobody on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `device` the `length` bytes at `first`.
    pub fn claim(
        &self,
        name: &'static str,
        first: u64,
        length: u64,
        device: SharedMmioDevice,
    ) -> Result<(), BusError> {
        let last =
            length.checked_sub(1).and_then(|rest| first.checked_add(rest)).ok_or(BusError::Range { name })?;
        let mut claims = self.claims.write().unwrap_or_else(PoisonError::into_inner);
        let at = claims.partition_point(|claim| claim.last < first);
        if let Some(other) = claims.get(at).filter(|claim| claim.first <= last) {
            return Err(BusError::Overlap { name, first, last, other: other.name });
        }
        claims.insert(at, MmioClaim { name, first, last, device });
        Ok(())
    }

    /// Ends the claim that begins at `first`, if there is one.
    pub fn release(&self, first: u64) {
        let mut claims = self.claims.write().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|claim| claim.first != first);
    }

    /// Who answers at `address`, with the offset there; and how many of `length` bytes lie with them (or, if
    /// nobody, before somebody else begins).
    fn find(&self, address: u64, length: usize) -> (Option<(SharedMmioDevice, u64)>, usize) {
        let claims = self.claims.read().unwrap_or_else(PoisonError::into_inner);
        let at = claims.partition_point(|claim| claim.last < address);
        let within = |room: u64| usize::try_from(room).map_or(length, |room| room.min(length));
        match claims.get(at) {
            Some(claim) if claim.first <= address => (
                Some((claim.device.clone(), address - claim.first)),
                within((claim.last - address).saturating_add(1)),
            ),
            Some(claim) => (None, within(claim.first - address)),
            None => (None, length),
        }
    }

    /// Reads `data.len()` bytes.
    pub fn read(&self, mut address: u64, mut data: &mut [u8]) {
        while !data.is_empty() {
            let (owner, length) = self.find(address, data.len());
            let (part, rest) = data.split_at_mut(length);
            match owner {
                Some((device, offset)) => lock(&device).read(offset, part),
                None => part.fill(0xff),
            }
            address = address.wrapping_add(length as u64);
            data = rest;
        }
    }

    /// Writes `data`.
    pub fn write(&self, mut address: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let (owner, length) = self.find(address, data.len());
            let (part, rest) = data.split_at(length);
            if let Some((device, offset)) = owner {
                lock(&device).write(offset, part);
            }
            address = address.wrapping_add(length as u64);
            data = rest;
        }
    }
}

#[cfg(test)]
mod tests;
