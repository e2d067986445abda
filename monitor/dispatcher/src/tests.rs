//! The loop against an engine that plays a script and an environment that keeps a log.

mod watched;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use iced_x86::{Decoder, DecoderOptions};
use vcpu::{
    Activity, CpuState, DebugPoints, Delivery, Engine, EngineError, Entry, Environment, Event, Exit, Insn,
    Invalidation, Kick, Mmio, Shadow, Signal,
};
use x86::classify::{Routine, routine};
use x86::paging::PageTables;
use x86::register::gpr;
use x86::{Exception, Rflags, SegmentRegister};

use crate::{Cause, Dispatcher, Failure, Stop};

mod debug;

/// What the engine saw, in order.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Run(Entry),
    Invalidate(Invalidation),
    Window(bool),
    Points(Arc<DebugPoints>),
}

type Step = Box<dyn FnMut(&mut CpuState) -> Exit + Send>;

#[derive(Default)]
struct Kicks(AtomicU32);

impl Kick for Kicks {
    fn kick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Plays a script of exits.
struct Script {
    steps: VecDeque<Step>,
    seen: Arc<Mutex<Vec<Seen>>>,
    kicks: Arc<Kicks>,
    delivery: Delivery,
}

impl Engine for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    fn admits(&self, _cpu: &CpuState) -> bool {
        true
    }

    fn delivery(&self) -> Delivery {
        self.delivery
    }

    fn run(&mut self, cpu: &mut CpuState, entry: Entry) -> Exit {
        self.seen.lock().unwrap().push(Seen::Run(entry));
        let mut step = self.steps.pop_front().expect("no more runs than the script has");
        step(cpu)
    }

    fn invalidate(&mut self, what: Invalidation) {
        self.seen.lock().unwrap().push(Seen::Invalidate(what));
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.seen.lock().unwrap().push(Seen::Window(wanted));
    }

    fn set_debug_points(&mut self, points: &Arc<DebugPoints>) {
        self.seen.lock().unwrap().push(Seen::Points(points.clone()));
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kicks) as _
    }
}

type Happening = Box<dyn FnOnce(&mut World)>;

/// A machine of 64 KiB whose interrupts and signals the test lines up.
#[derive(Default)]
struct World {
    ram: std::cell::RefCell<Vec<u8>>,
    interrupts: VecDeque<u8>,
    signals: VecDeque<Signal>,
    /// What happens at each wait; an empty queue stops the run.
    waits: VecDeque<Happening>,
    waited: Vec<&'static str>,
    mmio: Vec<Mmio>,
    ports: Vec<(u16, Option<u32>)>,
    stop: bool,
    /// What a device's memory raises when it is accessed next.
    raises: (Option<u8>, Option<Signal>),
    /// What IA32_APIC_BASE says.
    bootstrap: bool,
}

impl World {
    fn new() -> Self {
        Self { ram: vec![0; 0x1_0000].into(), bootstrap: true, ..Self::default() }
    }

    fn pass(&mut self, how: &'static str) {
        self.waited.push(how);
        match self.waits.pop_front() {
            Some(happening) => happening(self),
            None => self.stop = true,
        }
    }
}

impl PageTables for World {
    fn read_u32(&self, _gpa: u64) -> u32 {
        0
    }

    fn read_u64(&self, _gpa: u64) -> u64 {
        0
    }

    fn compare_exchange_u32(&self, _gpa: u64, _current: u32, _new: u32) -> bool {
        true
    }

    fn compare_exchange_u64(&self, _gpa: u64, _current: u64, _new: u64) -> bool {
        true
    }
}

impl Environment for World {
    fn read_memory(&mut self, gpa: u64, data: &mut [u8]) {
        if gpa >= 0x1_0000 {
            self.mmio.push(Mmio { gpa, size: data.len() as u8, write: None });
            data.fill(0x5a);
            return;
        }
        data.copy_from_slice(&self.ram.borrow()[gpa as usize..][..data.len()]);
    }

