//! Ports and interrupt lines of the devices every PC has, in one place: the wiring, the ACPI tables and whoever
//! else must name one read them here.

/// First ports.
#[allow(missing_docs)]
pub mod port {
    pub const PIC_MASTER: u16 = 0x20;
    pub const PIC_SLAVE: u16 = 0xa0;
    pub const ELCR: u16 = 0x4d0;
    pub const PIT: u16 = 0x40;
    pub const SYSTEM_CONTROL_B: u16 = 0x61;
    pub const I8042_DATA: u16 = 0x60;
    pub const I8042_COMMAND: u16 = 0x64;
    pub const RTC: u16 = 0x70;
    pub const POST_CODE: u16 = 0x80;
    pub const SYSTEM_CONTROL_A: u16 = 0x92;
    pub const SMI_COMMAND: u16 = 0xb2;
    pub const DEBUG_CONSOLE: u16 = 0xe9;
    pub const DEBUG_EXIT: u16 = 0xf4;
    /// The test device's port that remembers, and those of its lines.
    pub const TEST_DATA: u16 = 0xe0;
    pub const TEST_LINES: u16 = 0x2000;
    pub const FW_CFG: u16 = 0x510;
    /// COM1 to COM3, by index.
    pub const COM: [u16; 3] = [0x3f8, 0x2f8, 0x3e8];
    /// ACPI's fixed hardware, laid out as [`devices::acpi_pm`] says.
    pub const PM: u16 = 0x600;
    pub const PCI_CONFIG: u16 = 0xcf8;
    pub const RESET_CONTROL: u16 = 0xcf9;
}

/// Interrupt lines, numbered as the 8259 pair's inputs and (but for the PIT's, which is on pin 2) the I/O APIC's.
#[allow(missing_docs)]
pub mod irq {
    pub const PIT: u32 = 0;
    pub const KEYBOARD: u32 = 1;
    pub const RTC: u32 = 8;
    /// ACPI's system control interrupt; level-triggered, active high.
    pub const SCI: u32 = 9;
    pub const MOUSE: u32 = 12;
    /// What INTA of PCI's slots leads to, in turn; level-triggered. Both interrupt controllers have them, so that the
    /// same lines serve a guest with either.
    pub const PCI: [u32; 2] = [10, 11];
    /// COM1 to COM3. A PC's COM3 shares line 4 with COM1; edge-triggered lines share badly, and the ACPI tables
    /// tell the guest otherwise.
    pub const COM: [u32; 3] = [4, 3, 5];

    /// What INTA of a slot leads to.
    pub fn pci_line(slot: u8) -> u32 {
        PCI[usize::from(slot) % PCI.len()]
    }
}

/// Pin of the I/O APIC that the PIT drives (interrupt source override of line 0).
pub const PIT_PIN: u32 = 2;
/// What written to [`port::RESET_CONTROL`] resets the machine: a hard reset, requested by a rising bit 2.
pub const RESET_VALUE: u8 = 6;
