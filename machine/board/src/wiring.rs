//! Which chip sits where: one table of ports, memory and interrupt lines, after the PC/AT with the additions of
//! the PIIX south bridge (I/O APIC, power management, reset control). The only place that knows both a chip and
//! its address.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use devices::acpi_pm::{self, AcpiPm};
use devices::apic::{ApicBus, IoApic, LINT0, LocalApic, LocalApicWiring, Wake};
use devices::bus::{BusError, MmioBus, PortBus, SharedPortDevice};
use devices::legacy::fw_cfg::FwCfg;
use devices::legacy::i8042::I8042;
use devices::legacy::pic::Pic;
use devices::legacy::pit::Pit;
use devices::legacy::ports::{DebugExit, PostCode, ResetControl, SystemControlA};
use devices::legacy::rtc::Rtc;
use devices::legacy::test_device::{LINES, MEMORY_LEN, TestDevice};
use devices::legacy::uart::Uart;
use devices::pci::root::SlotError;
use devices::pci::{HostBridge, PciRoot};
use devices::wiring::{IrqLine, Notify, PortDevice, SerialSink, Timer, lock, ports};
use memory::GuestRam;
use savestate::{Persist, Unit};

use thiserror::Error;

use crate::clock::{Clock, HostWallClock};
use crate::isa::{PIT_PIN, irq, port};
use crate::map::{self, MemoryMap};
use crate::stop::{StopReason, StopSwitch};
use crate::timers::TimerService;
use crate::virtio::{self, Peripheral};
use crate::waker::Waker;

/// Length of the I/O APIC's register window.
const IO_APIC_LEN: u64 = 0x1000;
/// Identification of the I/O APIC: beyond the processors', as firmware numbers it.
pub const IO_APIC_ID: u8 = 0;

/// Two devices want one place: the tables here are wrong.
#[derive(Debug, Error)]
pub enum WiringError {
    /// In the port or memory space.
    #[error("two devices at one address")]
    Bus(#[from] BusError),
    /// On the PCI bus.
    #[error("two devices in one slot")]
    Slot(#[from] SlotError),
}

/// A serial port to be built.
pub struct SerialPort {
    /// What the guest sends.
    pub sink: Box<dyn SerialSink>,
    /// Called when input that was refused may be offered again.
    pub room: Notify,
}

/// What the wiring needs to know.
pub struct Plan<'a> {
    /// Where RAM is.
    pub map: &'a MemoryMap,
    /// RAM.
    pub ram: &'a GuestRam,
    /// Width of a physical address.
    pub physical_bits: u8,
    /// COM1, COM2 and so on.
    pub serial: Vec<SerialPort>,
    /// What takes PCI's slots behind the host bridge.
    pub peripherals: &'a [Arc<dyn Peripheral>],
    /// Whether there is a debug-exit port.
    pub debug_exit: bool,
    /// Whether there are the test device and the firmware configuration interface.
    pub test_device: bool,
    /// The VM's clock.
    pub clock: Arc<Clock>,
    /// The machine's alarms.
    pub timers: &'a TimerService,
    /// How the guest stops the machine.
    pub stop: Arc<StopSwitch>,
    /// One for each vCPU.
    pub wakers: &'a [Arc<Waker>],
}

/// The chips, wired and mapped.
pub struct Chips {
    /// I/O ports.
    pub ports: Arc<PortBus>,
    /// Memory-mapped devices.
    pub mmio: Arc<MmioBus>,
    /// One for each vCPU, whose thread takes it.
    pub local_apics: Vec<LocalApic>,
    /// The 8259 pair.
    pub pic: Arc<Mutex<Pic>>,
    /// The I/O APIC.
    pub io_apic: Arc<Mutex<IoApic>>,
    /// The 8254.
    pub pit: Arc<Mutex<Pit>>,
    /// The MC146818.
    pub rtc: Arc<Mutex<Rtc>>,
    /// The keyboard controller.
    pub i8042: Arc<Mutex<I8042>>,
    /// ACPI's fixed hardware.
    pub pm: Arc<Mutex<AcpiPm>>,
    /// PCI's configuration ports.
    pub pci: Arc<Mutex<PciRoot>>,
    /// PCI function 00:00.0.
    pub host_bridge: Arc<Mutex<HostBridge>>,
    /// The functions behind it.
    pub(crate) functions: Vec<virtio::Function>,
    /// COM1, COM2 and so on.
    pub uarts: Vec<Arc<Mutex<Uart>>>,
    /// Port 92.
    pub system_control_a: Arc<Mutex<SystemControlA>>,
    /// Port CF9.
    pub reset_control: Arc<Mutex<ResetControl>>,
    /// Port 80.
    pub post_code: Arc<Mutex<PostCode>>,
    /// What tests want, if it is wanted.
    pub test: Option<TestChips>,
}

/// The chips of [`Plan::test_device`].
pub struct TestChips {
    /// The device.
    pub device: Arc<Mutex<TestDevice>>,
    /// What it is on.
    pub fw_cfg: Arc<Mutex<FwCfg>>,
}

fn shared<T>(chip: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(chip))
}

