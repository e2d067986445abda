//! What firmware would have left when it hands over to a kernel. In the processor: caching on, memory types set,
//! the time-stamp counter near zero. For kernels that a BIOS would have started, and that may go back to real mode:
//! its interrupt vectors, interrupt controllers and clock.
//!
//! Not there: a BIOS's services. Its interrupts return at once.

use vcpu::{Activity, CpuState};
use x86::Cr0;

use devices::bus::PortBus;
use memory::GuestRam;

use crate::isa::port;
use crate::map::{FOUR_GIB, PCI_HOLE};

/// MTRRs and fixed-range MTRRs on, write-back by default (SDM vol. 3 ch. 12.11.2.1).
const MTRR_DEF_TYPE: u64 = 3 << 10 | WRITE_BACK;
const UNCACHED: u64 = 0;
const WRITE_BACK: u64 = 6;
/// Valid bit of a variable range's mask.
const VALID: u64 = 1 << 11;
/// Index of the fixed range register of A0000 to BFFFF.
const FIXED_VGA: usize = 2;

/// A processor that waits to be started, as firmware leaves all but the first.
pub fn application(physical_bits: u8) -> CpuState {
    CpuState { activity: Activity::WaitForStartUp, ..finish(CpuState::reset(), physical_bits) }
}

/// Adds to a loader's state what is no boot protocol's business, and the same in all processors.
pub fn finish(mut cpu: CpuState, physical_bits: u8) -> CpuState {
    cpu.cr0.remove(Cr0::CD | Cr0::NW);
    let every = |kind: u64| u64::from_ne_bytes([kind as u8; 8]);
    cpu.msrs.mtrr_def_type = MTRR_DEF_TYPE;
    cpu.msrs.mtrr_fixed = [every(WRITE_BACK); 11];
    cpu.msrs.mtrr_fixed[FIXED_VGA] = every(UNCACHED);
    let addresses = (1_u64 << physical_bits) - 1;
    let mask = addresses & !(FOUR_GIB - PCI_HOLE - 1);
    cpu.msrs.mtrr_variable[0] = [PCI_HOLE | UNCACHED, mask | VALID];
    cpu
}

/// Segment of the BIOS, and where its handlers are in it.
const BIOS_SEGMENT: u16 = 0xf000;
const NOTHING: u16 = 0xff00;
const MASTER: u16 = 0xff10;
const SLAVE: u16 = 0xff20;
/// iret.
const NOTHING_CODE: &[u8] = &[0xcf];
/// push ax; mov al, 20h (end of interrupt); out 20h, al; pop ax; iret.
const MASTER_CODE: &[u8] = &[0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf];
/// The same, to the slave first.
const SLAVE_CODE: &[u8] = &[0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf];
/// First vector of either 8259, as every BIOS since the AT's has it.
const MASTER_VECTOR: u8 = 0x08;
const SLAVE_VECTOR: u8 = 0x70;

/// Fills the vector table and puts handlers where it points: of interrupts, which end them, and of everything else.
pub fn write_vectors(ram: &GuestRam) {
    let lines = |first: u8| u16::from(first)..u16::from(first) + 8;
    let mut table = Vec::with_capacity(0x400);
    for vector in 0..256_u16 {
        let handler = match vector {
            _ if lines(MASTER_VECTOR).contains(&vector) => MASTER,
            _ if lines(SLAVE_VECTOR).contains(&vector) => SLAVE,
            _ => NOTHING,
        };
        table.extend_from_slice(&handler.to_le_bytes());
        table.extend_from_slice(&BIOS_SEGMENT.to_le_bytes());
    }
    let bios = |offset: u16| u64::from(BIOS_SEGMENT) << 4 | u64::from(offset);
    let pieces = [
        (0, table.as_slice()),
        (bios(NOTHING), NOTHING_CODE),
        (bios(MASTER), MASTER_CODE),
        (bios(SLAVE), SLAVE_CODE),
    ];
    for (gpa, bytes) in pieces {
        ram.write(gpa, bytes).expect("the first megabyte is RAM");
    }
}

/// Starts the interrupt controllers, with all but the clock's line masked, and the clock at 18.2 ticks a second.
pub fn start_clock(ports: &PortBus) {
    // ICW1 to ICW4 and the masks of either 8259; the 8254's counter 0 in mode 2, dividing by 65536.
    #[rustfmt::skip]
    let writes = [
        (port::PIC_MASTER,     0x11),
        (port::PIC_MASTER + 1, MASTER_VECTOR),
        (port::PIC_MASTER + 1, 1 << 2),
        (port::PIC_MASTER + 1, 0x01),
        (port::PIC_SLAVE,      0x11),
        (port::PIC_SLAVE + 1,  SLAVE_VECTOR),
        (port::PIC_SLAVE + 1,  2),
        (port::PIC_SLAVE + 1,  0x01),
        (port::PIC_MASTER + 1, !(1 << 0 | 1 << 2)),
        (port::PIC_SLAVE + 1,  0xff),
        (port::PIT + 3,        0x34),
        (port::PIT,            0),
        (port::PIT,            0),
    ];
    for (port, value) in writes {
        ports.write(port, 1, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hole_is_uncached_and_nothing_else() {
        let cpu = finish(CpuState::reset(), 40);
        let [base, mask] = cpu.msrs.mtrr_variable[0];
        let matches = |address: u64| address & mask & !0xfff == base & mask & !0xfff;
        assert!(matches(PCI_HOLE) && matches(FOUR_GIB - 1));
        assert!(!matches(PCI_HOLE - 1) && !matches(FOUR_GIB));
        assert_eq!(mask, 0xff_c000_0800);
        assert_eq!(cpu.msrs.mtrr_def_type, 0xc06);
        assert_eq!(cpu.tsc_offset, 0, "the host's counter");
        assert!(!cpu.cr0.intersects(Cr0::CD | Cr0::NW));
    }
}
