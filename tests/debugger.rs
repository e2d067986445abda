//! A debugger that looks into Debian's kernel while it boots: by hand, and with GDB itself where there is one.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use client::{Client, bytes};

use crate::common::{Files, popf};
use crate::harness::{LIMIT, image, run};

#[path = "../control/debugger/tests/common/client.rs"]
mod client;

/// RIP's number in GDB's order of x86-64's registers.
const RIP: usize = 16;

/// Where `start_kernel` is in the image's kernel when that stays where it was linked.
fn start_kernel() -> u64 {
    static ADDRESS: OnceLock<u64> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let script =
            ["run", "--cmdline", "nokaslr", "busybox", "--", "grep", " start_kernel$", "/proc/kallsyms"];
        image();
        let ended = run(&mut popf(&script), &[]);
        let line = ended.text();
        let address = line.split(' ').next().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        address.filter(|address| *address != 0).unwrap_or_else(|| panic!("{line:?} {}", ended.stderr))
    })
}

/// A guest that waits for a debugger on this socket, and says something when it is up.
fn waiting(socket: &Path) -> Child {
    let gdb = format!("unix:{},wait", socket.display());
    let arguments =
        ["run", "--gdb", &gdb, "--cmdline", "nokaslr", "busybox", "--", "echo", "the shell is reached"];
    let mut popf = popf(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Says that it waits when it does.
    let mut line = String::new();
    let mut stderr = BufReader::new(popf.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("the guest waits"), "{line}");
    popf.stderr = Some(stderr.into_inner());
    popf
}

/// What the guest said, to its end.
fn said(popf: Child) -> (String, Option<i32>) {
    let output = popf.wait_with_output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

#[test]
fn a_booting_kernel_is_stopped_at_a_function_by_the_protocol() {
    let address = start_kernel();
    let files = Files::new();
    let socket = files.path("gdb");
    let popf = waiting(&socket);
    let stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut gdb = Client::new(stream);
    assert!(gdb.ask("qXfer:features:read:target.xml:0,ffb").contains("i386:x86-64"));
    // Nothing has run, and there are no page tables yet that would map it.
    assert!(gdb.ask(&format!("m{address:x},4")).starts_with('E'));
    assert_eq!(gdb.ask(&format!("Z1,{address:x},1")), "OK");
    let told = gdb.ask("vCont;c");
    assert!(told.contains("hwbreak"), "{told}");
    assert_eq!(gdb.register(RIP), address);
    assert_eq!(bytes(&gdb.ask(&format!("m{address:x},10"))).len(), 16);
    assert!(gdb.monitor("info machine").contains("64-bit mode, ring 0"));
    assert!(gdb.ask("vCont;s:1").starts_with("T05"));
    assert_ne!(gdb.register(RIP), address);
    assert_eq!(gdb.ask("D"), "OK");
    assert_eq!(said(popf), ("the shell is reached\n".into(), Some(0)));
}

#[test]
fn a_booting_kernel_is_stopped_at_a_function_by_gdb() {
    if Command::new("gdb").arg("--version").output().is_err() {
        eprintln!("skipped: this host has no GDB; the test by the protocol has no need of it");
        return;
    }
    let address = start_kernel();
    let files = Files::new();
    let socket = files.path("gdb");
    let popf = waiting(&socket);
    let script = files.write(
        "script",
        format!(
            "set pagination off
set confirm off
target remote {}
hbreak *{address:#x}
continue
printf \"at %#lx\\n\", $rip
stepi
x/2i $rip
nexti
info threads
print $cr0
print/x $cs
print $xmm0.uint128
monitor info machine
delete
eval \"watch *(long *)%#lx\", $rsp - 8
continue
delete
detach
",
            socket.display()
        )
        .as_bytes(),
    );
    let gdb = run(Command::new("gdb").args(["-nx", "-batch", "-x", &script]), &[]);
    let text = gdb.text();
    for what in [
        &format!("at {address:#x}"),
        "vCPU 0: running, 64-bit mode, ring 0",
        "PG",
        "$2 = 0x10",
        "Hardware watchpoint 2",
        "Old value",
        "detached",
    ] {
        assert!(text.contains(what), "no {what:?} in:\n{text}\n{}", gdb.stderr);
    }
    assert_eq!(said(popf), ("the shell is reached\n".into(), Some(0)), "{text}");
}
