//! The ACPI tables (ACPI 6.5): root pointer, XSDT, FADT, FACS, MADT and DSDT, laid out in the BIOS area where
//! an operating system that was not told where they are looks for them. There is no ECAM and so no MCFG, no
//! HPET, and no processor performance or sleep states.

mod dsdt;
mod tables;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use crate::map::{BIOS, ONE_MIB};

const OEM_ID: [u8; 6] = *b"POPF  ";
const OEM_TABLE_ID: [u8; 8] = *b"POPFBRD ";
const OEM_REVISION: u32 = 1;

/// What the tables describe beside what every board has.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Number of processors; their APIC IDs count from 0.
    pub cpus: u8,
    /// The I/O APIC's ID.
    pub io_apic_id: u8,
    /// Number of serial ports, up to [`crate::isa::port::COM`]'s.
    pub serial_ports: usize,
}

/// Tables and where they belong.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Guest-physical address of [`Self::bytes`] and of the root pointer, which comes first.
    pub rsdp: u64,
    /// To be put there.
    pub bytes: Vec<u8>,
}

/// Puts the tables one after the other.
struct Area {
    bytes: Vec<u8>,
}

impl Area {
    fn place(&mut self, align: usize, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(align), 0);
        let address = BIOS + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        address
    }
}

/// Writes the tables.
pub fn tables(description: &Description) -> Tables {
    // Room for the root pointer, whose contents depend on all that follows.
    let mut area = Area { bytes: vec![0; Rsdp::len()] };
    let facs = area.place(64, &acpi_tables::facs::FACS::new());
    let dsdt = area.place(16, &table(*b"DSDT", 2, &dsdt::body(description)));
    let fadt = area.place(16, &tables::fadt(facs, dsdt));
    let madt = area.place(16, &table(*b"APIC", 5, &tables::madt(description)));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = area.place(16, &xsdt);
    let mut root = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut root);
    area.bytes[..root.len()].copy_from_slice(&root);
    // 255 processors need less than half of it.
    assert!(BIOS + area.bytes.len() as u64 <= ONE_MIB, "the ACPI tables have outgrown their area");
    Tables { rsdp: BIOS, bytes: area.bytes }
}

/// A table with the standard header.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Sdt {
    let mut table = Sdt::new(signature, 36, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(body);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(cpus: u8) -> Description {
        Description { cpus, io_apic_id: 0, serial_ports: 3 }
    }

    fn sums_to_zero(bytes: &[u8]) -> bool {
        bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0
    }

    fn at(tables: &Tables, address: u64) -> &[u8] {
        let bytes = &tables.bytes[(address - tables.rsdp) as usize..];
        let len = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        &bytes[..len as usize]
    }

    fn qword(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    #[test]
    fn root_pointer_leads_to_tables_that_add_up() {
        for cpus in [1, 2, 255] {
            let tables = tables(&description(cpus));
            assert!(BIOS + (tables.bytes.len() as u64) <= ONE_MIB);
            assert_eq!(tables.rsdp % 16, 0);
            assert_eq!(&tables.bytes[..8], b"RSD PTR ");
            assert!(sums_to_zero(&tables.bytes[..20]) && sums_to_zero(&tables.bytes[..36]));
            let xsdt = at(&tables, qword(&tables.bytes, 24));
            assert!(sums_to_zero(xsdt));
            let children: Vec<_> =
                xsdt[36..].chunks_exact(8).map(|entry| at(&tables, qword(entry, 0))).collect();
            assert!(children.iter().all(|table| sums_to_zero(table)));
            let [fadt, madt] = children[..] else { panic!("two tables") };
            assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
            let dsdt = at(&tables, qword(fadt, 140));
            assert!(dsdt.starts_with(b"DSDT") && sums_to_zero(dsdt));
            let facs = qword(fadt, 132);
            assert_eq!(facs % 64, 0);
            assert_eq!(at(&tables, facs).len(), 64);
        }
    }

    #[test]
    fn madt_lists_every_processor_and_the_rerouted_lines() {
        let bytes = tables::madt(&description(3));
        let mut rows = &bytes[8..];
        let mut kinds = Vec::new();
        while let [kind, len, ..] = *rows {
            kinds.push((kind, rows[..usize::from(len)].to_vec()));
            rows = &rows[usize::from(len)..];
        }
        let of = |kind| kinds.iter().filter(|row| row.0 == kind).map(|row| &row.1).collect::<Vec<_>>();
        assert_eq!(of(0).iter().map(|row| row[3]).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(of(1)[0][4..8], [0, 0, 0xc0, 0xfe]);
        let overrides: Vec<_> = of(2).iter().map(|row| (row[3], row[4], row[8])).collect();
        assert_eq!(overrides, [(0, 2, 0), (9, 9, 0xd)]);
    }
}
