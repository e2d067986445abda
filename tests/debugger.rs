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
    address_of("start_kernel")
}

/// Where a function of the image's kernel is then.
fn address_of(function: &str) -> u64 {
    static SYMBOLS: OnceLock<String> = OnceLock::new();
    let symbols = SYMBOLS.get_or_init(|| {
        let functions = " start_kernel$\\| start_secondary$";
        let script = ["run", "--cmdline", "nokaslr", "busybox", "--", "grep", functions, "/proc/kallsyms"];
        image();
        run(&mut popf(&script), &[]).text()
    });
    let line = symbols.lines().find(|line| line.ends_with(&format!(" {function}")));
    let address = line.and_then(|line| u64::from_str_radix(line.split(' ').next()?, 16).ok());
    address.filter(|address| *address != 0).unwrap_or_else(|| panic!("{function}: {symbols:?}"))
}

/// A guest that waits for a debugger on this socket, and says something when it is up.
fn waiting(socket: &Path) -> Child {
    waiting_with(socket, &[], "echo the shell is reached")
}

/// The same with more options, and another command of its shell.
fn waiting_with(socket: &Path, options: &[&str], command: &str) -> Child {
    let gdb = format!("unix:{},wait", socket.display());
    let usual = ["run", "--gdb", &gdb, "--cmdline", "nokaslr"];
    let guest = ["busybox", "--", "sh", "-c", command];
    let arguments: Vec<_> = usual.iter().chain(options).chain(&guest).copied().collect();
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
fn each_processor_is_stopped_where_it_starts() {
    let address = address_of("start_secondary");
    let files = Files::new();
    let socket = files.path("gdb");
    let popf = waiting_with(&socket, &["--cpus", "3"], "nproc");
    let stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut gdb = Client::new(stream);
    assert_eq!(gdb.ask("qfThreadInfo"), "m01,02,03");
    assert_eq!(gdb.ask(&format!("Z1,{address:x},1")), "OK");
    for thread in 2..=3 {
        let told = gdb.ask("vCont;c");
        assert!(told.contains("hwbreak") && told.contains(&format!("thread:{thread:02x}")), "{told}");
        for other in 1..=3 {
            assert_eq!(gdb.ask(&format!("Hg{other:x}")), "OK");
            assert_eq!(gdb.register(RIP) == address, other == thread, "processor {other} of {thread}");
        }
        // It alone goes on, by one instruction.
        assert_eq!(gdb.ask("Hg1"), "OK");
        let first = gdb.register(RIP);
        let told = gdb.ask(&format!("vCont;s:{thread:x}"));
        assert!(told.contains(&format!("thread:{thread:02x}")), "{told}");
        assert_eq!(gdb.ask(&format!("Hg{thread:x}")), "OK");
        assert_ne!(gdb.register(RIP), address);
        assert_eq!(gdb.ask("Hg1"), "OK");
        assert_eq!(gdb.register(RIP), first, "the first stood still");
    }
    assert!(gdb.monitor("info machine").contains("vCPU 2: running, 64-bit mode, ring 0"));
    assert_eq!(gdb.ask("D"), "OK");
    assert_eq!(said(popf), ("3\n".into(), Some(0)));
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
