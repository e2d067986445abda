//! Recordings that were written, and files that claim to be one.

use board::insight::{Counter, Frame as Candidate, Place, Sample, Sighting, Snapshot, Traced};

use super::*;

fn frame() -> Frame {
    let place = Place {
        rip: 0x1010,
        cause: "Out".into(),
        what: "out dx,al".into(),
        last: Some(0x3f8),
        counter: Counter { count: 3, cycles: 300 },
    };
    let sample = Sample {
        ticks: 1,
        at: Sighting::Guest(0x2004),
        rip: 0x2008,
        user: false,
        stack: vec![Candidate { returns_to: 0x1015, called: Some(0x2000) }],
    };
    let traced = Some(Traced { places: vec![place], known: 1, ..Traced::default() });
    Frame { at: 1.5, vcpus: vec![Snapshot { traced, ..Snapshot::default() }], samples: vec![vec![sample]] }
}

#[test]
fn what_was_written_is_read_again() {
    let symbols =
        Symbols::new(vec![(0x1000, "caller".into()), (0x2000, "leaf".into()), (0x3000, "other".into())]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut recorder = Recorder::create(file.path(), "web").unwrap();
    recorder.add(&frame(), &symbols).unwrap();
    recorder.add(&Frame { at: 2.5, ..frame() }, &symbols).unwrap();
    let recorded = Recorded::read(file.path()).unwrap();
    assert_eq!(recorded.vm, "web");
    assert_eq!(recorded.frames, [frame(), Frame { at: 2.5, ..frame() }]);
    assert_eq!(recorded.symbols.find(0x2004), Some(("leaf", 4)));
    assert_eq!(recorded.symbols.len(), 2, "what did not occur is not named");

    // Broken off in the midst of a line.
    let text = std::fs::read(file.path()).unwrap();
    let cut = Recorded::parse(&text[..text.len() - 5]).unwrap();
    assert_eq!(cut.frames.len(), 1);
}

#[test]
fn what_is_no_recording_is_told() {
    let header = r#"{"popf-trace":1,"vm":"web","began":0}"#;
    let frame = |body: &str| format!("{header}\n{{\"names\":[],\"frame\":{body}}}\n");
    let cases = [
        (String::new(), "no first line"),
        ("\u{0}\u{1}\n".to_owned(), "line 1"),
        ("[]\n".to_owned(), "line 1"),
        (r#"{"popf-trace":2,"vm":"","began":0}"#.to_owned() + "\n", "version 2"),
        (format!("{header}\n"), "empty"),
        (format!("{header}\n{{}}\n"), "line 2"),
        (frame(r#"{"at":0,"vcpus":[],"samples":[]}"#), "no vCPU"),
        (frame(r#"{"at":1e999,"vcpus":[],"samples":[]}"#), "line 2"),
        (frame(r#"{"at":0,"vcpus":[{"vcpu":-1}],"samples":[]}"#), "line 2"),
        (format!("{header}\n{}\n", "[".repeat(100_000)), "line 2"),
    ];
    for (text, reason) in cases {
        let error = Recorded::parse(text.as_bytes()).unwrap_err();
        assert!(error.contains(reason), "{error}, not {reason}");
    }
}