    fn write_memory(&mut self, gpa: u64, data: &[u8]) {
        if gpa >= 0x1_0000 {
            let mut value = [0; 8];
            value[..data.len()].copy_from_slice(data);
            let write = Some(u64::from_le_bytes(value));
            self.mmio.push(Mmio { gpa, size: data.len() as u8, write });
            // A device that ends the machine.
            self.stop |= gpa == 0xdead_0000;
            let (interrupt, signal) = std::mem::take(&mut self.raises);
            self.interrupts.extend(interrupt);
            self.signals.extend(signal);
            return;
        }
        self.ram.borrow_mut()[gpa as usize..][..data.len()].copy_from_slice(data);
    }

    fn read_port(&mut self, port: u16, _size: u8) -> u32 {
        self.ports.push((port, None));
        0x77
    }

    fn write_port(&mut self, port: u16, _size: u8, value: u32) {
        self.ports.push((port, Some(value)));
    }

    fn cpuid(&self, _leaf: u32, _subleaf: u32, _osxsave: bool, _xcr0: u64) -> [u32; 4] {
        [0; 4]
    }

    fn tsc(&self) -> u64 {
        0
    }

    fn read_apic_msr(&mut self, _msr: u32) -> Option<u64> {
        Some(if self.bootstrap { 0xfee0_0900 } else { 0xfee0_0800 })
    }

    fn write_apic_msr(&mut self, _msr: u32, _value: u64, _tsc_offset: u64) -> Option<()> {
        None
    }

    fn task_priority(&mut self) -> u8 {
        0
    }

    fn set_task_priority(&mut self, _priority: u8) {}

    fn interrupt_waits(&mut self) -> bool {
        !self.interrupts.is_empty()
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        self.interrupts.pop_front()
    }

    fn signal_waits(&self) -> bool {
        !self.signals.is_empty()
    }

    fn take_signal(&mut self) -> Option<Signal> {
        self.signals.pop_front()
    }

    fn wait(&mut self) {
        self.pass("any");
    }

    fn wait_masked(&mut self) {
        self.pass("masked");
    }

    fn stop_requested(&self) -> bool {
        self.stop
    }
}

struct Bench {
    dispatcher: Dispatcher,
    world: World,
    seen: Arc<Mutex<Vec<Seen>>>,
    kicks: Arc<Kicks>,
}

impl Bench {
    /// A vCPU in real mode, its vectors pointing at segment 0x1000 + vector, with a script that ends in
    /// [`EngineError`], so that every test sees where it stopped.
    fn new(steps: Vec<Step>) -> Self {
        Self::with(Delivery::Interpreter, steps)
    }

    fn with(delivery: Delivery, steps: Vec<Step>) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kicks = Arc::new(Kicks::default());
        let end: Step = Box::new(|cpu| {
            Exit::Fatal(EngineError::Unsupported { what: "the end".to_owned(), rip: cpu.rip })
        });
        let steps = steps.into_iter().chain([end]).collect();
        let engine = Script { steps, seen: Arc::clone(&seen), kicks: Arc::clone(&kicks), delivery };
        let mut cpu = CpuState::reset();
        cpu.rip = 0x100;
        let cs = cpu.segment_mut(SegmentRegister::Cs);
        (cs.selector, cs.base) = (0, 0);
        cpu.gpr[gpr::RSP] = 0x8000;
        cpu.idtr.limit = 0x3ff;
        let world = World::new();
        for vector in 0..=255_u16 {
            let at = usize::from(vector) * 4;
            world.ram.borrow_mut()[at + 2..at + 4].copy_from_slice(&(0x1000 + vector).to_le_bytes());
        }
        Self { dispatcher: Dispatcher::new(Box::new(engine), cpu), world, seen, kicks }
    }

    fn cpu(&mut self) -> &mut CpuState {
        self.dispatcher.cpu_mut()
    }

    fn run(&mut self) -> Stop {
        self.dispatcher.run(&mut self.world)
    }

    /// Runs to the end of the script.
    #[track_caller]
    fn run_out(&mut self) {
        let stop = self.run();
        assert!(matches!(stop, Stop::Failed(Failure::Engine { engine: "script", .. })), "{stop:?}");
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The vector whose handler the vCPU is at the start of.
    fn handler(&self) -> Option<u16> {
        let cpu = self.dispatcher.cpu();
        let selector = cpu.segment(SegmentRegister::Cs).selector;
        (cpu.rip == 0).then(|| selector.checked_sub(0x1000)).flatten()
    }
}

