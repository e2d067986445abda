//! A driver that does to virtio devices whatever it must not: popf neither dies, hangs nor grows, and each device works
//! once it is reset.

use std::fs::File;
use std::process::Command;

use crate::common::Files;
use crate::harness::run;

/// Address space in KiB, so that a popf that grows is found out: what popf needs for such a guest, and for each of its
/// back-ends' threads a stack and an arena of the allocator's.
const LIMIT: &str = "3000000";

#[test]
fn a_hostile_driver_gets_nowhere() {
    let files = Files::new();
    let kernel = files.write("hostile", hostile::GUEST);
    let disk = files.write("disk", &[0x5a; 1 << 20]);
    // Large enough for requests that take long; without blocks behind the first.
    let grown = File::options().write(true).open(&disk).and_then(|file| file.set_len(16 << 30));
    grown.expect("a file with a hole");
    let disk = format!("{disk},queues=2");
    files.write("shared", b"");
    let folder = files.path("").display().to_string();
    let (writable, readable) = (format!("{folder}:/a"), format!("{folder}:/b:ro"));
    let popf = env!("CARGO_BIN_EXE_popf");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v $0 && exec \"$@\"", LIMIT, popf, "run", "--kernel", &kernel]);
    command.args(["--memory", hostile::MEMORY, "--debug-exit", "--no-reboot", "--disk", &disk]);
    command.args(["--net", "user", "--volume", &writable, "--volume", &readable]);
    let ended = run(&mut command, &[]);
    assert_eq!((ended.status, ended.stderr.as_str()), (hostile::DONE, ""));
}
