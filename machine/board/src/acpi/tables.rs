//! FADT (ACPI 6.5 ch. 5.2.9) and the body of the MADT (ch. 5.2.12).

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use devices::acpi_pm;

use super::{Description, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::isa::{PIT_PIN, RESET_VALUE, irq, port};
use crate::map::{IO_APIC, LOCAL_APIC};

/// Legacy devices on ISA, an 8042, no VGA.
const BOOT_ARCHITECTURE: u16 = 0b111;
/// CMOS register of the century, as every PC's firmware reports it.
const CENTURY: u8 = 0x32;

pub(super) fn fadt(facs: u64, dsdt: u64) -> FADT {
    let block = |offset: u16| u32::from(port::PM + offset).into();
    // PWR_BUTTON stays clear, which says that the button is the fixed one; SLP_BUTTON says that there is none.
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_64(facs)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.sci_int = (irq::SCI as u16).into();
    fadt.smi_cmd = u32::from(port::SMI_COMMAND).into();
    fadt.acpi_enable = acpi_pm::ACPI_ENABLE;
    fadt.acpi_disable = acpi_pm::ACPI_DISABLE;
    fadt.pm1a_evt_blk = block(acpi_pm::EVENT_BLOCK);
    fadt.pm1_evt_len = acpi_pm::EVENT_BLOCK_LENGTH;
    fadt.pm1a_cnt_blk = block(acpi_pm::CONTROL_BLOCK);
    fadt.pm1_cnt_len = acpi_pm::CONTROL_BLOCK_LENGTH;
    fadt.pm_tmr_blk = block(acpi_pm::TIMER_BLOCK);
    fadt.pm_tmr_len = acpi_pm::TIMER_BLOCK_LENGTH;
    fadt.gpe0_blk = block(acpi_pm::GPE0_BLOCK);
    fadt.gpe0_blk_len = acpi_pm::GPE0_BLOCK_LENGTH;
    // Latencies that say: no C2, no C3.
    fadt.p_lvl2_lat = 0x0fff.into();
    fadt.p_lvl3_lat = 0x0fff.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg =
        GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port::RESET_CONTROL.into());
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

/// Interrupt flags of the MADT: polarity in bits 0 and 1, trigger mode in bits 2 and 3.
const AS_THE_BUS: u16 = 0;
const LEVEL_ACTIVE_HIGH: u16 = 0b1101;

/// What follows the MADT's standard header.
pub(super) fn madt(description: &Description) -> Vec<u8> {
    /// There is an 8259 pair, too.
    const PCAT_COMPAT: u32 = 1;
    /// Every processor.
    const ALL: u8 = 0xff;
    let mut body = Vec::new();
    body.extend_from_slice(&(LOCAL_APIC as u32).to_le_bytes());
    body.extend_from_slice(&PCAT_COMPAT.to_le_bytes());
    for cpu in 0..description.cpus {
        // Processor local APIC: UID, APIC ID, enabled.
        body.extend_from_slice(&[0, 8, cpu, cpu, 1, 0, 0, 0]);
    }
    body.extend_from_slice(&[1, 12, description.io_apic_id, 0]);
    body.extend_from_slice(&(IO_APIC as u32).to_le_bytes());
    body.extend_from_slice(&0_u32.to_le_bytes());
    for (line, pin, flags) in [(irq::PIT, PIT_PIN, AS_THE_BUS), (irq::SCI, irq::SCI, LEVEL_ACTIVE_HIGH)] {
        // Interrupt source override: bus 0 is ISA.
        body.extend_from_slice(&[2, 10, 0, line as u8]);
        body.extend_from_slice(&pin.to_le_bytes());
        body.extend_from_slice(&flags.to_le_bytes());
    }
    // Local APIC NMI: on LINT1.
    body.extend_from_slice(&[4, 6, ALL, 0, 0, 1]);
    body
}
