//! Which chip sits where: one table of ports, memory and interrupt lines, after the PC/AT with the additions of
//! the PIIX south bridge (I/O APIC, power management, reset control). The only place that knows both a chip and
//! its address.

use std::sync::{Arc, Mutex};

use devices::acpi_pm::{self, AcpiPm};
use devices::apic::{ApicBus, IoApic, LINT0, LocalApic, LocalApicWiring, Wake};
use devices::bus::{BusError, MmioBus, PortBus};
use devices::legacy::i8042::I8042;
use devices::legacy::pic::Pic;
use devices::legacy::pit::Pit;
use devices::legacy::ports::{DebugExit, PostCode, ResetControl, SystemControlA};
use devices::legacy::rtc::Rtc;
use devices::legacy::uart::Uart;
use devices::pci::root::SlotError;
use devices::pci::{HostBridge, PciRoot};
use devices::wiring::{IrqLine, Notify, SerialSink, lock, ports};

use thiserror::Error;

use crate::clock::{Clock, HostWallClock};
use crate::isa::{PIT_PIN, irq, port};
use crate::map::{self, MemoryMap};
use crate::stop::{StopReason, StopSwitch};
use crate::timers::TimerService;
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
    /// RAM.
    pub map: &'a MemoryMap,
    /// Width of a physical address.
    pub physical_bits: u8,
    /// COM1, COM2 and so on.
    pub serial: Vec<SerialPort>,
    /// Whether there is a debug-exit port.
    pub debug_exit: bool,
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
    /// The same, without the local APICs' owners: who sends messages to them.
    pub apic_bus: Arc<ApicBus>,
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
    /// PCI's configuration space.
    pub pci: Arc<Mutex<PciRoot>>,
    /// COM1, COM2 and so on.
    pub uarts: Vec<Arc<Mutex<Uart>>>,
}

