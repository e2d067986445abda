//! The theorems' checks, on all states of a machine of two or three words.

use theory::isa::ISAS;
use theory::theorems::{self, Report, analyse};
use theory::{Isa, Op, Plain, System};

fn isa(name: &str) -> &'static Isa {
    Isa::named(name).unwrap()
}

#[test]
fn the_virtualizable_set_is() {
    let analysis = analyse(isa("third"), 3);
    let verdict = analysis.verdict();
    assert!(verdict.virtualizable() && verdict.recursively() && verdict.hybrid(), "{verdict:?}");
    for report in &analysis.reports {
        let system = matches!(report.op, Op::System(_));
        assert_eq!(report.privileged(), system, "{}", report.op);
        // Who tells the timer tells nothing of M or R; and no two modes of GETM, which traps in one, compare.
        let sensitive = system && ![System::Gtt, System::Getm].map(Op::System).contains(&report.op);
        assert_eq!(report.sensitive(), sensitive, "{}: {report:?}", report.op);
    }
}

#[test]
fn instructions_are_sensitive_as_the_definitions_have_it() {
    use System::{Getr, Halt, In, Jrst, Lpsw, Lra, Out, Setr, Stt};
    let analysis = analyse(isa("third"), 3);
    let those = |wanted: fn(&Report) -> bool| {
        let with = |report: &&Report| wanted(report);
        analysis.reports.iter().filter(with).map(|report| report.op).collect::<Vec<_>>()
    };
    assert_eq!(
        those(|report| report.control.is_some()),
        [Halt, Lpsw, Setr, Jrst, In, Out, Stt].map(Op::System)
    );
    assert_eq!(those(|report| report.location.is_some()), [Getr, Lra].map(Op::System));
    // In user mode they trap, so no pair of modes can be compared.
    assert_eq!(those(|report| report.mode.is_some()), []);
    assert_eq!(those(Report::user_sensitive), []);
}

/// What each instruction set fails by, and whether a hybrid monitor would do.
#[test]
fn the_others_fail_by_one_instruction() {
    let expected = [
        ("jrst", System::Jrst, true),
        ("popf", System::Lpsw, true),
        ("getm", System::Getm, true),
        ("lra", System::Lra, false),
        ("setr", System::Setr, false),
    ];
    assert_eq!(ISAS.len(), expected.len() + 1);
    for (name, offender, hybrid) in expected {
        let verdict = analyse(isa(name), 2).verdict();
        assert_eq!(verdict.offenders, [Op::System(offender)], "{name}");
        assert!(!verdict.virtualizable() && !verdict.recursively());
        assert_eq!(verdict.hybrid(), hybrid, "{name}: {:?}", verdict.user_offenders);
        assert!(theorems::report(isa(name), Op::System(offender), 3).offends(), "{name}, of three words");
    }
}

#[test]
fn witnesses_show_it() {
    let text = |name, op, witness: fn(&Report) -> &Option<theorems::Witness>| {
        witness(&theorems::report(isa(name), Op::System(op), 3)).as_ref().unwrap().to_string()
    };
    // POPF: from the same word, supervisor mode gets to user mode and no memory; user mode gets nowhere.
    let popf = text("popf", System::Lpsw, |report| &report.control);
    assert_eq!(popf, "LPSW 0: ⟨E=[0 · ·], s, P=0, R=(0,1)⟩ → ⟨E=[0 · ·], s, P=0, R=(0,0)⟩");
    println!("{popf}");
    let silent = text("popf", System::Lpsw, |report| &report.fails_to_trap);
    println!("{silent}");
    assert_eq!(silent.lines().count(), 2);
    assert!(silent.lines().last().unwrap().ends_with("→ ⟨E=[0 · ·], u, P=0, R=(0,1)⟩"), "{silent}");
    // LRA: the same program, one word further up.
    let lra = text("lra", System::Lra, |report| &report.user_location);
    assert_eq!(
        lra,
        "LRA 0, 0: ⟨E=[· · ·], u, P=0, R=(0,1)⟩ → ⟨E=[0 · ·], u, P=1, R=(0,1)⟩\n\
         LRA 0, 0: ⟨E=[· · ·], u, P=0, R=(1,1)⟩ → ⟨E=[· 1 ·], u, P=1, R=(1,1)⟩"
    );
    let getm = text("getm", System::Getm, |report| &report.mode);
    assert_eq!(
        getm,
        "GETM 0: ⟨E=[· · ·], s, P=0, R=(0,1)⟩ → ⟨E=[0 · ·], s, P=1, R=(0,1)⟩\n\
         GETM 0: ⟨E=[· · ·], u, P=0, R=(0,1)⟩ → ⟨E=[1 · ·], u, P=1, R=(0,1)⟩"
    );
}

/// SVC traps in both modes: it is neither privileged nor sensitive.
#[test]
fn an_instruction_that_always_traps_is_harmless() {
    let svc = theorems::report(isa("third"), Op::Plain(Plain::Svc), 3);
    assert!(!svc.privileged() && !svc.sensitive(), "{svc:?}");
}
