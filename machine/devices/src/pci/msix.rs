//! MSI-X (PCI Local Bus Specification 3.0, 6.8.2): interrupts as messages, one per vector, each with its address and
//! data in a table in the function's memory.
//!
//! Vectors are fired from any thread, so the table has a lock of its own. It is the last before the interrupt
//! controllers' and is never held while a device is called.

use std::sync::{Arc, Mutex};

use savestate::{Invalid, require};
use serde::{Deserialize, Serialize};

use super::ConfigSpace;
use crate::wiring::lock;

/// Capability ID.
const ID: u8 = 0x11;
/// Length of a table entry.
const ENTRY: u64 = 16;
/// Most vectors a table can have.
const MOST: u16 = 2048;

/// Message control.
mod control {
    pub const ENABLE: u16 = 1 << 15;
    pub const FUNCTION_MASK: u16 = 1 << 14;
}

/// Where interrupt messages go.
pub trait MsiSink: Send + Sync {
    /// A write of `data` to `address`.
    fn send(&self, address: u64, data: u32);
}

/// A table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    /// Vector control; bit 0 masks.
    control: u32,
}

impl Entry {
    const RESET: Self = Self { address: 0, data: 0, control: Self::MASK };
    const MASK: u32 = 1;

    fn bytes(&self) -> [u8; ENTRY as usize] {
        let mut bytes = [0; ENTRY as usize];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.data.to_le_bytes());
        bytes[12..].copy_from_slice(&self.control.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; ENTRY as usize]) -> Self {
        let [low, high, data, control] = [0, 4, 8, 12]
            .map(|at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        Self { address: u64::from(low & !3) | u64::from(high) << 32, data, control: control & Self::MASK }
    }
}

struct State {
    control: u16,
    entries: Vec<Entry>,
    pending: Vec<bool>,
}

/// A function's vectors.
pub struct Msix {
    // Wiring.
    sink: Arc<dyn MsiSink>,
    // Volatile state.
    state: Mutex<State>,
}

impl Msix {
    /// `vectors` of them, all masked.
    pub fn new(vectors: u16, sink: Arc<dyn MsiSink>) -> Self {
        assert!((1..=MOST).contains(&vectors), "MSI-X has 1 to {MOST} vectors");
        let entries = vec![Entry::RESET; vectors.into()];
        let pending = vec![false; vectors.into()];
        Self { sink, state: Mutex::new(State { control: 0, entries, pending }) }
    }

    /// Length of the table.
    pub fn table_length(&self) -> u64 {
        u64::from(self.vectors()) * ENTRY
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        // As many as `new` was given.
        lock(&self.state).entries.len() as u16
    }

    /// Puts the capability into a configuration space; says where its message control is. Table and pending bits
    /// lie in base address register `bar`.
    pub fn add_capability(&self, config: &mut ConfigSpace, bar: u8, table: u32, pending: u32) -> u8 {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(self.vectors() - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        let mut writable = [0; 10];
        writable[..2].copy_from_slice(&(control::ENABLE | control::FUNCTION_MASK).to_le_bytes());
        config.add_capability(ID, &body, &writable) + 2
    }

    /// Message control has been written, or restored.
    pub fn set_control(&self, value: u16) {
        let mut state = lock(&self.state);
        state.control = value;
        self.send_pending(&mut state);
    }

    /// Whether the function interrupts by messages, not by its pin.
    pub fn is_enabled(&self) -> bool {
        lock(&self.state).control & control::ENABLE != 0
    }

    /// Sends the vector's message, or keeps it pending while it is masked. A vector that does not exist is nothing.
    pub fn fire(&self, vector: u16) {
        let mut state = lock(&self.state);
        if let Some(pending) = state.pending.get_mut(usize::from(vector)) {
            *pending = true;
            self.send_pending(&mut state);
        }
    }

    fn send_pending(&self, state: &mut State) {
        if state.control & (control::ENABLE | control::FUNCTION_MASK) != control::ENABLE {
            return;
        }
        for (entry, pending) in state.entries.iter().zip(&mut state.pending) {
            if *pending && entry.control & Entry::MASK == 0 {
                *pending = false;
                self.sink.send(entry.address, entry.data);
            }
        }
    }

    /// Reads from the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let state = lock(&self.state);
        for (at, byte) in (offset..).zip(data) {
            let entry = state.entries.get((at / ENTRY) as usize);
            *byte = entry.map_or(0, |entry| entry.bytes()[(at % ENTRY) as usize]);
        }
    }

