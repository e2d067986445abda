//! Held against another disassembler: every sensitive instruction that objdump sees in a program's code is found,
//! at its address, and nothing is found by descent where objdump sees no instruction or another.
//!
//! objdump sweeps: where data stand between code it may lose its way, so the two are compared where it has symbols
//! to hold on to, and what differs may be a few in a hundred thousand.

use std::collections::BTreeMap;
use std::process::Command;

use scan::{Image, Way, scan};

/// Mnemonics that objdump (AT&T syntax) and the NASM formatter write alike, prefixes aside.
const SENSITIVE: &[&str] = &[
    "cpuid", "syscall", "rdtsc", "rdtscp", "xgetbv", "hlt", "cli", "sti", "sgdt", "sidt", "lgdt", "lidt",
    "rdmsr", "wrmsr", "swapgs", "clts", "invlpg", "wbinvd", "rdpid", "rdpmc", "stac", "clac", "iretq",
    "int3", "fxsave",
];

/// Address and mnemonic of each instruction that objdump sees.
fn objdump(path: &std::path::Path) -> Option<BTreeMap<u64, String>> {
    let output = match Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(path).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: objdump cannot be run ({error}); binutils has it");
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let parse = |line: &str| {
        let (address, rest) = line.trim_start().split_once(":\t")?;
        let address = u64::from_str_radix(address, 16).ok()?;
        Some((address, rest.split_whitespace().next()?.to_owned()))
    };
    Some(text.lines().filter_map(parse).collect())
}

#[test]
fn this_very_program() {
    let path = std::env::current_exe().unwrap();
    let Some(theirs) = objdump(&path) else { return };
    let image = Image::read(&std::fs::read(&path).unwrap()).unwrap();
    let report = scan(&image);
    assert!(!image.symbols.is_empty() && theirs.len() > 10_000);
    // Descent has found most of what objdump sees, and nothing in between.
    let coverage = report.coverage;
    assert!(coverage.descent * 2 > image.len(), "{coverage:?} of {}", image.len());

    let ours: BTreeMap<u64, (String, Way)> = report
        .findings
        .iter()
        .map(|finding| {
            let text = finding.text();
            (finding.instruction.ip(), (text.split(' ').next().unwrap().to_owned(), finding.way))
        })
        .collect();
    let missed: Vec<_> = theirs
        .iter()
        .filter(|(address, mnemonic)| {
            // INT3 is padding to us where only a sweep finds it.
            SENSITIVE.contains(&mnemonic.as_str()) && *mnemonic != "int3" && !ours.contains_key(address)
        })
        .collect();
    assert!(missed.is_empty(), "{missed:?}");
    let known = |mnemonic: &str| SENSITIVE.contains(&mnemonic);
    let invented: Vec<_> = ours
        .iter()
        .filter(|(address, (mnemonic, way))| {
            let same = theirs.get(address).is_some_and(|theirs| !known(mnemonic) || theirs == mnemonic);
            *way == Way::Descent && !same
        })
        .collect();
    assert!(invented.is_empty(), "{invented:?}");
    assert!(ours.values().any(|(mnemonic, _)| mnemonic == "cpuid"), "Rust's feature detection has CPUID");
    println!("{} instructions, {} sensitive, as objdump has them", report.instructions, ours.len());
}
