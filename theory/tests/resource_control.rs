//! Resource control: whatever a VM does, it reaches what the allocator gave it and nothing else.

use std::cell::RefCell;
use std::rc::Rc;

use theory::equivalence::Case;
use theory::machine::run_alone;
use theory::monitor::{Event, OVERHEAD, Refused};
use theory::{Bare, Isa, Kind, Machine, Monitor, Psw, Relocation, Stop, Word};

const ROOM: Word = 200;

/// A monitor on a machine with marks in all of its memory.
fn monitor(isa: &str, kind: Kind) -> Monitor<Bare> {
    let mut bare = Bare::new(Isa::named(isa).unwrap(), ROOM);
    for real in OVERHEAD..ROOM {
        bare.write(real, mark(real));
    }
    Monitor::new(bare, kind)
}

fn mark(real: Word) -> Word {
    0xdead_0000 + real
}

fn load(machine: &mut impl Machine, memory: &[Word]) {
    for (real, &word) in memory.iter().enumerate() {
        machine.write(real as Word, word);
    }
}

/// How many words beyond its region a VM changes with this program, given no console.
fn breaches(isa: &str, kind: Kind, memory: &[Word]) -> usize {
    let mut monitor = monitor(isa, kind);
    let id = monitor.create(memory.len() as Word, false).unwrap();
    let neighbour = monitor.create(50, false).unwrap();
    load(&mut monitor.machine(id), memory);
    run_alone(&mut monitor.machine(id), &mut 100);
    let unchanged = (monitor.machine(neighbour).psw(), monitor.below().console().uses);
    assert_eq!(unchanged, (Psw::supervisor(3, 50), 0));
    let region = OVERHEAD..OVERHEAD + memory.len() as Word;
    let expected = |real| if real < region.end + 50 { 0 } else { mark(real) };
    (region.end..ROOM).filter(|&real| monitor.below().read(real) != expected(real)).count()
}

#[test]
fn nothing_beyond_the_region_is_touched() {
    for kind in [Kind::Full, Kind::Hybrid] {
        for seed in 0..5000 {
            assert_eq!(breaches("third", kind, &Case::random(seed).memory), 0, "{kind:?}, seed {seed}");
        }
    }
}

/// The check above can fail: users who may move their own bounds reach what they like.
#[test]
fn a_user_who_may_move_the_bounds_breaks_out() {
    let text = "
        SETR l, b               ; the monitor's own words come first, so this is where the VM is already
        SET  70, 7              ; beyond its 40 words
        HALT
l:      .word 4
b:      .word 200
";
    let program = theory::assembler::assemble(text, 40).unwrap();
    assert_eq!(breaches("setr", Kind::Full, &program.memory), 1);
    assert_eq!(breaches("third", Kind::Full, &program.memory), 0);
}

/// R of the real machine changes by the allocator's word alone: each change that a VM asks for is one decision.
#[test]
fn the_allocator_is_asked() {
    let (mut asked, mut decided) = (0, 0);
    for seed in 0..2000 {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let log = heard.clone();
        let watch: theory::monitor::Watch = Rc::new(move |_, event| log.borrow_mut().push(event));
        let mut monitor = monitor("third", Kind::Full).watched(1, Some(watch));
        let Case { memory, mut fuel, .. } = Case::random(seed);
        let size = memory.len() as Word;
        let id = monitor.create(size, true).unwrap();
        load(&mut monitor.machine(id), &memory);
        let before = monitor.allocator().decisions();
        run_alone(&mut monitor.machine(id), &mut fuel);
        decided += monitor.allocator().decisions() - before;
        for event in heard.borrow().iter() {
            match event {
                Event::Relocated(wanted, granted) => {
                    asked += 1;
                    let fits = granted.b == 0 || granted.l + granted.b <= OVERHEAD + size;
                    assert!(fits && granted.l >= OVERHEAD, "{wanted:?} became {granted:?}");
                }
                Event::Reflected(..) => asked += 1,
                Event::Trapped(..) | Event::Interpreted(..) => {}
            }
        }
    }
    assert!(asked > 1000 && decided >= asked, "{decided} decisions, {asked} requests");
}

#[test]
fn two_vms_take_turns_and_have_their_own() {
    let mut monitor = monitor("third", Kind::Full);
    let talker = "start: OUT ='a'\n JMP start\n";
    let program = theory::assembler::assemble(talker, 30).unwrap();
    let ids = [true, false].map(|console| monitor.create(30, console).unwrap());
    for (n, id) in ids.into_iter().enumerate() {
        load(&mut monitor.machine(id), &program.memory);
        let letter = program.memory.iter().position(|&word| word == Word::from(b'a')).unwrap();
        monitor.machine(id).write(letter as Word, Word::from(b'a') + n as Word);
    }
    for _ in 0..3 {
        for id in ids {
            // A turn is what fuel is given.
            let mut fuel = 4;
            assert_eq!(monitor.machine(id).run(&mut fuel), Stop::Exhausted);
        }
    }
    assert_eq!(monitor.machine(ids[0]).console().output, b"aaaaaa");
    assert_eq!(
        monitor.machine(ids[1]).console().output,
        b"bbbbbb",
        "a console of its own, which nobody reads"
    );
    assert_eq!(monitor.below().console().output, b"aaaaaa");
    assert_eq!(monitor.counts().interpreted, 12, "every OUT, and no JMP");
}

#[test]
fn there_is_no_more_than_there_is() {
    let mut monitor = monitor("third", Kind::Full);
    let left = ROOM - OVERHEAD;
    assert_eq!(monitor.create(ROOM, true), Err(Refused { asked: ROOM, left }));
    let id = monitor.create(left, true).unwrap();
    assert_eq!(monitor.create(3, true), Err(Refused { asked: 3, left: 0 }));
    assert_eq!(monitor.allocator().granted(id), Relocation { l: OVERHEAD, b: left });
}
