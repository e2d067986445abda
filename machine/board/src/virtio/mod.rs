//! Virtio functions on the board: which slots they take, what they are wired to, and how their back-ends outlive a
//! reset.
//!
//! A [`Peripheral`] is opened once, before the machine: a disk's file, a network's sockets. Every life of the machine
//! has it [attach](Peripheral::attach) a new device, whose state is the guest's doing, and
//! [detach](Peripheral::detach) it at the end.

mod balloon;
mod console;
mod disk;
mod net;
mod rng;
mod share;
mod socket;

pub use balloon::Balloon;
pub use console::{Console, ConsoleError, NamedPort};
pub use devices::virtio::balloon::Statistics;
pub use disk::Disk;
pub use net::Net;
pub use rng::Rng;
pub use share::Share;
pub use socket::Socket;

use std::sync::{Arc, Mutex};

use backends::Bell;
use devices::apic::{ApicBus, IoApic};
use devices::bus::MmioBus;
use devices::legacy::pic::Pic;
use devices::pci::{Mapped, MsiSink, PciRoot, SharedPciDevice};
use devices::virtio::pci::PciWiring;
use devices::virtio::{Doorbell, VirtioDevice, VirtioPci};
use devices::wiring::{IrqLine, lock};
use host::Sandbox;
use memory::GuestRam;
use savestate::{Persist, Unit};

use crate::isa::irq;
use crate::map;
use crate::wiring::{WiringError, unit};

/// A virtio device with its back-end, for as many lives of the machine as there are.
pub trait Peripheral: Send + Sync {
    /// Makes the device for a life that begins, and has the back-end serve it. Nothing is attached now.
    fn attach(&self, ram: &GuestRam) -> Attached;

    /// What this process has to be let do for it once the guest runs, beyond what every machine does and what is
    /// open already.
    fn needs(&self, _sandbox: &mut Sandbox) {}

    /// The life has ended. Waits for what the back-end is doing for the device, and forgets what has not been begun;
    /// when this returns the back-end calls the device no more.
    fn detach(&self);
}

/// A new device.
pub struct Attached {
    device: Arc<Mutex<dyn VirtioDevice>>,
    doorbell: Arc<dyn Doorbell>,
    unit: Option<MakeUnit>,
}

/// A handle to a device for saving and restoring it.
type MakeUnit = Box<dyn Fn() -> Box<dyn Unit> + Send>;

impl Attached {
    /// A device that works on the vCPU's thread and has no state but its queues'.
    pub fn new<T: VirtioDevice + 'static>(device: &Arc<Mutex<T>>) -> Self {
        Self { device: device.clone(), doorbell: device.clone(), unit: None }
    }

    /// It has a state of its own to save.
    pub fn with_state<T: VirtioDevice + Persist + 'static>(device: &Arc<Mutex<T>>) -> Self {
        let handle = device.clone();
        Self { unit: Some(Box::new(move || unit(&handle))), ..Self::new(device) }
    }

    /// It is told of notifications in this way instead.
    pub fn with_doorbell(self, doorbell: Arc<dyn Doorbell>) -> Self {
        Self { doorbell, ..self }
    }
}

/// The doorbell of a device that works on a thread of its back-end's.
pub struct WorkerDoorbell(pub Bell);

impl Doorbell for WorkerDoorbell {
    fn ring(&self, queue: u16) {
        self.0.ring(queue);
    }
}

/// What the functions are wired to.
pub(crate) struct Bus<'a> {
    pub(crate) ram: &'a GuestRam,
    pub(crate) mmio: &'a Arc<MmioBus>,
    pub(crate) apic: &'a Arc<ApicBus>,
    pub(crate) pic: &'a Arc<Mutex<Pic>>,
    pub(crate) io_apic: &'a Arc<Mutex<IoApic>>,
}

/// A function in its slot.
pub(crate) struct Function {
    transport: Arc<Mutex<VirtioPci>>,
    mapped: Arc<Mutex<Mapped<VirtioPci>>>,
    unit: Option<MakeUnit>,
}

/// The first slot for them; the host bridge is in slot 0.
const FIRST_SLOT: u8 = 1;
/// As many as there are slots.
pub const MOST: usize = 31;

/// Messages to the local APICs.
struct Messages(Arc<ApicBus>);

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        // Others than the local APICs' addresses are ordinary memory writes, which no device has reason to send.
        if address >> 20 == map::LOCAL_APIC >> 20 {
            self.0.send_msi(address, data);
        }
    }
}

/// Puts a function for each peripheral on the bus, set up as firmware does: registers in the PCI hole, interrupt
/// lines as the ACPI tables have them.
pub(crate) fn plug(
    peripherals: &[Arc<dyn Peripheral>],
    bus: &Bus,
    root: &mut PciRoot,
) -> Result<Vec<Function>, WiringError> {
    let messages: Arc<dyn MsiSink> = Arc::new(Messages(bus.apic.clone()));
    // Slots share lines; as many inputs as there can be slots.
    let mut lines = irq::PCI.map(|line| {
        let ends = vec![IrqLine::new(bus.pic.clone(), line), IrqLine::new(bus.io_apic.clone(), line)];
        IrqLine::split(ends).share(MOST as u32 + 1)
    });
    let mut functions = Vec::new();
    for (slot, peripheral) in (FIRST_SLOT..).zip(peripherals) {
        let Attached { device, doorbell, unit } = peripheral.attach(bus.ram);
        let line = irq::pci_line(slot);
        let wiring = PciWiring {
            ram: bus.ram.clone(),
            line: lines[usize::from(slot) % irq::PCI.len()].pop().expect("a line has an input for each slot"),
            messages: messages.clone(),
            doorbell,
        };
        let mut transport = VirtioPci::new(device, wiring);
        let number = u64::from(slot - FIRST_SLOT);
        transport.place(map::PCI_HOLE + number * VirtioPci::LENGTH, line as u8);
        let transport = Arc::new(Mutex::new(transport));
        let mapped = Arc::new(Mutex::new(Mapped::new("virtio", transport.clone(), bus.mmio.clone())));
        root.add(slot, 0, mapped.clone() as SharedPciDevice)?;
        functions.push(Function { transport, mapped, unit });
    }
    Ok(functions)
}

impl Function {
    /// What it has to save: the transport, then the device.
    pub(crate) fn units(&self) -> impl Iterator<Item = Box<dyn Unit>> {
        [Some(unit(&self.transport)), self.unit.as_ref().map(|make| make())].into_iter().flatten()
    }

    /// All units of the machine have been restored.
    pub(crate) fn resume(&self) {
        lock(&self.mapped).follow();
        lock(&self.transport).resume();
    }
}
