//! VMs of a few instructions, looked at while they run.

mod common;

use std::process::Command;

use common::{Files, multiboot, popf, run};
use serde_json::Value;

/// l: out 80h, al; in al, 61h; add ecx, 1; mov [ebx], ecx; jmp l
const CODE: &[u8] = &[0xe6, 0x80, 0xe4, 0x61, 0x83, 0xc1, 0x01, 0x89, 0x0b, 0xeb, 0xf5];
/// Where the multiboot kernel's code begins: behind its header at 1 MiB.
const BEGIN: u64 = 0x10_0020;

/// A user with a VM that runs that, and names for its code.
struct Bench {
    files: Files,
    names: String,
}

impl Bench {
    fn new() -> Self {
        let files = Files::new();
        let kernel = files.write("kernel", &multiboot(CODE));
        let names = files.write("names", format!("{BEGIN:016x} T the_loop\n").as_bytes());
        let bench = Self { files, names };
        bench.done(&["run", "--detach", "--name", "loop", "--memory", "32M", "--kernel", &kernel]);
        bench
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = popf(arguments);
        for (variable, directory) in [("XDG_RUNTIME_DIR", "run"), ("XDG_DATA_HOME", "data"), ("HOME", "home")]
        {
            command.env(variable, self.files.path(directory));
        }
        command
    }