    /// Writes to the table: doublewords or quadwords, aligned; anything else is ignored.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        let mut state = lock(&self.state);
        let Some(entry) = state.entries.get_mut((offset / ENTRY) as usize) else { return };
        let mut bytes = entry.bytes();
        bytes[(offset % ENTRY) as usize..][..data.len()].copy_from_slice(data);
        *entry = Entry::from_bytes(bytes);
        self.send_pending(&mut state);
    }

    /// Reads from the pending bits, one per vector.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let state = lock(&self.state);
        for (at, byte) in (offset..).zip(data) {
            let first = (at * 8) as usize;
            let bits = state.pending.iter().skip(first).take(8).enumerate();
            *byte = bits.fold(0, |byte, (bit, pending)| byte | u8::from(*pending) << bit);
        }
    }

    /// For the function's `save`.
    pub fn save(&self) -> MsixV1 {
        let Self { sink: _, state } = self;
        // Message control is in the function's configuration space.
        let State { control: _, entries, pending } = &*lock(state);
        MsixV1 { entries: entries.clone(), pending: pending.clone() }
    }

    /// For the function's `check`.
    pub fn check(&self, saved: &MsixV1) -> Result<(), Invalid> {
        let vectors = usize::from(self.vectors());
        let MsixV1 { entries, pending } = saved;
        require(entries.len() == vectors && pending.len() == vectors, "another number of MSI-X vectors")?;
        let sane = entries.iter().all(|entry| *entry == Entry::from_bytes(entry.bytes()));
        require(sane, "an MSI-X table entry has reserved bits")
    }

    /// For the function's `commit`; `control` is from its configuration space. What pends goes out with
    /// [`Self::set_control`], once interrupt controllers have their state, too.
    pub fn commit(&self, saved: MsixV1, control: u16) {
        let MsixV1 { entries, pending } = saved;
        *lock(&self.state) = State { control, entries, pending };
    }
}

/// The table and the pending bits, as a part of their function's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixV1 {
    entries: Vec<Entry>,
    pending: Vec<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Messages;

    fn msix() -> (Msix, Messages) {
        let messages = Messages::default();
        (Msix::new(3, Arc::new(messages.clone())), messages)
    }

    fn set_entry(msix: &Msix, vector: u64, address: u64, data: u32, mask: u32) {
        msix.write_table(vector * 16, &address.to_le_bytes());
        msix.write_table(vector * 16 + 8, &data.to_le_bytes());
        msix.write_table(vector * 16 + 12, &mask.to_le_bytes());
    }

    #[test]
    fn masked_vectors_pend() {
        let (msix, messages) = msix();
        set_entry(&msix, 1, 0xfee0_1000, 0x41, 0);
        msix.fire(1);
        assert_eq!(messages.take(), []);
        msix.set_control(control::ENABLE | control::FUNCTION_MASK);
        let mut bits = [0xff];
        msix.read_pending(0, &mut bits);
        assert_eq!((bits, messages.take()), ([2], vec![]));
        msix.set_control(control::ENABLE);
        assert_eq!(messages.take(), [(0xfee0_1000, 0x41)]);
        // Vector 2 is masked by itself.
        msix.fire(2);
        msix.fire(2);
        assert_eq!(messages.take(), []);
        set_entry(&msix, 2, 0xfee0_0000, 0x42, 0);
        assert_eq!(messages.take(), [(0xfee0_0000, 0x42)]);
        msix.fire(3);
        msix.fire(u16::MAX);
        assert_eq!(messages.take(), []);
    }

    #[test]
    fn the_table_keeps_what_can_be_kept() {
        let (msix, _) = msix();
        msix.write_table(16, &[0xff; 8]);
        msix.write_table(24, &[0xff; 8]);
        // Odd accesses are ignored, and so is what lies beyond.
        msix.write_table(2, &[0; 4]);
        msix.write_table(0, &[0; 2]);
        msix.write_table(48, &[0; 4]);
        let mut table = [0; 56];
        msix.read_table(0, &mut table);
        let mut expected = [0; 56];
        for at in [12, 28, 44] {
            expected[at] = 1;
        }
        expected[16..28].fill(0xff);
        expected[16] = 0xfc;
        assert_eq!(table, expected);
    }

    #[test]
    fn saved() {
        let (from, _) = msix();
        set_entry(&from, 0, 0xfee0_0000, 0x31, 0);
        from.fire(0);
        let (to, messages) = msix();
        to.check(&from.save()).unwrap();
        to.commit(from.save(), control::ENABLE);
        assert_eq!((messages.take(), to.is_enabled()), (vec![], true));
        to.set_control(control::ENABLE);
        assert_eq!(messages.take(), [(0xfee0_0000, 0x31)]);
        let mut bad = from.save();
        bad.entries[0].address |= 1;
        assert!(to.check(&bad).is_err());
        bad.entries.pop();
        assert!(to.check(&bad).is_err());
    }
}
