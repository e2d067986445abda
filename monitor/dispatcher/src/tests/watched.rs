//! A vCPU that is looked at while it runs.

use super::*;

/// A visit to be left, and its answer.
fn ask<T: Send + 'static>(
    bench: &Bench,
    question: impl FnOnce(&mut Dispatcher) -> T + Send + 'static,
) -> std::sync::mpsc::Receiver<T> {
    let (sender, receiver) = std::sync::mpsc::channel();
    bench.dispatcher.desk().leave(Box::new(move |dispatcher, _| sender.send(question(dispatcher)).unwrap()));
    receiver
}

#[test]
fn places_are_counted_while_somebody_watches() {
    // out 80h, al; at another place in al, dx
    let mut bench = Bench::new(vec![sensitive(&[0xe6, 0x80]), sensitive(&[0xec])]);
    bench.cpu().gpr[gpr::RDX] = 0xf_03f8;
    let nobody = ask(&bench, |dispatcher| dispatcher.tracer.is_none());
    let began = ask(&bench, |dispatcher| dispatcher.trace().is_empty());
    bench.run_out();
    assert_eq!((nobody.try_recv(), began.try_recv()), (Ok(true), Ok(true)));
    let mut places = bench.dispatcher.trace().places(10);
    places.sort_by_key(|place| place.rip);
    let seen: Vec<_> = places
        .iter()
        .map(|place| (place.rip, place.cause.as_str(), place.last, place.counter.count))
        .collect();
    assert_eq!(seen, [(0x100, "Out", Some(0x80), 1), (0x102, "In", Some(0x3f8), 1)]);
    bench.dispatcher.stop_tracing();
    assert!(bench.dispatcher.tracer.is_none());
}

#[test]
fn faults_and_registers_of_devices_have_places() {
    let fault = exit(|| Exit::Exception(Exception::page_fault(0xdead_b000, 2)));
    let mmio = exit(|| Exit::Mmio(Mmio { gpa: 0xfee0_0080, size: 4, write: Some(1) }));
    let mut bench = Bench::new(vec![mmio, fault]);
    bench.dispatcher.trace();
    bench.run_out();
    let places = bench.dispatcher.trace().places(10);
    let find = |cause: &str| places.iter().find(|place| place.cause == cause).unwrap().clone();
    assert_eq!((find("Mmio").rip, find("Mmio").last), (0x100, Some(0xfee0_0080)));
    let fault = find("PageFault");
    assert_eq!((fault.what.as_str(), fault.last), ("kernel write, not present", Some(0xdead_b000)));
    assert_eq!(bench.dispatcher.trace().delivered(), [("PageFault".to_owned(), 1)]);
}

#[test]
fn who_sleeps_is_woken_for_a_visit_and_sleeps_on() {
    // hlt
    let mut bench = Bench::new(vec![sensitive(&[0xf4])]);
    bench.cpu().rflags |= Rflags::IF;
    bench.dispatcher.trace();
    let desk = bench.dispatcher.desk();
    let (sender, receiver) = std::sync::mpsc::channel();
    bench.world.waits.push_back(Box::new(move |_| {
        assert!(!desk.tick(), "there is nothing to see of who sleeps");
        desk.leave(Box::new(move |dispatcher, _| sender.send(dispatcher.cpu().activity).unwrap()));
    }));
    assert!(matches!(bench.run(), Stop::Requested));
    assert_eq!(receiver.try_recv(), Ok(Activity::Halted));
    assert_eq!(bench.world.waited, ["any", "any"]);
}

#[test]
fn samples_have_numbers_and_the_oldest_go_first() {
    let desk = Arc::new(crate::Desk::default());
    // Each run of the engine is a tick.
    let steps = (0..3000).map(|n| {
        let desk = desk.clone();
        let step: Step = Box::new(move |cpu| {
            assert!(desk.tick());
            cpu.rip = n;
            Exit::Kicked
        });
        step
    });
    let steps: Vec<Step> = steps.collect();
    let mut sampled = Bench::new(steps);
    sampled.dispatcher.desk = desk.clone();
    sampled.dispatcher.trace();
    sampled.run_out();
    let (from, list) = sampled.dispatcher.trace().samples_from(0, 10);
    assert_eq!((from, list.len()), (3000 - 2048, 10));
    assert_eq!((list[0].rip, list[0].ticks, list[0].user), (from, 1, false));
    let (from, list) = sampled.dispatcher.trace().samples_from(2995, 10);
    assert_eq!((from, list.len()), (2995, 5));
    let (from, list) = sampled.dispatcher.trace().samples_from(u64::MAX, 10);
    assert_eq!((from, list.len()), (3000, 0));
}

#[test]
fn a_guest_decides_in_how_many_places_but_not_how_much_is_kept() {
    let steps = (0..10_000_u64).map(|n| {
        let step: Step = Box::new(move |cpu| {
            cpu.rip = 0x100 + (n & 0xfff) * 4 + (n >> 12);
            Exit::Mmio(Mmio { gpa: 0xfee0_0080, size: 4, write: Some(1) })
        });
        step
    });
    let mut bench = Bench::new(steps.collect());
    bench.dispatcher.trace();
    bench.run_out();
    let tracer = bench.dispatcher.trace();
    assert_eq!((tracer.len() as u64, tracer.beyond), (8192, 10_000 - 8192));
}