/// A chip with an alarm: `make` gets the alarm, `fire` is what its going off does.
fn alarmed<T: Send + 'static>(
    timers: &TimerService,
    make: impl FnOnce(Box<dyn Timer>) -> T,
    fire: fn(&mut T),
) -> Arc<Mutex<T>> {
    let alarm = timers.alarm();
    let chip = shared(make(Box::new(alarm.clone())));
    let fired = chip.clone();
    alarm.connect(move || fire(&mut lock(&fired)));
    chip
}

/// Builds and wires all chips.
pub fn wire(plan: Plan) -> Result<Chips, WiringError> {
    let wakes = plan.wakers.iter().map(|waker| waker.clone() as Arc<dyn Wake>).collect();
    let apic_bus = ApicBus::new(wakes);
    let io_apic = shared(IoApic::new(IO_APIC_ID, apic_bus.clone()));
    apic_bus.attach_io_apic(&io_apic);
    let pic = shared(Pic::new(IrqLine::new(apic_bus.port(0), LINT0)));

    // An ISA line leads to both interrupt controllers; the guest masks what it does not use.
    let line = |number: u32| {
        let pin = if number == irq::PIT { PIT_PIN } else { number };
        IrqLine::split(vec![IrqLine::new(pic.clone(), number), IrqLine::new(io_apic.clone(), pin)])
    };
    let stops = |reason: fn() -> StopReason| -> Notify {
        let stop = plan.stop.clone();
        Arc::new(move || stop.stop(reason()))
    };
    let (reset, power_off) = (stops(|| StopReason::Reset), stops(|| StopReason::PowerOff));

    let host_bridge = shared(HostBridge::new());
    let mut pci = PciRoot::new();
    pci.add(0, 0, host_bridge.clone())?;
    // As firmware leaves them: the lines that PCI's slots share are level-triggered.
    let levels = irq::PCI.iter().fold(0_u32, |levels, line| levels | 1 << line);
    lock(&pic).write(5, 1, levels >> 8);
    let mmio = Arc::new(MmioBus::new());
    let bus = virtio::Bus { ram: plan.ram, mmio: &mmio, apic: &apic_bus, pic: &pic, io_apic: &io_apic };
    let functions = virtio::plug(plan.peripherals, &bus, &mut pci)?;
    let clock = &plan.clock;
    let chips = Chips {
        ports: Arc::new(PortBus::new()),
        mmio,
        local_apics: local_apics(&plan, &apic_bus, &pic),
        pit: alarmed(plan.timers, |timer| Pit::new(clock.clone(), timer, line(irq::PIT)), Pit::fire),
        rtc: alarmed(
            plan.timers,
            |timer| {
                let mut rtc = Rtc::new(clock.clone(), Arc::new(HostWallClock), timer, line(irq::RTC));
                rtc.set_memory_size(plan.map.low_end(), plan.map.high_end() - map::FOUR_GIB);
                rtc
            },
            Rtc::fire,
        ),
        pm: alarmed(
            plan.timers,
            |timer| AcpiPm::new(clock.clone(), timer, line(irq::SCI), power_off),
            AcpiPm::fire,
        ),
        i8042: shared(I8042::new(line(irq::KEYBOARD), line(irq::MOUSE), reset.clone())),
        pci: shared(pci),
        host_bridge,
        functions,
        uarts: plan
            .serial
            .into_iter()
            .zip(irq::COM)
            .map(|(serial, irq)| shared(Uart::new(line(irq), serial.sink, serial.room)))
            .collect(),
        system_control_a: shared(SystemControlA::new(reset.clone())),
        reset_control: shared(ResetControl::new(reset)),
        post_code: shared(PostCode::new()),
        test: plan.test_device.then(|| TestChips {
            device: shared(TestDevice::new(std::array::from_fn(|number| line(number as u32)))),
            fw_cfg: shared(FwCfg::new(plan.map.bytes(), plan.wakers.len() as u16)),
        }),
        pic,
        io_apic,
    };
    chips.map()?;
    if plan.debug_exit {
        let stop = plan.stop;
        let exit = DebugExit::new(Box::new(move |value| stop.stop(StopReason::DebugExit(value))));
        chips.ports.claim("debug exit", ports(port::DEBUG_EXIT, 4), 0, shared(exit))?;
    }
    Ok(chips)
}