/// Builds and wires all chips.
pub fn wire(plan: Plan) -> Result<Chips, WiringError> {
    let wakes = plan.wakers.iter().map(|waker| waker.clone() as Arc<dyn Wake>).collect();
    let apic_bus = ApicBus::new(wakes);
    let io_apic = Arc::new(Mutex::new(IoApic::new(IO_APIC_ID, apic_bus.clone())));
    apic_bus.attach_io_apic(&io_apic);
    let intr = IrqLine::new(apic_bus.port(0), LINT0);
    let pic = Arc::new(Mutex::new(Pic::new(intr)));

    // An ISA line leads to both interrupt controllers; the guest masks what it does not use.
    let line = |number: u32| {
        let pin = if number == irq::PIT { PIT_PIN } else { number };
        IrqLine::split(vec![IrqLine::new(pic.clone(), number), IrqLine::new(io_apic.clone(), pin)])
    };
    let stops = |reason: fn() -> StopReason| -> Notify {
        let stop = plan.stop.clone();
        Arc::new(move || stop.stop(reason()))
    };
    let reset = stops(|| StopReason::Reset);
    let clock = plan.clock;
    let alarm = || plan.timers.alarm();

    let pit_alarm = alarm();
    let pit = Pit::new(clock.clone(), Box::new(pit_alarm.clone()), line(irq::PIT));
    let pit = Arc::new(Mutex::new(pit));
    pit_alarm.connect({
        let pit = pit.clone();
        move || lock(&pit).fire()
    });

    let rtc_alarm = alarm();
    let mut rtc =
        Rtc::new(clock.clone(), Arc::new(HostWallClock), Box::new(rtc_alarm.clone()), line(irq::RTC));
    rtc.set_memory_size(plan.map.low_end(), plan.map.high_end() - map::FOUR_GIB);
    let rtc = Arc::new(Mutex::new(rtc));
    rtc_alarm.connect({
        let rtc = rtc.clone();
        move || lock(&rtc).fire()
    });

    let pm_alarm = alarm();
    let power_off = stops(|| StopReason::PowerOff);
    let pm = AcpiPm::new(clock.clone(), Box::new(pm_alarm.clone()), line(irq::SCI), power_off);
    let pm = Arc::new(Mutex::new(pm));
    pm_alarm.connect({
        let pm = pm.clone();
        move || lock(&pm).fire()
    });

    let i8042 = I8042::new(line(irq::KEYBOARD), line(irq::MOUSE), reset.clone());
    let i8042 = Arc::new(Mutex::new(i8042));
    let mut pci = PciRoot::new();
    pci.add(0, 0, Arc::new(Mutex::new(HostBridge::new())))?;
    let pci = Arc::new(Mutex::new(pci));
    let uarts: Vec<_> = plan
        .serial
        .into_iter()
        .zip(irq::COM)
        .map(|(serial, irq)| Arc::new(Mutex::new(Uart::new(line(irq), serial.sink, serial.room))))
        .collect();
    let reset_control = Arc::new(Mutex::new(ResetControl::new(reset.clone())));
    let system_control_a = Arc::new(Mutex::new(SystemControlA::new(reset)));
    let post_code = Arc::new(Mutex::new(PostCode::new()));

    let bus = Arc::new(PortBus::new());
    {
        use port::*;
        // name, ports, register at the first of them, chip
        #[rustfmt::skip]
        let table: [(&'static str, _, u16, devices::bus::SharedPortDevice); 14] = [
            ("8259 master",       ports(PIC_MASTER, 2),       0,  pic.clone()),
            ("8259 slave",        ports(PIC_SLAVE, 2),        2,  pic.clone()),
            ("8259 edge/level",   ports(ELCR, 2),             4,  pic.clone()),
            ("8254",              ports(PIT, 4),              0,  pit.clone()),
            ("system control B",  ports(SYSTEM_CONTROL_B, 1), 4,  pit.clone()),
            ("8042 data",         ports(I8042_DATA, 1),       0,  i8042.clone()),
            ("8042 command",      ports(I8042_COMMAND, 1),    4,  i8042.clone()),
            ("MC146818",          ports(RTC, 2),              0,  rtc.clone()),
            ("POST code",         ports(POST_CODE, 1),        0,  post_code),
            ("system control A",  ports(SYSTEM_CONTROL_A, 1), 0,  system_control_a),
            ("SMI command",       ports(SMI_COMMAND, 2),      acpi_pm::SMI_COMMAND, pm.clone()),
            ("power management",  ports(PM, acpi_pm::BLOCKS_LENGTH), 0,  pm.clone()),
            ("PCI address",       ports(PCI_CONFIG, 4),       0,  pci.clone()),
            ("PCI data",          ports(PCI_CONFIG + 4, 4),   4,  pci.clone()),
        ];
        for (name, ports, register, chip) in table {
            bus.claim(name, ports, register, chip)?;
        }
        bus.claim_byte("reset control", RESET_CONTROL, 0, reset_control)?;
        for (uart, first) in uarts.iter().zip(COM) {
            bus.claim("16550", ports(first, 8), 0, uart.clone())?;
        }
        if plan.debug_exit {
            let stop = plan.stop.clone();
            let exit = DebugExit::new(Box::new(move |value| stop.stop(StopReason::DebugExit(value))));
            bus.claim("debug exit", ports(DEBUG_EXIT, 4), 0, Arc::new(Mutex::new(exit)))?;
        }
    }
    let mmio = Arc::new(MmioBus::new());
    mmio.claim("I/O APIC", map::IO_APIC, IO_APIC_LEN, io_apic.clone())?;

    let local_apics = (0..plan.wakers.len())
        .map(|cpu| {
            let alarm = alarm();
            let port = apic_bus.port(cpu);
            alarm.connect(move || port.timer_expired());
            let mut apic = LocalApic::new(
                cpu,
                plan.physical_bits,
                apic_bus.clone(),
                LocalApicWiring {
                    clock: clock.clone(),
                    tsc: clock.clone(),
                    timer: Box::new(alarm),
                    // The 8259 pair leads to the boot processor only.
                    pic: (cpu == 0).then(|| pic.clone()),
                },
            );
            apic.firmware_setup();
            apic
        })
        .collect();
    Ok(Chips { ports: bus, mmio, local_apics, apic_bus, pic, io_apic, pit, rtc, i8042, pm, pci, uarts })
}
