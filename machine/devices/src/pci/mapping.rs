//! A function whose memory follows its base address register about the memory-mapped bus.

use std::sync::{Arc, Mutex};

use super::{Bar, PciDevice};
use crate::bus::MmioBus;
use crate::wiring::{MmioDevice, lock};

/// A function with registers in memory, all of them behind one base address register.
pub trait MemoryFunction: PciDevice + MmioDevice {
    /// Where they are now.
    fn memory_bar(&self) -> Option<Bar>;
}

/// What the root has in the slot of a [`MemoryFunction`]: passes configuration accesses on and moves the claim on
/// the bus after each that changes it. Where another function is already the claim is refused, and nobody finds the
/// registers until they are moved again.
pub struct Mapped<F> {
    name: &'static str,
    function: Arc<Mutex<F>>,
    bus: Arc<MmioBus>,
    /// Where the bus finds it.
    claimed: Option<Bar>,
}

impl<F: MemoryFunction + 'static> Mapped<F> {
    /// The function, `name` on the bus, where its register has it now.
    pub fn new(name: &'static str, function: Arc<Mutex<F>>, bus: Arc<MmioBus>) -> Self {
        let mut mapped = Self { name, function, bus, claimed: None };
        mapped.follow();
        mapped
    }

    /// Moves the claim to where the register says.
    pub fn follow(&mut self) {
        let wanted = lock(&self.function).memory_bar();
        if wanted == self.claimed {
            return;
        }
        if let Some(bar) = self.claimed.take() {
            self.bus.release(bar.address);
        }
        if let Some(bar) = wanted {
            match self.bus.claim(self.name, bar.address, bar.length, self.function.clone()) {
                Ok(()) => self.claimed = wanted,
                Err(error) => tracing::debug!("a base address register is not followed: {error}"),
            }
        }
    }
}

impl<F: MemoryFunction + 'static> PciDevice for Mapped<F> {
    fn read_config(&mut self, offset: u8, size: u8) -> u32 {
        lock(&self.function).read_config(offset, size)
    }

    fn write_config(&mut self, offset: u8, size: u8, value: u32) {
        lock(&self.function).write_config(offset, size, value);
        self.follow();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::{BarKind, ConfigSpace};

    struct Function(ConfigSpace);

    impl PciDevice for Function {
        fn read_config(&mut self, offset: u8, size: u8) -> u32 {
            self.0.read(offset, size)
        }

        fn write_config(&mut self, offset: u8, size: u8, value: u32) {
            self.0.write(offset, size, value);
        }
    }

    impl MmioDevice for Function {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }

        fn write(&mut self, _: u64, _: &[u8]) {}
    }

    impl MemoryFunction for Function {
        fn memory_bar(&self) -> Option<Bar> {
            self.0.bar(0)
        }
    }

    fn function(bus: &Arc<MmioBus>) -> Mapped<Function> {
        let mut config = ConfigSpace::new(1, 2, 3, 4);
        config.add_bar(0, BarKind::Memory64, 0x1000);
        Mapped::new("test", Arc::new(Mutex::new(Function(config))), bus.clone())
    }

    fn byte(bus: &MmioBus, address: u64) -> u8 {
        let mut data = [0];
        bus.read(address, &mut data);
        data[0]
    }

    #[test]
    fn registers_move_with_their_bar() {
        let bus = Arc::new(MmioBus::new());
        let mut first = function(&bus);
        first.write_config(0x10, 4, 0xc000_0000);
        assert_eq!(byte(&bus, 0xc000_0005), 0xff);
        first.write_config(4, 2, 2);
        assert_eq!(byte(&bus, 0xc000_0005), 5);
        first.write_config(0x14, 4, 1);
        assert_eq!((byte(&bus, 0xc000_0005), byte(&bus, 0x1_c000_0006)), (0xff, 6));

        // A second one on top of it is not found, until the first goes.
        let mut second = function(&bus);
        second.write_config(0x10, 4, 0xc000_0000);
        second.write_config(0x14, 4, 1);
        second.write_config(4, 2, 2);
        first.write_config(4, 2, 0);
        assert_eq!(byte(&bus, 0x1_c000_0006), 0xff);
        second.write_config(4, 2, 2);
        assert_eq!(byte(&bus, 0x1_c000_0006), 6);
    }
}
