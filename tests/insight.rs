//! What popf shows of real guests' code.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value;

use crate::common::{Files, popf};
use crate::everyday::User;
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

/// A kernel that runs is traced by its own names, and what it has in memory is scanned, patched as it is.
#[test]
fn a_running_kernel_is_seen_by_name() {
    image();
    let user = User(Files::new());
    user.done(&["run", "--detach", "--name", "box", "busybox"]);
    user.console_says("box", "# ");
    let (flame, recording) = (user.0.path("flame.svg"), user.0.path("box.trace"));
    let (flame, recording) = (flame.to_str().unwrap(), recording.to_str().unwrap());
    let arguments =
        ["trace", "box", "--total", "--for", "2", "--flame", flame, "--record", recording, "--json"];
    let traced: Value = serde_json::from_str(&user.done(&arguments)).unwrap();
    let vcpu = &traced["vcpus"][0];
    // The boot's causes: nothing of it leaves as often as these.
    let rows = vcpu["rows"].as_array().unwrap();
    for cause in ["MovToCr", "Iret", "Hlt", "Out"] {
        assert!(rows.iter().any(|row| row["cause"] == cause), "no {cause} in {vcpu}");
    }
    // An idle kernel is woken by its timer and halts again.
    let (places, functions) = (vcpu["places"].as_array().unwrap(), vcpu["functions"].as_array().unwrap());
    let halts = places.iter().position(|place| place["cause"] == "Hlt").unwrap_or_else(|| panic!("{vcpu}"));
    let halt = functions[halts].as_str().unwrap();
    assert!(halt.contains("halt") || halt.contains("idle"), "{halt} is where a kernel waits");
    // Its translation: HLT leaves to the monitor.
    let block = user.done(&["trace", "box", "--block", halt]);
    // HLT may stand within a block, behind STI.
    let function = halt.split('+').next().unwrap_or_default();
    assert!(block.contains("sensitive (Hlt): leaves to the monitor") && block.contains(function), "{block}");

    let again: Value =
        serde_json::from_str(&user.done(&["trace", "--replay", recording, "--total", "--json"])).unwrap();
    assert_eq!(traced, again);
    let svg = std::fs::read_to_string(flame).unwrap();
    assert!(svg.starts_with("<?xml") && svg.trim_end().ends_with("</svg>"));

    let scanned = user.done(&["scan", "--vm", "box", "--json"]);
    let scanned: Value = serde_json::from_str(&scanned).unwrap();
    assert_eq!(scanned["format"], "memory");
    assert!(scanned["symbols"].as_u64().unwrap() > 10_000, "the kernel's own names");
    assert!(count(&scanned, "SWAPGS") >= 5 && count(&scanned, "WRMSR") > 20, "{}", scanned["histogram"]);
}

/// A busy kernel's flame graph has its functions on top of those that called them.
#[test]
fn a_flame_graph_has_a_kernels_functions() {
    image();
    let user = User(Files::new());
    let busy = "echo ready; while :; do dd if=/dev/zero of=/dev/null bs=4096 count=1000000 2>/dev/null; done";
    let mut command = user.command(&["run", "--name", "busy", "busybox", "--", "sh", "-c", busy]);
    let mut vm = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(vm.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "ready\n");
    let flame = user.0.path("flame.svg");
    let flame = flame.to_str().unwrap();
    let traced = user.done(&["trace", "busy", "--for", "3", "--flame", flame, "--json"]);
    let traced: Value = serde_json::from_str(&traced).unwrap();
    user.done(&["kill", "busy"]);
    vm.wait().unwrap();
    assert!(traced["ticks"].as_u64().unwrap() > 100, "{}", traced["tops"]);
    let svg = std::fs::read_to_string(flame).unwrap();
    for name in ["do_syscall_64", "ksys_read"] {
        assert!(svg.contains(&format!("<title>{name}: ")), "no {name} in {}", traced["tops"]);
    }
    let opened = svg.matches("<g>").count();
    assert_eq!(
        (opened, svg.matches("</g>").count()),
        (svg.matches("<title>").count(), opened),
        "well formed"
    );
}

/// What perf is told of translated code at a guest's end is in the kernel's own words.
#[test]
fn perf_is_given_a_kernels_names() {
    image();
    let vm = popf(&["run", "--perf-map", "busybox", "--", "true"]).stderr(Stdio::piped()).spawn().unwrap();
    let path = format!("/tmp/perf-{}.map", vm.id());
    let ended = vm.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let map = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let names: HashSet<_> = map.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    for name in ["guest:entry_SYSCALL_64", "guest:do_syscall_64", "guest:do_syscall_64:way-out", "popf:enter"]
    {
        assert!(names.contains(name), "no {name} among {}", names.len());
    }
    assert!(names.iter().any(|name| name.starts_with("user:")), "a program has run");
}