    fn done(&self, arguments: &[&str]) -> String {
        let (status, stdout, stderr) = run(&mut self.command(arguments));
        assert_eq!(status, 0, "{arguments:?}: {stderr}");
        stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// popf has to fail like this.
    fn refused(&self, arguments: &[&str], status: i32, word: &str) {
        let (code, _, stderr) = run(&mut self.command(arguments));
        assert_eq!(code, status, "{arguments:?}: {stderr}");
        assert!(stderr.contains(word), "{arguments:?}: no {word:?} in {stderr}");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.command(&["kill", "loop"]).output();
    }
}

#[test]
fn exits_have_causes_places_and_names() {
    let bench = Bench::new();
    let traced = bench.json(&["trace", "loop", "--for", "0.5", "--symbols", &bench.names]);
    assert_eq!(traced["vm"], "loop");
    let vcpu = &traced["vcpus"][0];
    let cause = |name: &str| {
        let rows = vcpu["rows"].as_array().unwrap();
        rows.iter().find(|row| row["cause"] == name).map_or(0, |row| row["count"].as_u64().unwrap())
    };
    let (out, input) = (cause("Out"), cause("In"));
    assert!(out > 100 && out.abs_diff(input) <= 1, "each turn has one of each: {vcpu}");
    let places = vcpu["places"].as_array().unwrap();
    let at =
        |rip: u64| places.iter().position(|place| place["rip"] == rip).unwrap_or_else(|| panic!("{vcpu}"));
    let (first, second) = (at(BEGIN), at(BEGIN + 2));
    assert_eq!((&places[first]["cause"], &places[first]["last"]), (&"Out".into(), &0x80.into()));
    assert_eq!((&places[second]["cause"], &places[second]["last"]), (&"In".into(), &0x61.into()));
    let functions = vcpu["functions"].as_array().unwrap();
    assert_eq!((&functions[first], &functions[second]), (&"the_loop".into(), &"the_loop+0x2".into()));
    assert!(vcpu["guest"].as_f64().unwrap() > 0.0 && vcpu["monitor"].as_f64().unwrap() > 0.0, "{vcpu}");
    assert!(vcpu["seconds"].as_f64().unwrap() >= 0.4, "{vcpu}");

    // Since the start it is more, and once nobody watches nothing is counted by place.
    let total = bench.json(&["trace", "loop", "--for", "0.1", "--total", "--symbols", &bench.names]);
    let rows = total["vcpus"][0]["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["cause"] == "Out" && row["count"].as_u64().unwrap() > out));
    let text = bench.done(&["trace", "loop", "--for", "0.2", "--symbols", &bench.names]);
    for part in ["in guest code", "Out*", "out 80h,al [port 0x80]", "the_loop+0x2", "blocks in the cache"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn a_block_stands_beside_its_code() {
    let bench = Bench::new();
    // It has run once it has been seen to leave there.
    bench.done(&["trace", "loop", "--for", "0.3", "--symbols", &bench.names]);
    let text = bench.done(&["trace", "loop", "--block", "the_loop+0x2", "--symbols", &bench.names]);
    assert!(text.contains("in al,61h") && text.contains("sensitive (In): leaves to the monitor"), "{text}");
    let blocks = bench.json(&["trace", "loop", "--block", &format!("{:#x}", BEGIN + 4)]);
    let pieces = blocks[0]["pieces"].as_array().unwrap();
    let of = |guest: &str| {
        pieces.iter().find(|piece| piece["guest"] == guest).unwrap_or_else(|| panic!("{blocks}"))
    };
    assert_eq!((&of("83c101")["host"], &of("83c101")["reason"]), (&"83c101".into(), &"".into()), "as it is");
    assert!(of("890b")["reason"].as_str().unwrap().contains("software TLB"), "{blocks}");
    bench.refused(&["trace", "loop", "--block", "0x10"], 66, "no translation");
    bench.refused(&["trace", "loop", "--block", "nowhere", "--symbols", &bench.names], 2, "no place nowhere");
    bench.refused(&["trace", "loop", "--block", "0x10", "--vcpu", "7"], 71, "no vCPU 7");
}

#[test]
fn a_recording_says_the_same_again() {
    let bench = Bench::new();
    let (file, flame) = (bench.files.path("a.trace"), bench.files.path("a.svg"));
    let (file, flame) = (file.to_str().unwrap(), flame.to_str().unwrap());
    let common = ["trace", "--hertz", "200", "--flame", flame];
    let live = bench.json(
        &[&common[..], &["loop", "--for", "0.5", "--symbols", &bench.names, "--record", file]].concat(),
    );
    let svg = std::fs::read_to_string(flame).unwrap();
    bench.done(&["kill", "loop"]);
    let again = bench.json(&["trace", "--replay", file, "--flame", flame]);
    assert_eq!(live, again);
    assert_eq!(svg, std::fs::read_to_string(flame).unwrap());
    assert!(live["ticks"].as_u64().unwrap() > 10, "{live}");
    assert!(svg.starts_with("<?xml") && svg.contains("<title>the_loop: "), "{svg}");
    let screen = bench.done(&["top", "--once", "--replay", file]);
    for part in ["popf top: loop", "Out*", "the_loop+0x2", "[port 0x61]", "where time goes"] {
        assert!(screen.contains(part), "no {part:?} in {screen}");
    }
}

#[test]
fn a_screen_of_one_and_of_all() {
    let bench = Bench::new();
    let screen = bench.done(&["top", "loop", "--once", "--interval", "0.3", "--symbols", &bench.names]);
    assert!(screen.contains("the_loop") && screen.contains("In*"), "{screen}");
    let all = bench.done(&["top", "--once", "--interval", "0.3"]);
    assert!(all.lines().any(|line| line.starts_with("loop") && line.contains('%')), "{all}");
    bench.refused(&["top", "loop"], 2, "--once");
}

#[test]
fn memory_of_a_vm_is_scanned() {
    let bench = Bench::new();
    let scanned = bench.json(&[
        "scan",
        "--vm",
        "loop",
        "--address",
        &BEGIN.to_string(),
        "--length",
        "11",
        "--mode",
        "protected32",
        "--list",
    ]);
    let found: Vec<_> = scanned["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["instruction"].as_str().unwrap())
        .collect();
    assert_eq!(found, ["out 80h,al", "in al,61h"]);
    assert_eq!(scanned["format"], "memory");
    // It has no kernel of Linux's, and nothing at all there.
    bench.refused(&["scan", "--vm", "loop"], 65, "no code");
    bench.refused(
        &["scan", "--vm", "loop", "--address", "0xffffffff81000000", "--length", "16"],
        65,
        "no code",
    );
}

#[test]
fn what_cannot_be_traced_is_told() {
    let bench = Bench::new();
    let junk = bench.files.write("junk", b"\x00\x01\x02");
    let short = bench.files.write("short", b"{\"popf-trace\":1,\"vm\":\"x\",\"began\":0}\n");
    bench.refused(&["trace", "nobody"], 66, "nobody");
    bench.refused(&["trace", "--replay", &junk], 65, "no recording");
    bench.refused(&["top", "--once", "--replay", &short], 65, "empty");
    bench.refused(&["trace", "--replay", "/nowhere"], 66, "cannot read");
    bench.refused(&["trace", "loop", "--symbols", &junk], 65, "names no function");
    bench.refused(&["trace", "loop", "--for", "0"], 2, "0.1");
    bench.refused(&["trace"], 2, "NAME");
}