fn sensitive(bytes: &'static [u8]) -> Step {
    Box::new(move |cpu| {
        let mode = cpu.mode();
        let instruction = Decoder::with_ip(mode.code_bits(), bytes, cpu.rip, DecoderOptions::NONE).decode();
        let routine = routine(instruction.code(), mode).expect("an instruction with a routine");
        Exit::Sensitive(Insn { instruction, routine })
    })
}

fn exit(make: impl Fn() -> Exit + Send + 'static) -> Step {
    Box::new(move |_| make())
}

const RESUME: Seen = Seen::Run(Entry::Resume);

#[test]
fn sensitive_instructions_are_interpreted_and_counted() {
    // cli; out 80h, al
    let mut bench = Bench::new(vec![sensitive(&[0xfa]), sensitive(&[0xe6, 0x80])]);
    bench.cpu().rflags |= Rflags::IF;
    bench.run_out();
    assert_eq!(bench.dispatcher.cpu().rip, 0x103);
    assert!(!bench.dispatcher.cpu().rflags.contains(Rflags::IF));
    assert_eq!(bench.world.ports, [(0x80, Some(0))]);
    let statistics = bench.dispatcher.statistics();
    assert_eq!(statistics.routine(Routine::Cli).count, 1);
    assert_eq!(statistics.routine(Routine::Out).count, 1);
    let mut names: Vec<_> = statistics.rows().into_iter().map(|row| row.cause).collect();
    names.sort();
    assert_eq!(names, ["Cli", "Out"]);
    assert_eq!(bench.seen(), [RESUME, RESUME, RESUME]);
}

#[test]
fn invalidations_reach_the_engine() {
    // mov cr3, eax; invlpg [bx+si]
    let mut bench = Bench::new(vec![sensitive(&[0x0f, 0x22, 0xd8]), sensitive(&[0x0f, 0x01, 0x38])]);
    bench.run_out();
    assert_eq!(
        bench.seen(),
        [
            RESUME,
            Seen::Invalidate(Invalidation::AddressSpace),
            RESUME,
            Seen::Invalidate(Invalidation::Page { linear: 0 }),
            RESUME,
        ]
    );
}

#[test]
fn faults_are_delivered() {
    // ud2, then a page fault of the engine's
    let mut bench = Bench::new(vec![sensitive(&[0x0f, 0x0b])]);
    bench.run_out();
    assert_eq!(bench.handler(), Some(6));
    let fault = Exception::page_fault(0x1234, 2);
    let mut bench = Bench::new(vec![exit(move || Exit::Exception(fault))]);
    bench.run_out();
    assert_eq!((bench.handler(), bench.dispatcher.cpu().cr2), (Some(14), 0x1234));
    assert_eq!(bench.dispatcher.statistics().cause(Cause::DeliveredException).count, 1);
}

#[test]
fn a_single_step_follows_a_sensitive_instruction() {
    let mut bench = Bench::new(vec![sensitive(&[0xfa])]);
    bench.cpu().rflags |= Rflags::TF;
    bench.run_out();
    assert_eq!(bench.handler(), Some(1));
    assert_eq!(bench.dispatcher.cpu().dr[6] & 0x4000, 0x4000);
    // Not after a load of SS.
    let mut bench = Bench::new(vec![sensitive(&[0x8e, 0xd0])]);
    bench.cpu().rflags |= Rflags::TF;
    bench.run_out();
    assert_eq!(bench.dispatcher.cpu().rip, 0x102);
}

#[test]
fn interrupts_wait_for_if_and_shadow() {
    // sti, then one instruction of the engine's, then the interrupt.
    let after_one = Box::new(|cpu: &mut CpuState| {
        assert_eq!(cpu.shadow, Shadow::Sti);
        cpu.shadow = Shadow::None;
        cpu.rip += 1;
        Exit::Kicked
    });
    let mut bench = Bench::new(vec![sensitive(&[0xfb]), after_one]);
    bench.world.interrupts.push_back(0x20);
    bench.run_out();
    assert_eq!(bench.handler(), Some(0x20));
    assert_eq!(bench.seen(), [Seen::Window(true), RESUME, RESUME, Seen::Window(false), RESUME]);
    // It returns to after both.
    assert_eq!(bench.world.ram.borrow()[0x8000 - 6..0x8000 - 4], [2, 1]);
}

