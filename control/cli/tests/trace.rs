//! VMs of a few instructions, looked at while they run.

mod common;

use std::io::{BufRead, BufReader, Read as _};
use std::process::{Command, Stdio};

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

/// The ranges of a map for perf and what they are called; in order, and none over another.
fn read_map(path: &str) -> Vec<(u64, u64, String)> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    std::fs::remove_file(path).unwrap();
    let number = |word: &str| u64::from_str_radix(word, 16).unwrap_or_else(|error| panic!("{word}: {error}"));
    let line = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        assert_eq!(words.len(), 3, "{line}");
        (number(words[0]), number(words[1]), words[2].to_owned())
    };
    let map: Vec<_> = text.lines().map(line).collect();
    for pair in map.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
    }
    map
}

#[test]
fn perf_is_given_names_while_a_vm_runs() {
    let bench = Bench::new();
    bench.done(&["trace", "loop", "--for", "0.3", "--symbols", &bench.names]);
    let path = bench.done(&["trace", "loop", "--perf-map"]);
    let map = read_map(path.trim_end());
    let blocks = bench.json(&["trace", "loop", "--block", &format!("{:#x}", BEGIN + 4)]);
    let block = &blocks[0];
    let begins = format!("guest:{:x}", block["rip"].as_u64().unwrap());
    for piece in block["pieces"].as_array().unwrap() {
        let address = piece["address"].as_u64().unwrap();
        let range = map.iter().find(|(start, len, _)| (*start..start + len).contains(&address));
        let way_out = piece["reason"].as_str().unwrap().starts_with("ways out");
        let expected = if way_out { format!("{begins}:way-out") } else { begins.clone() };
        assert_eq!(range.map(|(.., name)| name), Some(&expected), "{piece}");
    }
    for name in ["popf:enter", "popf:leave", "popf:refill-read-kernel"] {
        assert!(map.iter().any(|(.., known)| known == name), "no {name}");
    }
}

#[test]
fn perf_is_given_names_at_a_vms_end() {
    let files = Files::new();
    // mov al, 3; out f4h, al
    let kernel = files.write("kernel", &multiboot(&[0xb0, 3, 0xe6, 0xf4]));
    let mut command = popf(&["run", "--perf-map", "--debug-exit", "--memory", "32M", "--kernel", &kernel]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let path = format!("/tmp/perf-{}.map", child.id());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(3), "{}", String::from_utf8_lossy(&ended.stderr));
    let map = read_map(&path);
    assert!(map.iter().any(|(.., name)| *name == format!("guest:{BEGIN:x}")), "{map:?}");
}

#[test]
fn counters_are_listed_while_a_vm_runs() {
    let bench = Bench::new();
    let out = |counted: &Value| {
        let rows = counted["vcpus"][0]["rows"].as_array().unwrap();
        rows.iter().find(|row| row["cause"] == "Out").map_or(0, |row| row["count"].as_u64().unwrap())
    };
    let before = out(&bench.json(&["stats", "loop"]));
    let after = loop {
        let counted = bench.json(&["stats", "loop"]);
        if out(&counted) > before {
            break counted;
        }
    };
    assert_eq!(after["vm"], "loop");
    let counters = after["vcpus"][0]["counters"].to_string();
    for name in ["instructions translated", "accesses that missed the software TLB", "the cache was emptied"]
    {
        assert!(counters.contains(name), "no {name} in {counters}");
    }
    let text = bench.done(&["stats", "loop"]);
    for part in ["vCPU 0: ", "k cycles", "  Out\n", "of the engine's own:", "blocks in the cache"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    bench.refused(&["stats", "nobody"], 66, "nobody");
}

#[test]
fn a_signal_has_them_listed() {
    let files = Files::new();
    // mov dx, 3f8h; mov al, '.'; out dx, al; l: in al, 61h; jmp l
    let code = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xee, 0xe4, 0x61, 0xeb, 0xfc];
    let kernel = files.write("kernel", &multiboot(&code));
    let mut command = popf(&["run", "--memory", "32M", "--kernel", &kernel]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut dot = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut dot).unwrap();
    assert_eq!(&dot, b".", "it runs");
    let pid = child.id().to_string();
    let signal = |name: &str| {
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    };
    signal("USR1");
    let mut said = String::new();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    while !said.contains("software TLB entries of ring 3") {
        assert_ne!(errors.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let row = said.lines().find(|line| line.ends_with("  In")).unwrap_or_else(|| panic!("{said}"));
    assert!(row.split_whitespace().next().unwrap().parse::<u64>().unwrap() > 0, "{said}");
    signal("TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
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
