//! `popf scan`: files found out, files refused.

mod common;

use common::{Files, popf, run};
use serde_json::Value;

fn json(arguments: &[&str]) -> Value {
    let (status, stdout, stderr) = run(popf(&["scan", "--json"]).args(arguments));
    assert_eq!(status, 0, "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn row<'a>(report: &'a Value, instruction: &str) -> &'a Value {
    let of = |row: &&Value| row["instruction"] == instruction;
    report["histogram"]
        .as_array()
        .unwrap()
        .iter()
        .find(of)
        .unwrap_or_else(|| panic!("{instruction}: {report}"))
}

/// popf itself: a program, in whose code CPUID stands and, from its libraries, SYSCALL.
#[test]
fn a_program_with_symbols() {
    let report = json(&[env!("CARGO_BIN_EXE_popf"), "--list", "--class", "offender"]);
    assert_eq!((&report["format"], &report["mode"]), (&"ELF".into(), &"long64".into()));
    assert!(report["symbols"].as_u64().unwrap() > 1000, "{}", report["symbols"]);
    let bytes = |name: &str| report[name].as_u64().unwrap();
    let parts = ["descent_bytes", "sweep_bytes", "padding_bytes", "other_bytes"];
    assert_eq!(parts.into_iter().map(bytes).sum::<u64>(), bytes("bytes"));
    assert!(bytes("descent_bytes") * 2 > bytes("bytes"));
    let cpuid = row(&report, "CPUID");
    assert_eq!(cpuid["becomes"]["trap_and_emulate"], "unnoticed");
    assert_eq!(
        (&cpuid["becomes"]["translator"], &cpuid["becomes"]["vmx"]),
        (&"callout".into(), &"exit".into())
    );
    let list = report["list"].as_array().unwrap();
    assert!(list.iter().all(|line| line["reason"].as_str().unwrap().len() > 3));
    let named = list.iter().filter(|line| line["symbol"].is_string()).count();
    assert!(named * 2 > list.len(), "{named} of {}", list.len());
}

#[test]
fn a_boot_sector_with_a_map() {
    let files = Files::new();
    // cli; jmp over data; lgdt [bx]; hlt
    let code = files.write("boot.bin", &[0xfa, 0xeb, 2, 0xfb, 0xf4, 0x0f, 0x01, 0x17, 0xf4]);
    let map = files.write("boot.map", b"7c05 T go\n");
    let arguments = [&code[..], "--raw", "--mode", "real", "--base", "0x7c00", "--symbols", &map, "--list"];
    let report = json(&arguments);
    let list: Vec<_> = report["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            ["address", "instruction", "found", "symbol"].map(|name| line[name].as_str().unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        list,
        [
            ["0x7c00", "cli", "descent", "-"],
            ["0x7c03", "sti", "sweep", "-"],
            ["0x7c04", "hlt", "sweep", "-"],
            ["0x7c05", "lgdt [bx]", "descent", "go"],
            ["0x7c08", "hlt", "descent", "go+0x3"],
        ]
    );
    let (status, stdout, stderr) = run(popf(&["scan"]).args(arguments));
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("0x7c03? sti") && stdout.contains("raw, real, 9 bytes of code"), "{stdout}");
}

#[test]
fn files_that_cannot_be_scanned() {
    let files = Files::new();
    let refused = |arguments: &[&str], status: i32, word: &str| {
        let (code, stdout, stderr) = run(popf(&["scan"]).args(arguments));
        assert_eq!((code, stdout.as_str()), (status, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(word) && !stderr.contains("panicked"), "{arguments:?}: {stderr}");
    };
    let script = files.write("script", b"#!/bin/sh\n");
    refused(&[&script], 65, "neither ELF, bzImage nor PE");
    let cut = files.write("cut", b"\x7fELF\x02\x01\x01");
    refused(&[&cut], 65, "damaged");
    let empty = files.write("empty", b"");
    refused(&[&empty, "--raw", "--mode", "real"], 65, "no code");
    refused(&[&script, "--raw"], 2, "--mode");
    refused(&["/nowhere"], 66, "cannot read /nowhere");
}
