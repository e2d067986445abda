//! The rule held against made-up workspaces.

use super::*;

const SMALL: &[Row] = &[
    Row { krate: "x86", folder: "arch/x86", uses: &[], tests_use: &[], why: GROUND },
    Row { krate: "interpreter", folder: "monitor/interpreter", uses: &["x86"], tests_use: &[], why: GROUND },
    Row {
        krate: "translator",
        folder: "engines/translator",
        uses: &["x86"],
        tests_use: &["interpreter"],
        why: ENGINE,
    },
];

/// What cargo would print if the translator had these rows of dependencies beside others' crates.
fn workspace(translator: &str) -> Metadata {
    let iced = r#"{"name": "iced-x86", "kind": null, "path": null, "source": "registry"}"#;
    let text = format!(
        r#"{{"packages": [
            {{"name": "x86", "manifest_path": "/p/arch/x86/Cargo.toml", "dependencies": [{iced}]}},
            {{"name": "interpreter", "manifest_path": "/p/monitor/interpreter/Cargo.toml", "dependencies": [
                {{"name": "x86", "kind": null, "path": "/p/arch/x86"}}]}},
            {{"name": "translator", "manifest_path": "/p/engines/translator/Cargo.toml", "dependencies": [
                {iced}{translator}]}}
        ], "target_directory": "/p/target", "version": 1}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn edge(kind: &str) -> String {
    format!(
        r#", {{"name": "interpreter", "kind": {kind}, "path": "/p/monitor/interpreter", "optional": true}}"#
    )
}

#[test]
fn allowed_edges_pass() {
    let x86 = r#", {"name": "x86", "kind": null, "path": "/p/arch/x86"}"#;
    assert_eq!(violations(SMALL, &workspace(x86)), []);
}

#[test]
fn a_forbidden_edge_is_named_with_its_reason() {
    for (kind, expected) in [("null", Kind::Normal), (r#""build""#, Kind::Build)] {
        let found = violations(SMALL, &workspace(&edge(kind)));
        let wanted = Violation::Forbidden {
            from: "translator".into(),
            to: "interpreter".into(),
            kind: expected,
            why: ENGINE,
        };
        assert_eq!(found, std::slice::from_ref(&wanted));
        assert!(wanted.to_string().contains("translator -> interpreter"));
        assert!(wanted.to_string().contains(ENGINE));
    }
}

#[test]
fn tests_may_use_more() {
    assert_eq!(violations(SMALL, &workspace(&edge(r#""dev""#))), []);
    let backwards = r#", {"name": "stranger", "kind": "dev", "path": "/p/stranger"}"#;
    assert!(matches!(
        violations(SMALL, &workspace(backwards))[..],
        [Violation::Forbidden { kind: Kind::Tests, .. }]
    ));
}

#[test]
fn crates_and_rows_match_one_to_one() {
    let missing_row = &SMALL[..2];
    assert_eq!(violations(missing_row, &workspace("")), [Violation::Unknown { krate: "translator".into() }]);
    let mut extra_row = SMALL.to_vec();
    extra_row.push(Row { krate: "gone", folder: "gone", uses: &[], tests_use: &[], why: GROUND });
    assert_eq!(violations(&extra_row, &workspace("")), [Violation::Stale { krate: "gone" }]);
    let mut elsewhere = SMALL.to_vec();
    elsewhere[0].folder = "theory/x86";
    assert!(matches!(violations(&elsewhere, &workspace(""))[..], [Violation::Moved { .. }]));
}

#[test]
fn rows_name_only_rows_above_them() {
    for (index, row) in RULE.iter().enumerate() {
        assert!(RULE[..index].iter().all(|above| above.krate != row.krate), "{} twice", row.krate);
        for used in row.uses {
            assert!(
                RULE[..index].iter().any(|above| above.krate == *used),
                "{} -> {used} runs upward",
                row.krate
            );
        }
    }
}

#[test]
fn the_rule_keeps_what_the_architecture_is_about() {
    let uses = |krate: &str| RULE.iter().find(|row| row.krate == krate).unwrap().uses;
    for ground in ["x86", "savestate", "host"] {
        assert!(uses(ground).is_empty(), "{ground} depends on nothing of ours");
    }
    for forbidden in ["interpreter", "dispatcher", "devices", "board"] {
        assert!(!uses("translator").contains(&forbidden), "translator -> {forbidden}");
    }
    for forbidden in ["translator", "devices", "board", "memory"] {
        assert!(!uses("dispatcher").contains(&forbidden), "dispatcher -> {forbidden}");
    }
    for forbidden in ["vcpu", "translator", "dispatcher", "backends", "board", "host"] {
        assert!(!uses("devices").contains(&forbidden), "devices -> {forbidden}");
    }
}