#[test]
fn a_second_interrupt_asks_for_a_window_of_its_own() {
    let mut bench = Bench::new(vec![]);
    bench.cpu().rflags |= Rflags::IF;
    bench.world.interrupts.extend([0x20, 0x21]);
    bench.run_out();
    assert_eq!(bench.handler(), Some(0x20));
    assert_eq!(bench.seen(), [Seen::Window(true), RESUME]);
}

#[test]
fn nmis_are_not_nested() {
    // In the handler another waits, until IRET.
    let again = Box::new(|cpu: &mut CpuState| {
        cpu.nmi_pending = true;
        Exit::Kicked
    });
    let still = Box::new(|cpu: &mut CpuState| {
        assert!(cpu.nmi_pending);
        sensitive(&[0xcf])(cpu)
    });
    let mut bench = Bench::new(vec![again, still]);
    bench.world.signals.push_back(Signal::Nmi);
    bench.run_out();
    assert_eq!(bench.handler(), Some(2));
    assert!(bench.dispatcher.cpu().nmi_blocked && !bench.dispatcher.cpu().nmi_pending);
    assert_eq!(bench.dispatcher.statistics().cause(Cause::DeliveredNmi).count, 2);
    let mut bench = Bench::new(vec![sensitive(&[0xcf])]);
    bench.cpu().nmi_blocked = true;
    bench.cpu().gpr[gpr::RSP] = 0x7000;
    bench.world.signals.push_back(Signal::Nmi);
    bench.run_out();
    assert_eq!(bench.handler(), Some(2));
    assert!(bench.dispatcher.cpu().nmi_blocked);
}

#[test]
fn of_two_nmis_one_waits_for_the_others_end() {
    let handled = Box::new(|cpu: &mut CpuState| {
        assert!(cpu.nmi_pending && cpu.nmi_blocked);
        sensitive(&[0xcf])(cpu)
    });
    let mut bench = Bench::new(vec![exit(|| Exit::Kicked), handled]);
    bench.world.signals.extend([Signal::Nmi, Signal::Nmi]);
    bench.run_out();
    assert_eq!(bench.dispatcher.statistics().cause(Cause::DeliveredNmi).count, 2);
}

#[test]
fn an_nmi_waits_for_the_shadow_of_sti() {
    let shadow = Box::new(|cpu: &mut CpuState| {
        assert!(cpu.nmi_pending && !cpu.nmi_blocked);
        cpu.shadow = Shadow::None;
        Exit::Kicked
    });
    let mut bench = Bench::new(vec![shadow]);
    bench.cpu().shadow = Shadow::Sti;
    bench.world.signals.push_back(Signal::Nmi);
    bench.run_out();
    assert_eq!(bench.handler(), Some(2));
}

#[test]
fn halt_waits_for_an_interrupt() {
    let mut bench = Bench::new(vec![sensitive(&[0xf4])]);
    bench.cpu().rflags |= Rflags::IF;
    bench.world.waits.push_back(Box::new(|_| {}));
    bench.world.waits.push_back(Box::new(|world| world.interrupts.push_back(0x30)));
    bench.run_out();
    assert_eq!(bench.handler(), Some(0x30));
    assert_eq!(bench.world.waited, ["any", "any"]);
    assert_eq!(bench.dispatcher.cpu().activity, Activity::Running);
    // It returns to after HLT.
    assert_eq!(bench.world.ram.borrow()[0x8000 - 6..0x8000 - 4], [1, 1]);
}

#[test]
fn halt_with_interrupts_off_wakes_for_an_nmi_only() {
    let mut bench = Bench::new(vec![sensitive(&[0xf4])]);
    bench.world.waits.push_back(Box::new(|world| world.interrupts.push_back(0x30)));
    bench.world.waits.push_back(Box::new(|world| world.signals.push_back(Signal::Nmi)));
    bench.run_out();
    assert_eq!(bench.handler(), Some(2));
    assert_eq!(bench.world.waited, ["masked", "masked"]);
    // And for a stop.
    let mut bench = Bench::new(vec![sensitive(&[0xf4])]);
    assert!(matches!(bench.run(), Stop::Requested));
    assert_eq!(bench.dispatcher.cpu().activity, Activity::Halted);
}

