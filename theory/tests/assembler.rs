//! The assembler: what it makes of a program, and what it says of one that it cannot make anything of.

use theory::assembler::{Program, assemble};
use theory::equivalence::Case;
use theory::{Instruction, Isa, Kind, Mode, Op, Plain, Psw, Relocation, Shape, System, Word};

const SIZE: Word = 64;

fn program(text: &str) -> Program {
    assemble(text, SIZE).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// What is said of a program, a line for each thing.
fn errors(text: &str) -> Vec<String> {
    assemble(text, SIZE).unwrap_err().iter().map(ToString::to_string).collect()
}

fn instruction(op: Op, a: Word, b: Word) -> Word {
    Instruction { op, a, b }.encode()
}

#[test]
fn everything_there_is() {
    let text = "
        .equ limit, 5 + 1 ; a comment; with a semicolon
        .org 1
        .psw user, trap, 2, size - 2
        .org 3
start:  set n, limit
loop:   OUT ='*'
        SUB n, =1
        BNZ n, loop
        OUT =';'
trap:   HALT
n:      .word 0x10, -1, ',', '\\n'
name:   .string \"a;\\\"\"
        .space 2
end:
";
    let program = program(text);
    let psw = Psw { m: Mode::User, p: 8, r: Relocation { l: 2, b: SIZE - 2 } };
    let mut expected = vec![0; SIZE as usize];
    expected[1] = Shape::full(SIZE).pack(psw);
    let words = [
        instruction(Op::Plain(Plain::Set), 9, 6),
        instruction(Op::System(System::Out), 19, 0),
        instruction(Op::Plain(Plain::Sub), 9, 20),
        instruction(Op::Plain(Plain::Bnz), 9, 4),
        instruction(Op::System(System::Out), 21, 0),
        instruction(Op::System(System::Halt), 0, 0),
        0x10,
        Word::MAX,
        Word::from(b','),
        Word::from(b'\n'),
        Word::from(b'a'),
        Word::from(b';'),
        Word::from(b'"'),
        0,
        0,
        0,
        Word::from(b'*'),
        1,
        Word::from(b';'),
    ];
    expected[3..3 + words.len()].copy_from_slice(&words);
    assert_eq!(program.memory, expected);
    assert_eq!(program.entry, 3);
    assert_eq!(program.place(5), Some(("loop", 1)));
    assert_eq!(program.place(2), None);
    assert_eq!(program.labels.last().unwrap(), &("end".to_owned(), 19));
}

#[test]
fn everything_that_is_wrong_is_told_with_its_line() {
    let text = "
        MVO a, b
        MOV a
a:      .word nothing, 1
a:      .word 1x
        .psw nobody, 1, 2, 3
        .frob
        SET a, =5
        JMP =5
        .string hello
        SET a, 0x10000000
1a:     HALT
        .psw user, 1, 2, 0x300000
";
    assert_eq!(
        errors(text),
        [
            "line 2: there is no instruction \"MVO\"",
            "line 3: MOV takes two operands, and 1 are given",
            "line 4: there is no \"nothing\"",
            "line 5: \"1x\" is no number or name",
            "line 6: \"nobody\" is no mode: supervisor and user are",
            "line 7: there is no directive \".frob\": there are .equ, .org, .psw, .space, .string and .word",
            "line 8: a literal is a word in memory, which is not what SET takes there",
            "line 9: a literal is a word in memory, which is not what JMP takes there",
            "line 10: .string takes a text in double quotes",
            "line 11: 268435456 is too large for an operand; MOV from a literal takes any",
            "line 12: \"1a\" cannot be a name",
            "line 13: ⟨u, P=1, R=(2,3145728)⟩ does not fit a PSW",
        ]
    );
}

#[test]
fn names_and_places() {
    assert_eq!(errors("x: HALT\nx: HALT"), ["line 2: \"x\" has been defined before"]);
    assert_eq!(errors(".org later\nlater: HALT"), ["line 1: there is no \"later\""]);
    assert_eq!(errors(".org 5\nHALT\n.org 5\nHALT"), ["line 4: the word at 5 has been written before"]);
    assert_eq!(errors(".space 100"), ["line 1: this does not fit the machine's 64 words"]);
    assert_eq!(errors(".org -1\nHALT"), ["line 2: this does not fit the machine's 64 words"]);
    assert_eq!(errors("HLT"), ["line 1: there is no instruction \"HLT\"; is HALT meant?"]);
    let literals: String = (0..40).map(|n| format!("OUT ={n}\n")).collect();
    assert_eq!(errors(&literals)[0], "line 22: there is no room for this literal in the machine's 64 words");
}

/// The worked examples with bytes changed: told what is wrong, or a program that runs, to wherever.
#[test]
fn damaged_programs_do_no_harm() {
    let examples = [
        include_str!("../examples/hello.asm"),
        include_str!("../examples/primes.asm"),
        include_str!("../examples/tasks.asm"),
        include_str!("../examples/where.asm"),
    ];
    let (mut sound, mut wrong) = (0, 0);
    for text in examples {
        for at in 0..text.len() {
            for byte in [b' ', b'=', b'-', b'9', b',', b'"', b'\n', b'R'] {
                let mut damaged = text.as_bytes().to_vec();
                damaged[at] = byte;
                let Ok(damaged) = String::from_utf8(damaged) else { continue };
                let Ok(program) = assemble(&damaged, 256) else {
                    wrong += 1;
                    continue;
                };
                sound += 1;
                if at % 16 == 0 {
                    let case = Case { memory: program.memory, input: Vec::new(), fuel: 2000 };
                    let difference = case.compare(Isa::third(), 2, Kind::Full);
                    assert!(difference.is_none(), "{}\n{damaged}", difference.unwrap());
                }
            }
        }
    }
    assert!(sound > 1000 && wrong > 1000, "{sound} {wrong}");
}
