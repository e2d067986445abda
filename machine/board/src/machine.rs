//! Configuration to machine, and the machine's life: built, run until something stops it, taken down; a reset
//! builds it anew from the same configuration, as turning the board off and on does.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use devices::acpi_pm::AcpiPm;
use dispatcher::Dispatcher;
use host::Stubs;
use host::sandbox::{Sandbox, SandboxError};
use memory::{AllocateError, GuestRam};
use thiserror::Error;
use vcpu::{CpuState, EngineError};
use x86::cpuid::{CpuidConfig, CpuidTable};

use crate::acpi::{self, Description};
use crate::clock::Clock;
use crate::engine::{self, EngineChoice, Promotion};
use crate::insight::{Answer, Ask, AskError, Insight, Question, Seat, Snapshot, Whole, answer};
use crate::load::{self, Format, LoadError, Request};
use crate::map::{BIOS, MemoryMap, SizeError};
use crate::masked::Masked;
use crate::processor::{Processor, ProcessorView, Shared};
use crate::serial::SerialLine;
use crate::stop::{StopReason, StopSwitch};
use crate::timers::TimerService;
use crate::virtio::Peripheral;
use crate::waker::Waker;
use crate::wiring::{self, Chips, IO_APIC_ID, Plan, SerialPort, WiringError};
use crate::yard::Yard;
use crate::{firmware, isa, vcpu_thread};

/// Where the bytes of a kernel or module come from. Files are read at every start of the machine and not kept.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A file that is open already: it can be read again where none can be opened.
    Open(PathBuf, Arc<File>),
    /// These.
    Bytes(Arc<[u8]>),
}

impl Source {
    /// The same, open.
    fn open(&self) -> Result<Self, BuildError> {
        match self {
            Self::File(path) => match File::open(path) {
                Ok(file) => Ok(Self::Open(path.clone(), Arc::new(file))),
                Err(source) => Err(BuildError::Read { path: path.clone(), source }),
            },
            other => Ok(other.clone()),
        }
    }

    fn read(&self) -> Result<Arc<[u8]>, BuildError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(_) => self.open()?.read(),
            Self::Open(path, file) => {
                let mut file: &File = file;
                let mut bytes = Vec::new();
                file.rewind()
                    .and_then(|()| file.read_to_end(&mut bytes))
                    .map_err(|source| BuildError::Read { path: path.clone(), source })?;
                Ok(bytes.into())
            }
        }
    }
}

