//! A virtio function as its driver reaches it (Virtio 1.2, 4.1), with no care for what is allowed when.

use crate::machine::{Slot, read, store, write};

/// Where a queue is.
#[derive(Clone, Copy)]
pub struct Rings {
    pub size: u16,
    pub desc: u64,
    pub driver: u64,
    pub device: u64,
}

impl Rings {
    /// Apart and aligned, from this address on; empty.
    pub fn sound(base: u64) -> Self {
        let rings = Self { size: 16, desc: base, driver: base + 0x400, device: base + 0x800 };
        for queue in 0..4 {
            let Self { driver, device, .. } = rings.of(queue);
            store(driver, 0);
            store(device, 0);
        }
        rings
    }

    /// Those of another queue, which follow.
    pub fn of(&self, queue: u16) -> Self {
        let shift = |address: u64| address.wrapping_add(u64::from(queue) * 0x1000);
        Self {
            size: self.size,
            desc: shift(self.desc),
            driver: shift(self.driver),
            device: shift(self.device),
        }
    }
}

#[derive(Clone, Copy)]
pub struct Device {
    pub slot: Slot,
    /// Where its registers are, and belong.
    pub registers: u64,
    /// Its command register as it was found.
    command: u32,
    /// MSI-X's message control, and the window's capability.
    messages: u8,
    window: u8,
}

impl Device {
    pub fn new(slot: Slot) -> Self {
        let registers = u64::from(slot.get(0x10) & !0xf) | u64::from(slot.get(0x14)) << 32;
        let mut this = Self { slot, registers, command: slot.get(4) & 0xffff, messages: 0, window: 0 };
        let mut at = slot.get(0x34) as u8;
        // A list has fewer members than there is room for.
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            let head = slot.get(at);
            match (head as u8, (head >> 24) as u8) {
                (0x11, _) => this.messages = at + 2,
                (0x09, 5) => this.window = at,
                _ => {}
            }
            at = (head >> 8) as u8;
        }
        this
    }

    pub fn is_balloon(&self) -> bool {
        self.slot.get(0) >> 16 == 0x1045
    }

    pub fn is_disk(&self) -> bool {
        self.slot.get(0) >> 16 == 0x1042
    }

    pub fn is_entropy(&self) -> bool {
        self.slot.get(0) >> 16 == 0x1044
    }

    /// Writes a field of the common configuration.
    pub fn write(&self, offset: u64, size: u8, value: u64) {
        write(self.registers + offset, size, value);
    }

    pub fn reset(&self) {
        self.write(0x14, 1, 0);
    }

    /// Goes through 3.1.1, with features or with none but the one that must be; whether the device is content.
    pub fn set_up(&self, rings: &Rings, all_features: bool) -> bool {
        self.reset();
        self.write(0x14, 1, 3);
        for half in [0, 1] {
            self.write(0x00, 4, half);
            let offered = read(self.registers + 4, 4);
            self.write(0x08, 4, half);
            self.write(0x0c, 4, if all_features { offered } else { half });
        }
        self.write(0x14, 1, 11);
        let queues = read(self.registers + 0x12, 2) as u16;
        for queue in 0..queues.min(4) {
            let rings = rings.of(queue);
            self.write(0x16, 2, queue.into());
            self.write(0x18, 2, rings.size.into());
            self.write(0x1a, 2, queue.into());
            self.write(0x20, 8, rings.desc);
            self.write(0x28, 8, rings.driver);
            self.write(0x30, 8, rings.device);
            self.write(0x1c, 2, 1);
        }
        self.write(0x14, 1, 15);
        read(self.registers + 0x14, 1) == 15
    }

    pub fn notify(&self, queue: u64) {
        write(self.registers + 0x3000 + 4 * queue, 2, queue & 0xffff);
    }

    pub fn notify_all(&self) {
        (0..5).for_each(|queue| self.notify(queue));
    }

    /// Turns MSI-X on or off.
    pub fn set_messages(&self, on: bool) {
        self.slot.set(self.messages, 2, if on { 0x8000 } else { 0 });
    }

    /// Moves its registers.
    pub fn move_to(&self, address: u64) {
        self.slot.set(0x10, 4, address as u32);
        self.slot.set(0x14, 4, (address >> 32) as u32);
        self.slot.set(4, 2, 6);
    }

    /// Has its registers where they belong.
    pub fn put_back(&self) {
        self.move_to(self.registers);
        self.slot.set(4, 2, self.command);
    }

    /// Accesses a register through the window (4.1.4.9).
    pub fn through_window(&self, offset: u32, length: u32, value: u32) {
        self.slot.set(self.window + 4, 1, 0);
        self.slot.set(self.window + 8, 4, offset);
        self.slot.set(self.window + 12, 4, length);
        self.slot.get(self.window + 16);
        self.slot.set(self.window + 16, 4, value);
    }
}
