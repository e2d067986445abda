//! A program runs in a VM as on the real machine, at every depth; and where the theorems forbid that, a program
//! is found that can tell.

use theory::equivalence::{Case, search};
use theory::{Isa, Kind, Machine, Stop, tower};

fn isa(name: &str) -> &'static Isa {
    Isa::named(name).unwrap()
}

/// These random programs behave alike on the real machine and at this depth.
fn alike(name: &str, depth: u32, kind: Kind, programs: u64) {
    for seed in 0..programs {
        let case = Case::random(seed);
        if let Some(difference) = case.compare(isa(name), depth, kind) {
            panic!("{name}, seed {seed}, depth {depth}: {difference}\n{case}");
        }
    }
}

#[test]
fn a_hundred_thousand_programs_three_monitors_deep() {
    alike("third", 3, Kind::Full, 100_000);
}

#[test]
fn one_and_two_monitors_deep() {
    alike("third", 1, Kind::Full, 20_000);
    alike("third", 2, Kind::Full, 20_000);
}

#[test]
fn hybrid_monitors_too() {
    alike("third", 1, Kind::Hybrid, 20_000);
    alike("third", 2, Kind::Hybrid, 20_000);
}

/// Equivalence of programs that do nothing would be cheap.
#[test]
fn random_programs_use_what_there_is() {
    let (mut halted, mut exhausted, mut spoke, mut timed, mut users) = (0, 0, 0, 0, 0);
    for seed in 0..2000 {
        let end = Case::random(seed).run(isa("third"), 0, Kind::Full);
        match end.stop {
            Stop::Halted => halted += 1,
            Stop::Exhausted => exhausted += 1,
            Stop::Trap(_) => unreachable!("traps go to the program"),
        }
        spoke += u32::from(!end.output.is_empty());
        timed += u32::from(end.timer != 0);
        users += u32::from(end.psw.m == theory::Mode::User);
    }
    for count in [halted, exhausted, spoke, timed, users] {
        assert!(count > 50, "{halted} {exhausted} {spoke} {timed} {users}");
    }
}

/// The program that can tell is there, is small, and does differ.
fn told_apart(name: &str, kind: Kind) -> Case {
    let (case, difference) = search(isa(name), 1, kind, 0..20_000).unwrap_or_else(|| panic!("{name}"));
    println!("{name}, {kind:?}: {difference}\n{case}");
    assert!(case.words() <= 6 && case.fuel <= 6, "{} words, {} steps\n{case}", case.words(), case.fuel);
    assert!(case.compare(isa("third"), 1, kind).is_none(), "the instruction set is to blame");
    case
}

#[test]
fn what_is_not_virtualizable_is_told_apart() {
    for name in ["jrst", "popf", "getm", "lra", "setr"] {
        told_apart(name, Kind::Full);
    }
}

#[test]
fn a_hybrid_monitor_does_what_is_not_user_sensitive() {
    for name in ["jrst", "popf", "getm"] {
        alike(name, 1, Kind::Hybrid, 20_000);
        alike(name, 2, Kind::Hybrid, 20_000);
    }
}

#[test]
fn a_hybrid_monitor_fails_at_what_is() {
    for name in ["lra", "setr"] {
        told_apart(name, Kind::Hybrid);
    }
}

#[test]
fn depth_costs_memory_only() {
    for depth in 0..4 {
        assert_eq!(tower(isa("third"), 100, depth, Kind::Full, None).shape().size(), 100);
    }
}