#[test]
fn init_and_start_up() {
    let mut bench = Bench::new(vec![]);
    bench.world.bootstrap = false;
    bench.cpu().msrs.lstar = 99;
    bench.cpu().gpr[gpr::RBX] = 5;
    // A start-up interrupt before INIT means nothing.
    bench.world.signals.extend([Signal::StartUp(1), Signal::Init]);
    bench.world.waits.push_back(Box::new(|world| world.signals.push_back(Signal::StartUp(0x9a))));
    bench.run_out();
    let cpu = bench.dispatcher.cpu();
    let cs = cpu.segment(SegmentRegister::Cs);
    assert_eq!((cs.selector, cs.base, cpu.rip), (0x9a00, 0x9_a000, 0));
    assert_eq!((cpu.msrs.lstar, cpu.gpr[gpr::RBX]), (99, 0));
    assert_eq!(bench.world.waited, ["masked"]);
    assert_eq!(bench.seen()[0], Seen::Invalidate(Invalidation::AllPages));
    // The bootstrap processor goes to the reset vector at once.
    let mut bench = Bench::new(vec![]);
    bench.world.signals.push_back(Signal::Init);
    bench.run_out();
    assert_eq!(bench.dispatcher.cpu().rip, 0xfff0);
}

#[test]
fn accesses_are_completed_before_anything_else() {
    let read = Mmio { gpa: 0xfee0_0020, size: 4, write: None };
    let write = Mmio { gpa: 0xfee0_0080, size: 2, write: Some(0x1_1234) };
    let mut bench = Bench::new(vec![
        exit(move || Exit::Mmio(read)),
        exit(move || Exit::Mmio(write)),
        exit(|| Exit::PortIo { port: 0x60, size: 1, write: None }),
        exit(|| Exit::Kicked),
    ]);
    bench.run_out();
    let done = Mmio { write: Some(0x1234), ..write };
    assert_eq!(bench.world.mmio, [read, done]);
    assert_eq!(
        bench.seen(),
        [
            RESUME,
            Seen::Run(Entry::Complete(0x5a5a_5a5a)),
            Seen::Run(Entry::Complete(0)),
            Seen::Run(Entry::Complete(0x77)),
            RESUME,
        ]
    );
    assert_eq!(bench.dispatcher.statistics().cause(Cause::Mmio).count, 2);
    assert_eq!(bench.dispatcher.statistics().cause(Cause::PortIo).count, 1);
}

#[test]
fn a_device_that_ends_the_machine_lets_its_instruction_finish() {
    let write = Mmio { gpa: 0xdead_0000, size: 1, write: Some(1) };
    let mut bench = Bench::new(vec![exit(move || Exit::Mmio(write)), exit(|| Exit::Kicked)]);
    assert!(matches!(bench.run(), Stop::Requested));
    assert_eq!(bench.kicks.0.load(Ordering::Relaxed), 1);
    assert_eq!(bench.seen(), [RESUME, Seen::Run(Entry::Complete(0))]);
}

#[test]
fn what_a_device_raises_is_taken_behind_its_instruction() {
    let write = Mmio { gpa: 0xfee0_0300, size: 4, write: Some(0x30) };
    // Whether the access raises it, by what, with IF set or not, and whether the engine is to leave at once.
    for (interrupt, signal, enabled, kicks) in
        [(true, false, true, 1), (true, false, false, 0), (false, true, false, 1), (false, false, true, 0)]
    {
        let raise = move || Exit::Mmio(write);
        let mut bench = Bench::new(vec![exit(raise), exit(|| Exit::Kicked)]);
        bench.cpu().rflags.set(Rflags::IF, enabled);
        bench.world.raises = (interrupt.then_some(0x30), signal.then_some(Signal::Nmi));
        bench.run_out();
        assert_eq!(bench.kicks.0.load(Ordering::Relaxed), kicks, "{interrupt} {signal} {enabled}");
        let taken = if signal { Some(2) } else { (interrupt && enabled).then_some(0x30) };
        assert_eq!(bench.handler(), taken);
    }
}