/// See [`Config::last_look`].
pub type LastLook = Arc<dyn Fn(&mut Ask<'_>) + Send + Sync>;

/// Most vCPUs: so many translation caches, of a decent size, find room below 2 GiB.
pub const MOST_CPUS: u8 = 16;

/// What a machine is made of.
#[derive(Clone)]
pub struct Config {
    /// RAM in bytes.
    pub memory: u64,
    /// Number of vCPUs, up to [`MOST_CPUS`].
    pub cpus: u8,
    /// How guest code runs.
    pub engine: EngineChoice,
    /// When ring 3 runs untranslated; none is never.
    pub direct: Option<Promotion>,
    /// Bytes of each vCPU's translation cache; none is what the engine thinks fit.
    pub cache: Option<usize>,
    /// The kernel.
    pub kernel: Source,
    /// Initial RAM disks or boot modules.
    pub modules: Vec<Source>,
    /// The kernel's command line.
    pub cmdline: String,
    /// COM1, COM2 and so on.
    pub serial: Vec<Arc<SerialLine>>,
    /// What is plugged into PCI's slots, in order.
    pub peripherals: Vec<Arc<dyn Peripheral>>,
    /// Whether there is a debug-exit port.
    pub debug_exit: bool,
    /// Whether there are the devices that tests of virtual machine monitors expect.
    pub test_device: bool,
    /// Whether a reset starts the machine again rather than ending it.
    pub reboot: bool,
    /// Where a debugger may hold its processors; none costs nothing.
    pub yard: Option<Arc<Yard>>,
    /// Called at the end of each life, when nothing moves any more, with a way to ask the machine what it was. Engines
    /// remember for it what host code they have thrown away.
    pub last_look: Option<LastLook>,
    /// What whoever runs the machine needs of this process from then on; none lets the process do what it may now.
    pub sandbox: Option<Sandbox>,
}

/// Why there is no machine.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The size of RAM.
    #[error("cannot make a machine of this size")]
    Size(#[from] SizeError),
    /// The host does not have so much memory.
    #[error("the guest is to have {wanted} bytes of memory, the host has {total} in all")]
    HostMemory {
        /// What was asked for.
        wanted: u64,
        /// What there is.
        total: u64,
    },
    /// The host gives no memory.
    #[error("cannot allocate the guest's memory")]
    Memory(#[from] AllocateError),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine cannot be set up.
    #[error("cannot set up the {name} engine")]
    Engine {
        /// Which.
        name: &'static str,
        /// Why.
        source: EngineError,
    },
    /// This process cannot be restricted.
    #[error("cannot set up the sandbox")]
    Sandbox(#[from] SandboxError),
    /// The host refused something.
    #[error("cannot keep time")]
    Timers(#[source] host::HostError),
    /// Two devices at one address: the table of addresses is wrong.
    #[error("the board is wired wrongly")]
    Wiring(#[from] WiringError),
}

/// Stops a machine from outside, whichever of its lives it is in.
#[derive(Clone, Default)]
pub struct Control {
    state: Arc<Mutex<ControlState>>,
}

#[derive(Default)]
struct ControlState {
    current: Option<Life>,
    /// Asked for while there was no machine.
    early: Option<StopReason>,
    /// To be called when there is one.
    on_start: Option<Box<dyn FnOnce() + Send>>,
}

/// What of one life of the machine can be reached from outside.
#[derive(Clone)]
struct Life {
    stop: Arc<StopSwitch>,
    pm: Arc<Mutex<AcpiPm>>,
    insight: Arc<Insight>,
}

impl Control {
    /// Stops the machine for this reason; one that is yet to start will not. A life that ends by itself at this
    /// moment may be followed by another: that is the one which does not start then.
    pub fn stop(&self, mut reason: StopReason) {
        let lock = || self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let current = {
                let mut state = lock();
                let Some(current) = state.current.clone() else {
                    state.early.get_or_insert(reason);
                    return;
                };
                current
            };
            // Without our lock: a stop calls whoever waits for it.
            match current.stop.try_stop(reason) {
                Ok(()) => return,
                Err(refused) => reason = refused,
            }
            let mut state = lock();
            // If it is still this life, the next has yet to begin.
            if state.current.as_ref().is_some_and(|life| Arc::ptr_eq(&life.stop, &current.stop)) {
                state.early.get_or_insert(reason);
                return;
            }
        }
    }

    /// Presses the power button, which asks the guest to turn itself off. Says whether it listens: one that is
    /// starting, or has no driver for the button, does not.
    pub fn power_button(&self) -> bool {
        // Without our lock: the chip's interrupt may wake a processor, which is no business of it.
        let life = self.state.lock().unwrap_or_else(PoisonError::into_inner).current.clone();
        life.is_some_and(|life| devices::wiring::lock(&life.pm).press_power_button())
    }

    /// Looks at the machine. May take as long as a vCPU needs to come out of what it is at.
    pub fn ask(&self, question: &Question) -> Result<Answer, AskError> {
        let life = self.state.lock().unwrap_or_else(PoisonError::into_inner).current.clone();
        life.ok_or(AskError::NotRunning)?.insight.ask(question)
    }

    /// Has this called when the machine has been built and is about to run for the first time.
    pub fn on_start(&self, callback: impl FnOnce() + Send + 'static) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).on_start = Some(Box::new(callback));
    }

    fn set(&self, life: Option<Life>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.current = life;
        let Some(current) = state.current.clone() else { return };
        if let Some(early) = state.early.take() {
            current.stop.stop(early);
        }
        let on_start = state.on_start.take();
        drop(state);
        if let Some(on_start) = on_start {
            on_start();
        }
    }
}

/// How a machine ended.
#[derive(Debug)]
pub struct End {
    /// Why.
    pub reason: StopReason,
    /// What was counted of each vCPU in its last life.
    pub counters: Vec<Snapshot>,
}

/// Runs a machine to its end, through as many resets as the guest asks for. With a sandbox, this process is in it
/// from before the first life on, so that every life is built under the same rules.
pub fn run(config: &Config, control: &Control) -> Result<End, BuildError> {
    let config = &Config {
        kernel: config.kernel.open()?,
        modules: config.modules.iter().map(Source::open).collect::<Result<_, _>>()?,
        ..config.clone()
    };
    let mut stubs = None;
    let mut start = || {
        stubs = engine::stubs(config);
        stubs.as_ref().map_or(Vec::new(), |stubs| stubs.pids().to_vec())
    };
    match &config.sandbox {
        Some(sandbox) => {
            let mut sandbox = sandbox.clone();
            config.peripherals.iter().for_each(|peripheral| peripheral.needs(&mut sandbox));
            confine(&sandbox, start)?;
        }
        None => drop(start()),
    }
    loop {
        let mut machine = Machine::build(config, stubs.as_ref())?;
        control.set(Some(Life {
            stop: machine.stop.clone(),
            pm: machine.chips.pm.clone(),
            insight: machine.insight(),
        }));
        let reason = machine.run(config);
        control.set(None);
        if let Some(look) = &config.last_look {
            look(&mut |question| machine.ask(question));
        }
        let end = End { reason, counters: machine.counters() };
        if !matches!(end.reason, StopReason::Reset) || !config.reboot {
            return Ok(end);
        }
        tracing::info!("the guest resets");
    }
}

/// Puts the sandbox in force.
fn confine(sandbox: &Sandbox, start: impl FnOnce() -> Vec<u32>) -> Result<(), SandboxError> {
    // Found out once, and in part from files.
    host::cpu::tsc_frequency();
    for gap in sandbox.enter_with(start)?.gaps() {
        tracing::warn!("a guest that breaks out of its machine finds open: {gap}; see `popf doctor`");
    }
    Ok(())
}

/// One life of a machine, from power-on to the first stop.
pub struct Machine {
    pub(crate) processors: Vec<Processor>,
    pub(crate) chips: Chips,
    pub(crate) clock: Arc<Clock>,
    whole: Whole,
    stop: Arc<StopSwitch>,
    /// Alarms may go off until this is dropped, or [`Machine::run`] has ended.
    timers: Option<TimerService>,
}

impl Machine {
    /// Builds the machine and loads its kernel.
    pub fn build(config: &Config, stubs: Option<&Arc<Stubs>>) -> Result<Self, BuildError> {
        let map = MemoryMap::new(config.memory)?;
        if let Some(total) = host::system::total_memory()
            && config.memory > total
        {
            return Err(BuildError::HostMemory { wanted: config.memory, total });
        }
        let ram = GuestRam::allocate(config.memory)?;
        let clock = Arc::new(Clock::start(host::cpu::rdtsc, host::cpu::tsc_hz()));
        let cpuid = Arc::new(cpuid_table(config, &clock));
        let (boot, format) = boot_state(config, &map, &ram, &cpuid)?;

        let timers = TimerService::start(clock.clone()).map_err(BuildError::Timers)?;
        let stop = Arc::new(StopSwitch::default());
        let wakers: Vec<_> = (0..config.cpus).map(|_| Arc::new(Waker::default())).collect();
        for waker in &wakers {
            let waker = waker.clone();
            stop.on_stop(Arc::new(move || devices::apic::Wake::wake(&*waker)));
        }
        if let Some(yard) = &config.yard {
            stop.on_stop(yard.wakeup());
        }
        let mut chips = wiring::wire(Plan {
            map: &map,
            ram: &ram,
            peripherals: &config.peripherals,
            physical_bits: cpuid.physical_bits(),
            serial: config
                .serial
                .iter()
                .map(|line| SerialPort { sink: line.sink(), room: line.room() })
                .collect(),
            debug_exit: config.debug_exit,
            test_device: config.test_device,
            clock: clock.clone(),
            timers: &timers,
            stop: stop.clone(),
            wakers: &wakers,
        })?;
        if format == Format::Multiboot {
            firmware::start_clock(&chips.ports);
        }
        let shared = Shared {
            ram: ram.clone(),
            ports: chips.ports.clone(),
            mmio: chips.mmio.clone(),
            clock: clock.clone(),
            cpuid,
            stop: stop.clone(),
            called: config.yard.as_ref().map(|yard| yard.calls()),
            masked: Arc::new(Masked::new(chips.local_apics.iter().map(|apic| apic.port().clone()).collect())),
        };
        let peers = engine::peers(config);
        let mut processors = Vec::new();
        for (index, (apic, waker)) in chips.local_apics.drain(..).zip(wakers).enumerate() {
            let cpu = match index {
                0 => boot.clone(),
                _ => firmware::application(shared.cpuid.physical_bits()),
            };
            let mut engine = engine::make(config, &ram, (&peers, stubs), shared.cpuid.physical_bits())
                .map_err(|(name, source)| BuildError::Engine { name, source })?;
            if config.last_look.is_some() {
                engine.keep_host_code();
            }
            let view = ProcessorView::new(shared.clone(), index as u32, apic, waker.clone());
            processors.push(Processor { dispatcher: Dispatcher::new(engine, cpu), view, waker });
        }
        let whole = Whole { vcpus: config.cpus, tsc_hz: clock.tsc_hz() };
        Ok(Self { processors, chips, clock, whole, stop, timers: Some(timers) })
    }

    /// How its vCPUs can be looked at while they run.
    fn insight(&self) -> Arc<Insight> {
        let seat = |processor: &Processor| Seat {
            desk: processor.dispatcher.desk(),
            waker: processor.waker.clone(),
        };
        Arc::new(Insight::new(self.processors.iter().map(seat).collect(), self.whole))
    }

    /// Runs it until something stops it, and says what. All that moved stands still then, for good.
    pub fn run(&mut self, config: &Config) -> StopReason {
        for (line, uart) in config.serial.iter().zip(&self.chips.uarts) {
            line.attach(uart);
        }
        if let Some(yard) = &config.yard {
            yard.begin(self.processors.iter().map(|processor| processor.waker.clone()).collect());
        }
        let mut threads = Vec::new();
        for (index, processor) in self.processors.drain(..).enumerate() {
            let stop = self.stop.clone();
            let name = format!("vcpu{index}");
            let yard = config.yard.clone();
            let run = move || vcpu_thread::run(processor, index, &stop, yard.as_deref());
            match thread::Builder::new().name(name).spawn(run) {
                Ok(thread) => threads.push(thread),
                Err(error) => self.stop.stop(StopReason::NoThread(error)),
            }
        }
        self.stop.wait();
        // A panic has been reported by its thread, and made the reason by its guard.
        self.processors = threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
        if let Some(yard) = &config.yard {
            yard.finish();
        }
        for line in &config.serial {
            line.detach();
        }
        for peripheral in &config.peripherals {
            peripheral.detach();
        }
        // No callback into a chip from here on.
        self.timers = None;
        self.stop.take_reason().unwrap_or(StopReason::Bug)
    }

    /// Answers a question, while no vCPU has a thread.
    fn ask(&mut self, question: &Question) -> Result<Answer, AskError> {
        let (whole, there) = (self.whole, self.processors.len());
        let asked = question.vcpu();
        let none = AskError::NoProcessor { asked, there };
        let processor = self.processors.get_mut(usize::from(asked)).ok_or(none)?;
        answer::to(question, whole, &mut processor.dispatcher, &mut processor.view)
    }

    /// What has been counted of each vCPU, while none has a thread.
    fn counters(&mut self) -> Vec<Snapshot> {
        let vcpus = self.whole.vcpus;
        let counters = |vcpu| match self.ask(&Question::Counters { vcpu }) {
            Ok(Answer::Counters(snapshot)) => Some(*snapshot),
            _ => None,
        };
        (0..vcpus).filter_map(counters).collect()
    }
}

/// The host's CPUID, made the guest's.
fn cpuid_table(config: &Config, clock: &Clock) -> CpuidTable {
    let cpuid = CpuidConfig {
        vcpus: config.cpus.into(),
        host_xcr0: host::cpu::xcr0(),
        tsc_khz: u32::try_from(clock.tsc_hz() / 1000).ok(),
    };
    CpuidTable::new(&cpuid, |leaf, subleaf| {
        let host::cpu::Cpuid { eax, ebx, ecx, edx } = host::cpu::cpuid(leaf, subleaf);
        [eax, ebx, ecx, edx]
    })
}

/// Loads the kernel and the tables; the boot processor's state at its first instruction.
fn boot_state(
    config: &Config,
    map: &MemoryMap,
    ram: &GuestRam,
    cpuid: &CpuidTable,
) -> Result<(CpuState, Format), BuildError> {
    let kernel = config.kernel.read()?;
    let modules = config.modules.iter().map(Source::read).collect::<Result<Vec<_>, _>>()?;
    let modules: Vec<&[u8]> = modules.iter().map(AsRef::as_ref).collect();
    let tables = acpi::tables(&Description {
        cpus: config.cpus,
        io_apic_id: IO_APIC_ID,
        serial_ports: config.serial.len().min(isa::port::COM.len()),
    });
    let loaded = load::load(&Request {
        kernel: &kernel,
        modules: &modules,
        cmdline: &config.cmdline,
        map,
        rsdp: tables.rsdp,
    })?;
    if loaded.format == Format::Multiboot {
        firmware::write_vectors(ram);
    }
    // Loaders place inside the map, which is the RAM's own.
    for piece in &loaded.pieces {
        ram.write(piece.gpa, &piece.bytes).expect("loaders stay inside RAM");
    }
    ram.write(BIOS, &tables.bytes).expect("the BIOS area is RAM");
    Ok((firmware::finish(loaded.cpu, cpuid.physical_bits()), loaded.format))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