fn local_apics(plan: &Plan, bus: &Arc<ApicBus>, pic: &Arc<Mutex<Pic>>) -> Vec<LocalApic> {
    let make = |cpu: usize| {
        let alarm = plan.timers.alarm();
        let port = bus.port(cpu);
        alarm.connect(move || port.timer_expired());
        let wiring = LocalApicWiring {
            clock: plan.clock.clone(),
            tsc: plan.clock.clone(),
            timer: Box::new(alarm),
            // The 8259 pair leads to the boot processor only.
            pic: (cpu == 0).then(|| pic.clone()),
        };
        let mut apic = LocalApic::new(cpu, plan.physical_bits, bus.clone(), wiring);
        apic.firmware_setup();
        apic
    };
    (0..plan.wakers.len()).map(make).collect()
}

impl Chips {
    /// Gives every chip its addresses.
    fn map(&self) -> Result<(), BusError> {
        use port::*;
        // name, ports, register at the first of them, chip
        #[rustfmt::skip]
        let table: [(&'static str, RangeInclusive<u16>, u16, SharedPortDevice); 14] = [
            ("8259 master",      ports(PIC_MASTER, 2),               0, self.pic.clone()),
            ("8259 slave",       ports(PIC_SLAVE, 2),                2, self.pic.clone()),
            ("8259 edge/level",  ports(ELCR, 2),                     4, self.pic.clone()),
            ("8254",             ports(PIT, 4),                      0, self.pit.clone()),
            ("system control B", ports(SYSTEM_CONTROL_B, 1),         4, self.pit.clone()),
            ("8042 data",        ports(I8042_DATA, 1),               0, self.i8042.clone()),
            ("8042 command",     ports(I8042_COMMAND, 1),            4, self.i8042.clone()),
            ("MC146818",         ports(RTC, 2),                      0, self.rtc.clone()),
            ("POST code",        ports(POST_CODE, 1),                0, self.post_code.clone()),
            ("system control A", ports(SYSTEM_CONTROL_A, 1),         0, self.system_control_a.clone()),
            ("SMI command",      ports(SMI_COMMAND, 2),              acpi_pm::SMI_COMMAND, self.pm.clone()),
            ("power management", ports(PM, acpi_pm::BLOCKS_LENGTH),  0, self.pm.clone()),
            ("PCI address",      ports(PCI_CONFIG, 4),               0, self.pci.clone()),
            ("PCI data",         ports(PCI_CONFIG + 4, 4),           4, self.pci.clone()),
        ];
        for (name, ports, register, chip) in table {
            self.ports.claim(name, ports, register, chip)?;
        }
        self.ports.claim_byte("reset control", RESET_CONTROL, 0, self.reset_control.clone())?;
        for (uart, first) in self.uarts.iter().zip(COM) {
            self.ports.claim("16550", ports(first, 8), 0, uart.clone())?;
        }
        if let Some(TestChips { device, fw_cfg }) = &self.test {
            self.ports.claim("test data", ports(TEST_DATA, 4), TestDevice::DATA, device.clone())?;
            self.ports.claim(
                "test lines",
                ports(TEST_LINES, LINES as u16),
                TestDevice::LINE,
                device.clone(),
            )?;
            self.mmio.claim("test memory", map::TEST_MEMORY, MEMORY_LEN as u64, device.clone())?;
            self.ports.claim("firmware configuration", ports(FW_CFG, 2), 0, fw_cfg.clone())?;
        }
        self.mmio.claim("I/O APIC", map::IO_APIC, IO_APIC_LEN, self.io_apic.clone())
    }

    /// Every chip that has a state, with its number among its kind, in the order in which a saved state is to be
    /// restored: devices drive their lines then, and what the interrupt controllers had seen overrules that. The
    /// local APICs, which come after these, are with their vCPUs.
    pub fn units(&self) -> Vec<(u32, Box<dyn Unit>)> {
        let mut units = vec![
            (0, unit(&self.post_code)),
            (0, unit(&self.system_control_a)),
            (0, unit(&self.reset_control)),
            (0, unit(&self.i8042)),
            (0, unit(&self.pci)),
            (0, unit(&self.host_bridge)),
            (0, unit(&self.rtc)),
            (0, unit(&self.pm)),
            (0, unit(&self.pit)),
        ];
        units.extend((0..).zip(self.uarts.iter().map(unit)));
        for (slot, function) in (0..).zip(&self.functions) {
            units.extend(function.units().map(|unit| (slot, unit)));
        }
        if let Some(TestChips { device, fw_cfg }) = &self.test {
            units.push((0, unit(device)));
            units.push((0, unit(fw_cfg)));
        }
        units.push((0, unit(&self.pic)));
        units.push((0, unit(&self.io_apic)));
        units
    }
}

/// A handle to a chip for saving and restoring it.
pub(crate) fn unit<T: Persist + 'static>(chip: &Arc<Mutex<T>>) -> Box<dyn Unit> {
    Box::new(chip.clone())
}
