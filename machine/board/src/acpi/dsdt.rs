//! The differentiated system description: AML for the devices an operating system cannot find by itself.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path,
    ResourceTemplate, Scope,
};

use devices::acpi_pm;

use super::Description;
use crate::isa::{irq, port};
use crate::map::{IO_APIC, OPTION_ROM, PCI_HOLE, VGA};

/// What follows the DSDT's standard header.
pub(super) fn body(description: &Description) -> Vec<u8> {
    let mut aml = Vec::new();
    let sleep: &dyn Aml = &acpi_pm::SLP_TYP_S5;
    Name::new("_S5_".into(), &Package::new(vec![sleep, sleep, &0_u8, &0_u8])).to_aml_bytes(&mut aml);

    let mut devices = vec![
        pci_root(),
        device("RTC_", "PNP0B00", None, &[(port::RTC, 2)], &[irq::RTC]),
        device("PIT_", "PNP0100", None, &[(port::PIT, 4)], &[irq::PIT]),
        device("KBD_", "PNP0303", None, &[(port::I8042_DATA, 1), (port::I8042_COMMAND, 1)], &[irq::KEYBOARD]),
        device("MOU_", "PNP0F13", None, &[], &[irq::MOUSE]),
    ];
    for (index, (port, irq)) in port::COM.into_iter().zip(irq::COM).take(description.serial_ports).enumerate()
    {
        let name = format!("COM{}", index + 1);
        devices.push(device(&name, "PNP0501", Some(index as u8 + 1), &[(port, 8)], &[irq]));
    }
    for cpu in 0..description.cpus {
        devices.push(processor(cpu));
    }
    aml.extend(Scope::raw("_SB_".into(), devices.concat()));
    aml
}

/// A device on the ISA bus: its ports and edge-triggered interrupts.
fn device(name: &str, id: &str, unit: Option<u8>, ports: &[(u16, u8)], irqs: &[u32]) -> Vec<u8> {
    let ports: Vec<_> = ports.iter().map(|&(first, count)| IO::new(first, first, 1, count)).collect();
    let irqs: Vec<_> = irqs.iter().map(|&number| Interrupt::new(true, true, false, false, number)).collect();
    let mut resources: Vec<&dyn Aml> = Vec::new();
    resources.extend(ports.iter().map(|port| port as &dyn Aml));
    resources.extend(irqs.iter().map(|irq| irq as &dyn Aml));
    let hid = Name::new("_HID".into(), &EISAName::new(id));
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    let uid = unit.map(|unit| Name::new("_UID".into(), &unit));
    let mut children: Vec<&dyn Aml> = vec![&hid];
    if let Some(uid) = &uid {
        children.push(uid);
    }
    children.push(&crs);
    let mut aml = Vec::new();
    Device::new(Path::new(name), children).to_aml_bytes(&mut aml);
    aml
}

fn processor(cpu: u8) -> Vec<u8> {
    let mut aml = Vec::new();
    Device::new(
        Path::new(&format!("C{cpu:03X}")),
        vec![&Name::new("_HID".into(), &"ACPI0007"), &Name::new("_UID".into(), &cpu)],
    )
    .to_aml_bytes(&mut aml);
    aml
}

/// The PCI host bridge: every port but its own configuration window, the graphics window, and the hole below
/// the I/O APIC.
fn pci_root() -> Vec<u8> {
    let config = port::PCI_CONFIG;
    let window = |first: u64, end: u64| {
        // Both lie below 4 GiB.
        AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            first as u32,
            (end - 1) as u32,
            None,
        )
    };
    // INTA of each slot: address (slot and all functions), pin, no link device, line.
    let routes: Vec<_> =
        (0..32_u8).map(|slot| (u32::from(slot) << 16 | 0xffff, 0_u8, 0_u8, irq::pci_line(slot))).collect();
    let routes: Vec<_> = routes
        .iter()
        .map(|(address, pin, source, line)| Package::new(vec![address as &dyn Aml, pin, source, line]))
        .collect();
    let mut aml = Vec::new();
    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_PRT".into(), &Package::new(routes.iter().map(|route| route as &dyn Aml).collect())),
            &Name::new("_HID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &0_u8),
            &Name::new("_BBN".into(), &0_u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0_u16, 0xff),
                    &IO::new(config, config, 1, 8),
                    &AddressSpace::new_io(0, config - 1, None),
                    &AddressSpace::new_io(config + 8, 0xffff_u16, None),
                    &window(VGA, OPTION_ROM),
                    &window(PCI_HOLE, IO_APIC),
                ]),
            ),
        ],
    )
    .to_aml_bytes(&mut aml);
    aml
}
