//! The worked examples do what their first lines say, at every depth.

use theory::assembler::assemble;
use theory::machine::run_alone;
use theory::{Isa, Kind, Machine, Stop, Word, tower};

const SIZE: Word = 256;

/// What a program says.
fn output(text: &str, isa: &str, depth: u32, kind: Kind) -> String {
    let program = assemble(text, SIZE).unwrap_or_else(|errors| panic!("{errors:?}"));
    let mut machine = tower(Isa::named(isa).unwrap(), SIZE, depth, kind, None);
    for (real, &word) in program.memory.iter().enumerate() {
        machine.write(real as Word, word);
    }
    let mut psw = machine.psw();
    psw.p = program.entry;
    machine.set_psw(psw);
    assert_eq!(run_alone(&mut machine, &mut 100_000), Stop::Halted);
    String::from_utf8(machine.console().output.clone()).unwrap()
}

/// It says the same on the real machine and in every VM.
fn says(text: &str, expected: &str) {
    for kind in [Kind::Full, Kind::Hybrid] {
        for depth in 0..4 {
            assert_eq!(output(text, "third", depth, kind), expected, "depth {depth}, {kind:?}");
        }
    }
}

#[test]
fn hello() {
    says(include_str!("../examples/hello.asm"), "hello, world\n");
}

#[test]
fn primes() {
    let primes = "2 3 5 7 11 13 17 19 23 29 31 37 41 43 47 53 59 61 67 71 73 79 83 89 97 \n";
    says(include_str!("../examples/primes.asm"), primes);
}

#[test]
fn tasks_take_turns() {
    let text = include_str!("../examples/tasks.asm");
    let real = output(text, "third", 0, Kind::Full);
    let of = |letter| real.matches(letter).count();
    assert_eq!((of('a'), of('b'), real.len()), (6, 9, 16), "{real}");
    assert!(real.matches("ab").count() > 1 && real.matches("ba").count() > 1, "no turns in {real}");
    says(text, &real);
}

/// What each says on the real machine, under a monitor, and under a hybrid one, where an instruction fails to trap.
#[test]
fn what_cannot_be_virtualized() {
    let cases = [
        ("jrst", include_str!("../examples/jrst.asm"), ["u", "s", "u"]),
        ("popf", include_str!("../examples/popf.asm"), ["u", "s", "u"]),
        ("getm", include_str!("../examples/getm.asm"), ["0", "1", "0"]),
        ("lra", include_str!("../examples/where.asm"), ["3", "7", "7"]),
    ];
    for (isa, text, expected) in cases {
        let found = [(0, Kind::Full), (1, Kind::Full), (1, Kind::Hybrid)];
        assert_eq!(found.map(|(depth, kind)| output(text, isa, depth, kind)), expected, "{isa}");
    }
    says(include_str!("../examples/jrst.asm"), "u");
    says(include_str!("../examples/popf.asm"), "u");
    says(include_str!("../examples/getm.asm"), "0");
    says(include_str!("../examples/where.asm"), "?");
}
