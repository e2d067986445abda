//! Steps, breakpoints and watchpoints of a debugger outside the guest.

use vcpu::{DebugEvent, Watchpoint};
use x86::Vector;
use x86::debug::dr6;

use super::*;

const STEP: Seen = Seen::Run(Entry::Step);
const BREAKPOINT: Exit = Exit::Debug { event: DebugEvent::Breakpoint, owed: 0 };
const STEPPED: Exit = Exit::Debug { event: DebugEvent::Stepped, owed: 0 };

impl Bench {
    fn points(&mut self, breakpoints: &[u64], watchpoints: &[Watchpoint]) {
        let points = DebugPoints::new(breakpoints.iter().copied(), watchpoints.to_vec());
        self.dispatcher.set_debug_points(&Arc::new(points));
        assert!(matches!(self.seen.lock().unwrap().pop(), Some(Seen::Points(_))));
    }

    fn step(&mut self) -> Stop {
        self.dispatcher.step(&mut self.world)
    }
}

#[track_caller]
fn told(stop: Stop, event: DebugEvent) {
    assert!(matches!(stop, Stop::Debug(told) if told == event), "{stop:?}");
}

#[test]
fn a_breakpoint_is_told_of_once_and_then_passed() {
    let mut bench = Bench::new(vec![exit(|| BREAKPOINT), exit(|| STEPPED)]);
    bench.points(&[0x100], &[]);
    told(bench.run(), DebugEvent::Breakpoint);
    // An interrupt that waits comes behind the instruction.
    bench.cpu().rflags |= Rflags::IF;
    bench.world.interrupts.push_back(0x20);
    bench.run_out();
    assert_eq!(bench.seen(), [RESUME, STEP, RESUME]);
    assert_eq!(bench.handler(), Some(0x20));
    assert_eq!(bench.dispatcher.statistics().cause(Cause::Debug).count, 2);
}

#[test]
fn a_breakpoint_that_is_gone_is_not_passed() {
    let mut bench = Bench::new(vec![exit(|| BREAKPOINT)]);
    bench.points(&[0x100], &[]);
    told(bench.run(), DebugEvent::Breakpoint);
    bench.points(&[0x200], &[]);
    bench.run_out();
    assert_eq!(bench.seen(), [RESUME, RESUME]);
}

#[test]
fn a_step_is_one_instruction_and_lets_no_interrupt_in() {
    let forward: Step = Box::new(|cpu| {
        cpu.rip += 1;
        STEPPED
    });
    // A kick is no instruction; `cli` is one that the interpreter runs.
    let mut bench = Bench::new(vec![forward, exit(|| Exit::Kicked), sensitive(&[0xfa])]);
    bench.cpu().rflags |= Rflags::IF;
    bench.world.interrupts.push_back(0x20);
    told(bench.step(), DebugEvent::Stepped);
    assert_eq!(bench.dispatcher.cpu().rip, 0x101);
    told(bench.step(), DebugEvent::Stepped);
    assert_eq!((bench.dispatcher.cpu().rip, bench.world.interrupts.len()), (0x102, 1));
    assert_eq!(bench.seen(), [STEP, STEP, STEP]);
}

#[test]
fn a_step_into_an_exception_ends_at_its_handler() {
    let mut bench = Bench::new(vec![exit(|| Exit::Exception(Exception::UD))]);
    told(bench.step(), DebugEvent::Stepped);
    assert_eq!(bench.handler(), Some(Vector::InvalidOpcode as u16));
}

#[test]
fn the_guests_own_trap_comes_with_the_debuggers() {
    let mut bench = Bench::new(vec![exit(|| Exit::Debug { event: DebugEvent::Stepped, owed: dr6::BS })]);
    told(bench.step(), DebugEvent::Stepped);
    assert_eq!(bench.handler(), Some(Vector::Debug as u16));
    assert_eq!(bench.dispatcher.cpu().dr[6] & dr6::BS, dr6::BS);
}

#[test]
fn a_step_of_a_halted_processor_is_the_interrupt_that_wakes_it() {
    let mut bench = Bench::new(Vec::new());
    bench.cpu().rflags |= Rflags::IF;
    bench.cpu().activity = Activity::Halted;
    bench.world.waits.push_back(Box::new(|world| world.interrupts.push_back(0x21)));
    told(bench.step(), DebugEvent::Stepped);
    assert_eq!(bench.handler(), Some(0x21));
    assert_eq!(bench.seen(), []);
}

#[test]
fn what_the_interpreter_writes_is_watched() {
    // smsw [0]; smsw [2]: the processor's status into memory.
    let writes = || {
        vec![
            sensitive(&[0x0f, 0x01, 0x26, 0x00, 0x00]),
            sensitive(&[0x0f, 0x01, 0x26, 0x02, 0x00]),
            exit(|| Exit::Kicked),
        ]
    };
    let point = Watchpoint { linear: 2, len: 1, read: false, write: true };
    let mut bench = Bench::new(writes());
    bench.points(&[], &[point]);
    told(bench.run(), DebugEvent::Watchpoint(point));
    assert_eq!(bench.dispatcher.cpu().rip, 0x10a);
    bench.run_out();
    // Reads are another matter.
    let mut bench = Bench::new(writes());
    bench.points(&[], &[Watchpoint { read: true, write: false, ..point }]);
    bench.run_out();
}
