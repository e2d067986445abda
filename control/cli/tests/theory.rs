//! `popf theory`: programs run, theorems checked, mistakes told.

mod common;

use common::{Files, popf, run};
use serde_json::Value;

/// A worked example's path.
fn example(name: &str) -> String {
    format!("{}/../../theory/examples/{name}.asm", env!("CARGO_MANIFEST_DIR"))
}

fn json(arguments: &[&str]) -> Value {
    let (status, stdout, stderr) = run(&mut popf(arguments));
    assert_eq!(status, 0, "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn a_program_runs_at_every_depth() {
    let primes = example("primes");
    for depth in ["0", "1", "3"] {
        let (status, stdout, stderr) = run(&mut popf(&["theory", "run", &primes, "--depth", depth]));
        assert_eq!(status, 0, "{stderr}");
        assert!(stdout.starts_with("2 3 5 7 11 ") && stdout.ends_with("89 97 \n"), "{stdout}");
        assert!(stderr.contains(" steps on "), "{stderr}");
        assert_eq!(stderr.matches("% of the steps without it").count().to_string(), depth, "{stderr}");
    }
}

#[test]
fn monitors_have_little_to_do() {
    let report = json(&["theory", "run", &example("primes"), "--depth", "2", "--json"]);
    assert_eq!(report["end"], "halted");
    let steps = report["steps"].as_u64().unwrap();
    let [lower, upper] = &report["monitors"].as_array().unwrap()[..] else { panic!("{report}") };
    // The lower one hears of every OUT and HALT, and passes it on; the upper one carries it out.
    let system = upper["interpreted"].as_u64().unwrap();
    assert!(system > 50 && system * 10 < steps, "{report}");
    assert_eq!((&lower["traps"], &lower["reflected"]), (&upper["traps"], &upper["traps"]), "{report}");
}

#[test]
fn a_trace_tells_what_monitors_do() {
    let (status, stdout, stderr) =
        run(&mut popf(&["theory", "run", &example("tasks"), "--depth", "1", "--trace"]));
    assert_eq!((status, stdout.matches('a').count(), stdout.matches('b').count()), (0, 6, 9), "{stderr}");
    for word in [
        "1  trap         privileged instruction, real PSW ⟨u, ",
        "1  interpreted  LPSW ",
        "1  reflected    timer, on at trap ⟨s, ",
        "1  reflected    SVC 1, on at trap",
        "1  allocated    R=(80,12), real R=(84,12)",
    ] {
        assert!(stderr.contains(word), "no {word:?} in {stderr}");
    }
}

#[test]
fn the_console_can_be_read() {
    let files = Files::new();
    let echo = "start: IN c\n MOV t, c\n ADD t, =1\n BZ t, end\n OUT c\n JMP start\nend: HALT\nc: .word 0\nt: .word 0\n";
    let program = files.write("echo.asm", echo.as_bytes());
    let input = std::fs::File::open(files.write("input", b"echoed")).unwrap();
    let (status, stdout, stderr) = run(popf(&["theory", "run", "-i", "--depth", "2", &program]).stdin(input));
    assert_eq!((status, stdout.as_str()), (0, "echoed"), "{stderr}");
}

#[test]
fn what_does_not_trap_is_told_apart() {
    let says = |isa, more: &[&str]| {
        let program = example("jrst");
        let arguments = [&["theory", "run", &program, "--isa", isa, "--json"], more].concat();
        json(&arguments)["output"].as_str().unwrap().to_owned()
    };
    assert_eq!(says("jrst", &[]), "u");
    assert_eq!(says("jrst", &["--depth", "1"]), "s");
    assert_eq!(says("jrst", &["--depth", "1", "--hybrid"]), "u");
    assert_eq!(says("third", &["--depth", "1"]), "u");
}

#[test]
fn theorems_are_checked() {
    let rows = json(&["theory", "check", "--json"]);
    let rows = rows.as_array().unwrap();
    let verdicts: Vec<_> = rows
        .iter()
        .map(|row| {
            let apart = |hybrid| {
                let of = |e: &&Value| e["hybrid"] == hybrid && !e["told_apart"].is_null();
                row["experiments"].as_array().unwrap().iter().filter(of).count()
            };
            let theorems = [&row["virtualizable"], &row["hybrid_virtualizable"]];
            (row["name"].as_str().unwrap(), theorems.map(|t| t.as_bool().unwrap()), apart(false), apart(true))
        })
        .collect();
    assert_eq!(
        verdicts,
        [
            ("third", [true, true], 0, 0),
            ("jrst", [false, true], 3, 0),
            ("popf", [false, true], 3, 0),
            ("getm", [false, true], 3, 0),
            ("lra", [false, false], 3, 1),
            ("setr", [false, false], 3, 1),
        ]
    );
}

#[test]
fn witnesses_are_shown() {
    let (status, stdout, stderr) = run(&mut popf(&["theory", "check", "--isa", "popf"]));
    assert_eq!(status, 0, "{stderr}");
    for word in [
        "LPSW         -           yes",
        "<- sensitive and not privileged",
        "LPSW 0: ⟨E=[0 · ·], s, P=0, R=(0,1)⟩ → ⟨E=[0 · ·], s, P=0, R=(0,0)⟩",
        "theorem 1  a monitor can be built             no",
        "theorem 3  a hybrid monitor can be built       yes",
        "2000 random programs, hybrid, depth 1: nothing differs",
    ] {
        assert!(stdout.contains(word), "no {word:?} in {stdout}");
    }
}

/// popf fails with this status and these words.
fn refused(arguments: &[&str], status: i32, words: &[&str]) {
    let (code, _, stderr) = run(&mut popf(arguments));
    assert_eq!(code, status, "{arguments:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{arguments:?}: no {word:?} in {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn mistakes_are_told() {
    let files = Files::new();
    let wrong = files.write("wrong.asm", b"start: HLT\n MOV a\n");
    refused(
        &["theory", "run", &wrong],
        65,
        &["line 1: ", "is HALT meant?", "line 2: MOV takes two operands"],
    );
    refused(&["theory", "run", "/nowhere"], 66, &["cannot read /nowhere"]);
    refused(&["theory", "run", &wrong, "--isa", "x86"], 2, &["third, jrst, popf"]);
    refused(&["theory", "run", &wrong, "--memory", "3"], 2, &["3"]);
    let text = files.write("binary.asm", &[0xff, 0xfe, 0]);
    refused(&["theory", "run", &text], 66, &["UTF-8"]);
    let endless = files.write("endless.asm", b"start: JMP start\n");
    refused(&["theory", "run", &endless, "--limit", "1000"], 83, &["not halted after 1000 steps"]);
    // Nothing at E(1), so that a trap leads to the next.
    let trapped = files.write("trapped.asm", b"start: SVC 1\n");
    refused(&["theory", "run", &trapped, "--depth", "2", "--limit", "1000"], 83, &["E(1)"]);
}
