//! What popf shows of real guests' code.

use std::io::Write;

use serde_json::Value;

use crate::common::popf;
use crate::harness::{guest, image, run};

fn scan(arguments: &[&str]) -> Value {
    let ended = run(popf(&["scan", "--json"]).args(arguments), &[]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// How often a form was found, in whichever way.
fn count(report: &Value, instruction: &str) -> u64 {
    let rows = report["histogram"].as_array().unwrap();
    let of = rows.iter().filter(|row| row["instruction"] == instruction);
    of.map(|row| row["descent"].as_u64().unwrap() + row["sweep"].as_u64().unwrap()).sum()
}

/// Debian's kernel, unpacked, with the names that it tells in a guest, where it runs at a random place.
#[test]
fn a_kernels_sensitive_instructions() {
    let kernel = image().kernel.to_str().unwrap();
    let bare = scan(&[kernel]);
    assert_eq!((&bare["format"], &bare["mode"]), (&"bzImage".into(), &"long64".into()));
    for (instruction, least) in [("SWAPGS", 5), ("WRMSR", 20), ("STI", 50), ("PUSHFQ", 50), ("CPUID", 5)] {
        assert!(count(&bare, instruction) > least, "{instruction}: {bare}");
    }
    let names = guest(&["cat", "/proc/kallsyms"], &[]);
    assert_eq!(names.status, 0, "{}", names.stderr);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&names.stdout).unwrap();
    let named = scan(&[kernel, "--list", "--symbols", file.path().to_str().unwrap()]);
    let descent = |report: &Value| report["descent_bytes"].as_u64().unwrap();
    assert!(descent(&named) > 2 * descent(&bare), "names lead to more code: {bare}");
    let list = named["list"].as_array().unwrap();
    let in_entry = |line: &&Value| {
        line["instruction"] == "swapgs"
            && line["symbol"].as_str().is_some_and(|s| s.starts_with("entry_SYSCALL_64"))
    };
    assert!(list.iter().any(|line| in_entry(&line)), "a system call begins with SWAPGS");
}

/// busybox is a program: what it asks for it asks by SYSCALL, and nothing in it is privileged but HLT after `exit`.
#[test]
fn a_programs_sensitive_instructions() {
    let report = scan(&[image().busybox.to_str().unwrap()]);
    assert_eq!(report["format"], "ELF");
    assert!(count(&report, "SYSCALL") > 20, "{report}");
    let rows = report["histogram"].as_array().unwrap();
    let privileged: Vec<_> =
        rows.iter().filter(|row| row["traps"] == "yes").map(|row| &row["instruction"]).collect();
    assert!(privileged.iter().all(|instruction| **instruction == "HLT"), "{privileged:?}");
}