#[test]
fn a_triple_fault_is_reported() {
    let mut bench = Bench::new(vec![sensitive(&[0x0f, 0x0b])]);
    bench.cpu().idtr.limit = 0;
    let Stop::TripleFault(report) = bench.run() else { panic!("no triple fault") };
    assert_eq!(report.cpu.activity, Activity::Shutdown);
    assert_eq!(report.last_exception, Some((Exception::UD, 0x100)));
    let text = report.to_string();
    assert!(text.starts_with("real mode, ring 0, cs:rip 0000:0x100"), "{text}");
    assert!(text.ends_with("last exception InvalidOpcode at 0x100"), "{text}");
    // It stays so.
    assert!(matches!(bench.run(), Stop::TripleFault(_)));
}

#[test]
fn engines_that_deliver_are_given_the_event() {
    let mut bench = Bench::with(Delivery::Engine, vec![sensitive(&[0x0f, 0x0b]), exit(|| Exit::Halt)]);
    bench.cpu().rflags |= Rflags::IF;
    bench.world.waits.push_back(Box::new(|world| world.interrupts.push_back(0x30)));
    bench.run_out();
    assert_eq!(
        bench.seen(),
        [
            RESUME,
            Seen::Run(Entry::Inject(Event::Exception(Exception::UD))),
            Seen::Run(Entry::Inject(Event::Interrupt(0x30))),
        ]
    );
    assert_eq!(bench.dispatcher.cpu().rip, 0x100);
}

#[test]
fn what_nobody_runs_is_said() {
    let mut bench = Bench::new(vec![exit(|| Exit::NotAdmitted)]);
    let Stop::Failed(failure) = bench.run() else { panic!("went on") };
    assert!(failure.to_string().starts_with("the script engine does not run code in this mode"));
}

#[test]
fn a_step_over_hlt_wakes() {
    let mut bench = Bench::new(vec![sensitive(&[0xf4])]);
    bench.cpu().rflags |= Rflags::TF;
    bench.run_out();
    assert_eq!(bench.handler(), Some(1));
    assert_eq!(bench.world.ram.borrow()[0x7ffa..0x7ffc], [1, 1], "behind the instruction");
}

#[test]
fn a_breakpoint_that_a_load_of_ss_hits_waits_for_the_next_instruction() {
    const MOV_SS: &[u8] = &[0x8e, 0x16, 0x00, 0x20]; // mov ss, [2000h]
    let nop: fn() -> Step = || {
        Box::new(|cpu| {
            cpu.rip += 1;
            cpu.shadow = Shadow::None;
            Exit::Kicked
        })
    };
    // What follows, B0 to B3 in the end, and how many handlers have been entered.
    for (next, hits, entered) in
        [(nop(), 1, 1), (sensitive(&[0xf1]), 0, 1), (sensitive(&[0xcc]), 1, 2), (sensitive(&[0xfa]), 1, 1)]
    {
        let mut bench = Bench::new(vec![sensitive(MOV_SS), next]);
        bench.cpu().dr[0] = 0x2000;
        bench.cpu().dr[7] = 0x000f_0402;
        bench.run_out();
        let cpu = bench.dispatcher.cpu();
        assert_eq!((cpu.dr[6] & 0xf, cpu.gpr[gpr::RSP]), (hits, 0x8000 - 6 * entered));
        assert_eq!(bench.handler(), Some(1));
    }
}

/// A processor would tell of them before the handler's first instruction, and of those of that delivery before its own.
#[test]
fn what_a_delivery_reads_and_writes_hits_no_breakpoint() {
    let mut bench = Bench::new(vec![sensitive(&[0x0f, 0x0b])]);
    // The vector's entry and the frame's last word; both for reads and writes of two bytes.
    bench.cpu().dr[0] = 6 * 4;
    bench.cpu().dr[1] = 0x8000 - 6;
    bench.cpu().dr[7] = 0x0077_040a;
    bench.run_out();
    assert_eq!(bench.handler(), Some(6));
    let cpu = bench.dispatcher.cpu();
    assert_eq!((cpu.dr[6] & 0xf, cpu.gpr[gpr::RSP]), (0, 0x8000 - 6));
}
