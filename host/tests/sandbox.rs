//! The sandbox from inside, in processes of their own: what it must refuse, and all that popf needs under it.
#![allow(unsafe_code)] // System calls that no library makes, and some that none should.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use host::event::{Wait, poll};
use host::sandbox::{Access, SandboxError, support};
use host::stub::{Change, Registers, Stop};
use host::{
    Advice, AltStack, DualMapping, EventFd, Mapping, Memfd, Protection, RawMode, Reservation, Sandbox,
    Signal, Signals, Stubs, TimerFd, terminal,
};

/// The signal of a system call that is stopped.
const SIGSYS: i32 = 31;

/// Runs one test of this binary, one that is ignored, in a process of its own.
fn child(name: &str, case: &str) -> Output {
    let binary = std::env::current_exe().unwrap();
    let mut command = Command::new(binary);
    command
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env("CASE", case)
        .env_remove("RUST_BACKTRACE");
    command.output().unwrap()
}

fn case() -> String {
    std::env::var("CASE").unwrap()
}

/// A system call by number, past every library.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {{
        // SAFETY: either refused, or harmless: each use says which.
        let result = unsafe { libc::syscall($number $(, $argument)*) };
        if result >= 0 { Ok(result) } else { Err(io::Error::last_os_error().raw_os_error().unwrap()) }
    }};
}

/// What is asked for beyond the least.
type Extension = fn(&mut Sandbox);

type Attempt = fn() -> Result<i64, i32>;

const PROGRAM: &std::ffi::CStr = c"/bin/true";
const NONE: *const libc::c_void = std::ptr::null();

/// What a machine with nothing beyond its chips must not get away with: each ends the process and is named.
#[rustfmt::skip]
const STOPPED: &[(&str, Attempt)] = &[
    ("execve", || call!(libc::SYS_execve, PROGRAM.as_ptr(), NONE, NONE)),
    ("execveat", || call!(libc::SYS_execveat, -1, PROGRAM.as_ptr(), NONE, NONE, 0)),
    ("fork", || call!(libc::SYS_fork)),
    ("vfork", || call!(libc::SYS_vfork)),
    ("clone", || call!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)),
    ("unshare", || call!(libc::SYS_unshare, libc::CLONE_NEWUSER)),
    ("setns", || call!(libc::SYS_setns, 0, 0)),
    ("mount", || call!(libc::SYS_mount, NONE, PROGRAM.as_ptr(), NONE, libc::MS_BIND, NONE)),
    ("pivot_root", || call!(libc::SYS_pivot_root, NONE, NONE)),
    ("chroot", || call!(libc::SYS_chroot, PROGRAM.as_ptr())),
    ("ptrace", || call!(libc::SYS_ptrace, libc::PTRACE_ATTACH, 1, 0, 0)),
    ("process_vm_readv", || call!(libc::SYS_process_vm_readv, 1, NONE, 0, NONE, 0, 0)),
    ("process_vm_writev", || call!(libc::SYS_process_vm_writev, 1, NONE, 0, NONE, 0, 0)),
    ("pidfd_open", || call!(libc::SYS_pidfd_open, 1, 0)),
    ("pidfd_getfd", || call!(libc::SYS_pidfd_getfd, 0, 0, 0)),
    ("kill", || call!(libc::SYS_kill, 1, 0)),
    ("kill", || call!(libc::SYS_kill, libc::getpid(), 0)),
    ("tkill", || call!(libc::SYS_tkill, libc::gettid(), 0)),
    ("tgkill", || call!(libc::SYS_tgkill, 1, 1, 0)),
    ("rt_sigqueueinfo", || call!(libc::SYS_rt_sigqueueinfo, 1, 0, NONE)),
    ("bpf", || call!(libc::SYS_bpf, 0, NONE, 0)),
    ("perf_event_open", || call!(libc::SYS_perf_event_open, NONE, 0, 0, -1, 0)),
    ("userfaultfd", || call!(libc::SYS_userfaultfd, 0)),
    ("keyctl", || call!(libc::SYS_keyctl, 0, 0, 0, 0, 0)),
    ("kexec_load", || call!(libc::SYS_kexec_load, 0, 0, NONE, 0)),
    ("init_module", || call!(libc::SYS_init_module, NONE, 0, NONE)),
    ("reboot", || call!(libc::SYS_reboot, 0, 0, 0, NONE)),
    ("setuid", || call!(libc::SYS_setuid, 0)),
    ("capset", || call!(libc::SYS_capset, NONE, NONE)),
    ("seccomp", || call!(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, NONE)),
    ("prctl", || call!(libc::SYS_prctl, libc::PR_SET_SECCOMP, 2, NONE)),
    ("prctl", || call!(libc::SYS_prctl, libc::PR_SET_MM, 0, 0, 0)),
    ("prlimit64", || call!(libc::SYS_prlimit64, 1, libc::RLIMIT_CORE, NONE, NONE)),
    ("prlimit64", || call!(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, 8, NONE)),
    ("personality", || call!(libc::SYS_personality, 0x0040_0000)),
    ("modify_ldt", || call!(libc::SYS_modify_ldt, 1, NONE, 0)),
    ("arch_prctl", || call!(libc::SYS_arch_prctl, 0x1003, NONE)),
    ("chmod", || call!(libc::SYS_chmod, PROGRAM.as_ptr(), 0o777)),
    ("fchmodat2", || call!(452, -1, PROGRAM.as_ptr(), 0o777, 0)),
    ("chown", || call!(libc::SYS_chown, PROGRAM.as_ptr(), 0, 0)),
    ("truncate", || call!(libc::SYS_truncate, PROGRAM.as_ptr(), 0)),
    ("mknod", || call!(libc::SYS_mknod, PROGRAM.as_ptr(), 0, 0)),
    ("name_to_handle_at", || call!(libc::SYS_name_to_handle_at, -1, PROGRAM.as_ptr(), NONE, NONE, 0)),
    ("open_by_handle_at", || call!(libc::SYS_open_by_handle_at, -1, NONE, 0)),
    ("socket", || call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)),
    ("socket", || call!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0)),
    ("socket", || call!(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0)),
    ("socketpair", || call!(libc::SYS_socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, NONE)),
    ("sendmsg", || call!(libc::SYS_sendmsg, 1, NONE, 0)),
    ("io_uring_enter", || call!(libc::SYS_io_uring_enter, 0, 0, 0, 0, NONE, 0)),
    ("io_uring_register", || call!(libc::SYS_io_uring_register, 0, 0, NONE, 0)),
    ("ioctl", || call!(libc::SYS_ioctl, 0, libc::TIOCSTI, PROGRAM.as_ptr())),
    ("ioctl", || call!(libc::SYS_ioctl, 0, libc::TIOCSCTTY, 0)),
    ("ioctl", || call!(libc::SYS_ioctl, 0, libc::FIOASYNC, NONE)),
    ("fcntl", || call!(libc::SYS_fcntl, 0, libc::F_SETOWN, 1)),
    ("mmap", || map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, libc::MAP_PRIVATE)),
    ("mmap", || map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE)),
    ("mmap", || map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED)),
    ("mprotect", || protect(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)),
    ("mprotect", || protect(libc::PROT_READ | libc::PROT_EXEC)),
    ("pkey_mprotect", || call!(libc::SYS_pkey_mprotect, NONE, 4096, libc::PROT_EXEC, -1)),
    ("remap_file_pages", || call!(libc::SYS_remap_file_pages, NONE, 4096, 0, 0, 0)),
    // The x32 number space, in which filters by number have been passed by.
    ("unknown", || call!(0x4000_0000 | 520, PROGRAM.as_ptr(), NONE, NONE)),
];

fn map(protection: i32, flags: i32) -> Result<i64, i32> {
    call!(libc::SYS_mmap, 0, 4096, protection, flags | libc::MAP_ANONYMOUS, -1, 0)
}

fn protect(protection: i32) -> Result<i64, i32> {
    let page = Mapping::anonymous(4096, Protection::ReadWrite).unwrap();
    call!(libc::SYS_mprotect, page.as_ptr(), 4096, protection)
}

#[test]
#[ignore = "ends its process: run by others"]
fn stopped() {
    let (name, attempt) = STOPPED[case().parse::<usize>().unwrap()];
    Sandbox::new().enter().unwrap();
    let result = attempt();
    println!("{name} has been made: {result:?}");
}

#[test]
fn what_no_machine_does_is_stopped_and_named() {
    if !has_seccomp() {
        return;
    }
    for (index, (name, _)) in STOPPED.iter().enumerate() {
        is_stopped("stopped", index, name);
    }
}

/// An attempt ends its process by SIGSYS, and the system call is named.
fn is_stopped(test: &str, index: usize, name: &str) {
    let Output { status, stdout, stderr } = child(test, &index.to_string());
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.signal(), Some(SIGSYS), "attempt {index}, {name}: {status}, {stdout}{stderr}");
    let line = stderr.lines().find(|line| line.starts_with("popf: the sandbox stopped system call "));
    let line = line.unwrap_or_else(|| panic!("attempt {index}, {name}: {stderr}"));
    assert!(line.contains(&format!(" ({name}), arguments 0x")), "attempt {index}, {name}: {line}");
}

#[test]
#[ignore = "ends its process: run by others"]
fn calls_of_32_bit() {
    Sandbox::new().enter().unwrap();
    // SAFETY: number 20 of the 32-bit calls is getpid.
    let result = unsafe {
        let result: u64;
        std::arch::asm!("int 0x80", inout("rax") 20_u64 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        result
    };
    println!("a 32-bit call has been made: {result}");
}

#[test]
fn the_other_system_call_table_is_closed() {
    if has_seccomp() {
        // SIGSYS; SIGSEGV on a host whose kernel has no such table.
        let Output { status, stdout, .. } = child("calls_of_32_bit", "");
        assert!(
            matches!(status.signal(), Some(SIGSYS | 11)),
            "{status}: {}",
            String::from_utf8_lossy(&stdout)
        );
    }
}

/// Runs a child whose assertions have to hold.
fn holds(name: &str, case: &str) {
    let Output { status, stdout, stderr } = child(name, case);
    let said = [stdout, stderr].concat();
    assert!(status.success(), "{name} {case}: {status}\n{}", String::from_utf8_lossy(&said));
}

fn has_seccomp() -> bool {
    let seccomp = support().seccomp;
    seccomp.as_ref().inspect_err(|error| eprintln!("skipped: this host has no seccomp: {error}")).is_ok()
}

fn has_landlock(version: u32) -> bool {
    let landlock = support().landlock;
    let has = landlock.as_ref().is_ok_and(|&has| has >= version);
    if !has {
        eprintln!("skipped: needs version {version} of Landlock: {landlock:?}");
    }
    has
}

const PERMISSION_DENIED: Option<i32> = Some(libc::EACCES);

/// A stub that was started on the way into the sandbox is traced in it; nobody else is.
#[test]
#[ignore = "in a process of its own: run by others"]
fn stubs() {
    let mut started = None;
    let start = || started.insert(Stubs::start(1).unwrap()).pids().to_vec();
    Sandbox::new().enter_with(start).unwrap();
    let stubs = started.unwrap();
    let memory = Memfd::new("test", 4096).unwrap();
    // A thread that is made later, as vCPUs' are.
    let stop = thread::scope(|scope| {
        let traced = scope.spawn(|| {
            let mut stub = stubs.take(&memory).unwrap().expect("one was started");
            let view = Mapping::shared(&memory, 0, 4096, Protection::ReadWrite).unwrap();
            // SAFETY: within the mapping.
            unsafe { view.as_ptr().cast::<u16>().write(0x050f) }; // syscall
            let code = Change::Map { at: 0x10000, len: 4096, offset: 0, write: false, execute: true };
            stub.change(&[code]).unwrap();
            let selectors = [0, 0x33, 0x2b, 0, 0, 0];
            let mut now = Registers { rip: 0x10000, rflags: 0x202, selectors, ..Registers::default() };
            // exit_group(2), were it to come to the kernel.
            now.gpr[0] = libc::SYS_exit_group as u64;
            let stop = stub.run(&mut now, None).unwrap();
            stubs.give_back(stub);
            stop
        });
        traced.join().unwrap()
    });
    assert_eq!((stop, stubs.left()), (Stop::SystemCall, 1));
    println!("and now another");
    let result = call!(libc::SYS_ptrace, libc::PTRACE_SEIZE, libc::getppid(), 0, 0);
    println!("ptrace has been made: {result:?}");
}

#[test]
fn stubs_can_be_traced_and_nobody_else() {
    if !has_seccomp() {
        return;
    }
    let Output { status, stdout, stderr } = child("stubs", "");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(stdout.contains("and now another"), "{stdout}{stderr}");
    assert_eq!(status.signal(), Some(SIGSYS), "{stdout}{stderr}");
}

#[test]
#[ignore = "in a process of its own: run by others"]
fn declined() {
    Sandbox::new().enter().unwrap();
    for path in ["/etc/passwd", "/dev/null", "/proc/self/maps", "/nowhere"] {
        assert_eq!(File::open(path).unwrap_err().raw_os_error(), PERMISSION_DENIED, "{path}");
    }
    assert_eq!(File::create("/tmp/popf-sandbox-test").unwrap_err().raw_os_error(), PERMISSION_DENIED);
    assert_eq!(fs::remove_file("/nowhere").unwrap_err().raw_os_error(), PERMISSION_DENIED);
    assert_eq!(fs::read_dir("/").unwrap_err().raw_os_error(), PERMISSION_DENIED);
    assert_eq!(call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0), Err(libc::EACCES));
    assert_eq!(call!(libc::SYS_clone3, NONE, 0), Err(libc::ENOSYS));
    assert_eq!(call!(libc::SYS_io_uring_setup, 1, NONE), Err(libc::ENOSYS));
}

#[test]
fn what_libraries_try_is_declined() {
    if has_seccomp() {
        holds("declined", "");
    }
}

#[test]
#[ignore = "in a process of its own: run by others"]
fn all_that_a_machine_does() {
    // From before: a thread at work, one asleep, signals, a terminal, files.
    let (questions, asked) = mpsc::channel::<mpsc::Sender<usize>>();
    let worker = thread::spawn(move || {
        for answer in asked {
            let threads: Vec<_> = (0..8).map(|n| thread::spawn(move || vec![n; 1 << 20].len())).collect();
            answer.send(threads.into_iter().map(|thread| thread.join().unwrap()).sum()).unwrap();
        }
    });
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let sleeper = {
        let gate = gate.clone();
        thread::spawn(move || drop(gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap()))
    };
    let (signals_sender, signals) = mpsc::channel();
    let _signals =
        Signals::deliver(&[Signal::WindowChange], move |signal| signals_sender.send(signal).unwrap())
            .unwrap();
    let (_user, terminal) = terminal::pseudo_terminal().unwrap();
    let mut file = nameless_file();

    Sandbox::new().enter().unwrap();

    // Threads, older ones and new ones, with names, allocating, waiting and ending.
    let (answer, answered) = mpsc::channel();
    questions.send(answer).unwrap();
    assert_eq!(answered.recv(), Ok(8 << 20));
    let named = thread::Builder::new().name("named".into());
    let named = named.spawn(|| fs::read_to_string("/proc/thread-self/comm").is_err()).unwrap();
    assert!(named.join().unwrap());
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    sleeper.join().unwrap();
    assert!(thread::spawn(|| panic!("meant to be")).join().is_err());
    // Memory: large, small, growing, given back; code written here and run there.
    let mut grown = Vec::new();
    (0..1_u64 << 20).for_each(|n| grown.push(n));
    assert_eq!(grown.into_iter().collect::<HashSet<_>>().len(), 1 << 20);
    let mapping = Mapping::anonymous(1 << 20, Protection::ReadWrite).unwrap();
    mapping.advise(0, 1 << 20, Advice::DontNeed).unwrap();
    drop(mapping);
    let memfd = Memfd::new("test", 1 << 20).unwrap();
    let view = Mapping::shared(&memfd, 0, 1 << 20, Protection::ReadWrite).unwrap();
    view.advise(0, 1 << 20, Advice::Remove).unwrap();
    assert_eq!(memfd.resident().unwrap(), 0);
    let mut reservation = Reservation::low(1 << 20).unwrap();
    let code = DualMapping::within(&mut reservation, 4096, 4096).unwrap();
    // SAFETY: both views have a page; the code is one that returns.
    unsafe {
        code.writable().write(0xc3);
        std::mem::transmute::<*const u8, extern "C" fn()>(code.executable())();
    }
    // Signals, on the alternate stack.
    let _stack = AltStack::install().unwrap();
    // SAFETY: caught by the handler from before.
    unsafe { libc::raise(libc::SIGWINCH) };
    assert_eq!(signals.recv(), Ok(Signal::WindowChange));
    // Waiting.
    let (event, timer) = (EventFd::new().unwrap(), TimerFd::new().unwrap());
    timer.set(Duration::from_millis(1));
    timer.wait().unwrap();
    event.notify();
    assert!(poll(&mut [Wait::readable(&event)], Some(Duration::ZERO)).unwrap());
    thread::sleep(Duration::from_millis(1));
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"x").unwrap();
    drop(writer);
    assert_eq!(io::read_to_string(reader).unwrap(), "x");
    // The terminal and files that are open.
    let raw = RawMode::enter(&terminal).unwrap();
    assert!(terminal::in_foreground(terminal.as_fd()) && !terminal::is_cooked(terminal.as_fd()).unwrap());
    drop(raw);
    assert!(terminal::is_cooked(terminal.as_fd()).unwrap());
    file.write_all(b"written").unwrap();
    file.write_all_at(b"W", 0).unwrap();
    file.sync_data().unwrap();
    file.rewind().unwrap();
    assert_eq!(io::read_to_string(file.try_clone().unwrap()).unwrap(), "Written");
    file.set_len(3).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3);
    assert!(host::system::total_memory().unwrap() > 0);
    drop(questions);
    worker.join().unwrap();
}

#[test]
fn all_that_a_machine_does_is_let_through() {
    holds("all_that_a_machine_does", "");
}

/// A file without a name.
fn nameless_file() -> File {
    let directory = directory();
    let path = directory.join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    fs::remove_dir_all(directory).unwrap();
    file
}

/// A new directory.
fn directory() -> PathBuf {
    let path = std::env::temp_dir().join(format!("popf-sandbox-{}", std::process::id()));
    fs::create_dir(&path).unwrap();
    path
}

#[test]
#[ignore = "in a process of its own: run by others"]
fn files_below_a_path() {
    let directory = PathBuf::from(case());
    let (read_only, shared) = (directory.join("read-only"), directory.join("shared"));
    for path in [&read_only, &shared] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("file"), "text").unwrap();
    }
    let mut sandbox = Sandbox::new();
    sandbox.share(&read_only, Access::Read);
    sandbox.share(&shared, Access::ReadWrite);
    // A thread from before, which tries the same: Landlock binds threads one by one.
    let (go, wait) = mpsc::channel::<()>();
    let tried = (read_only.clone(), shared.join("of an older thread"));
    let older = thread::spawn(move || {
        wait.recv().unwrap();
        try_files(&tried.0, &tried.1);
    });
    sandbox.enter().unwrap();
    go.send(()).unwrap();
    older.join().unwrap();
    try_files(&read_only, &shared.join("of the thread that entered"));
    let tried = (read_only.clone(), shared.join("of a newer thread"));
    thread::spawn(move || try_files(&tried.0, &tried.1)).join().unwrap();
    // A link that a guest makes leads nowhere else.
    std::os::unix::fs::symlink("/etc/passwd", shared.join("link")).unwrap();
    refused(File::open(shared.join("link")), "following a link");
}

fn refused<T>(result: io::Result<T>, what: &str) {
    let error = result.err().unwrap_or_else(|| panic!("not refused: {what}"));
    assert_eq!(error.raw_os_error(), PERMISSION_DENIED, "{what}");
}

fn try_files(read_only: &Path, made: &Path) {
    refused(File::open("/etc/passwd"), "reading elsewhere");
    refused(fs::write("/tmp/popf-sandbox-test", ""), "writing elsewhere");
    refused(fs::read_dir("/"), "listing elsewhere");
    refused(fs::write(read_only.join("file"), ""), "writing what is to be read");
    refused(File::create(read_only.join("new")), "making a file where there is reading only");
    refused(fs::remove_file(read_only.join("file")), "removing there");
    assert_eq!(fs::read_to_string(read_only.join("file")).unwrap(), "text");
    fs::create_dir(made).unwrap();
    fs::write(made.join("a"), "text").unwrap();
    fs::rename(made.join("a"), made.join("b")).unwrap();
    assert_eq!(fs::read_to_string(made.join("b")).unwrap(), "text");
    fs::hard_link(made.join("b"), made.join("c")).unwrap();
    // By what a descriptor is called, as servers of shared folders have it.
    let file = File::open(made.join("b")).unwrap();
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::write(&name, "written").unwrap();
    fs::set_permissions(&name, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::read_dir(made).unwrap().count(), 2);
    fs::remove_file(made.join("b")).unwrap();
    fs::remove_file(made.join("c")).unwrap();
    fs::remove_dir(made).unwrap();
}

#[test]
fn files_are_those_of_the_policy_for_every_thread() {
    // From version 2 on files can be moved between directories, and from 3 on be truncated.
    if has_landlock(3) {
        in_directory("files_below_a_path", |path| path.into());
    }
}

/// Runs a child with a directory of its own.
fn in_directory(name: &str, case: impl Fn(&str) -> String) {
    let directory = directory();
    holds(name, &case(directory.to_str().unwrap()));
    fs::remove_dir_all(directory).unwrap();
}

#[test]
#[ignore = "in a process of its own: run by others"]
fn sockets() {
    let case = case();
    let (policy, directory) = case.split_once(' ').unwrap();
    let path = Path::new(directory).join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    // Asked now: in the sandbox it may not be.
    let limits_connections = support().landlock.is_ok_and(|version| version >= 9);
    let mut sandbox = Sandbox::new();
    match policy {
        "internet" => sandbox.internet(),
        "unix" => sandbox.unix_connections(directory),
        "served" => sandbox.unix_sockets(),
        other => panic!("{other}"),
    }
    sandbox.enter().unwrap();
    match policy {
        "internet" => internet(),
        "unix" if !limits_connections => {
            talk(client, &listener);
            refused(UnixStream::connect(&path), "connecting where nothing says to where");
        }
        "unix" => {
            talk(client, &listener);
            talk(UnixStream::connect(&path).unwrap(), &listener);
            let (one, other) = (UnixDatagram::unbound().unwrap(), Path::new(directory).join("other"));
            let other_end = UnixDatagram::bind(&other).unwrap();
            one.send_to(b"hello", &other).unwrap();
            assert_eq!(other_end.recv(&mut [0; 16]).unwrap(), 5);
            fs::remove_file(other).unwrap();
        }
        _ => talk(client, &listener),
    }
}

fn talk(mut client: UnixStream, listener: &UnixListener) {
    let mut server = listener.accept().unwrap().0;
    client.write_all(b"hello").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    server.shutdown(std::net::Shutdown::Both).unwrap();
}

fn internet() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        // The second where the host has no IPv6.
        let Ok(listener) = TcpListener::bind(any) else { continue };
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_nonblocking(true).unwrap();
        client.write_all(b"hello").unwrap();
        drop(client);
        assert_eq!(io::read_to_string(listener.accept().unwrap().0).unwrap(), "hello");
        let (one, other) = (UdpSocket::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
        one.send_to(b"hello", other.local_addr().unwrap()).unwrap();
        assert_eq!(other.recv(&mut [0; 16]).unwrap(), 5);
    }
}

#[test]
fn sockets_are_those_of_the_policy() {
    for policy in ["internet", "unix", "served"] {
        in_directory("sockets", |path| format!("{policy} {path}"));
    }
}

/// What goes beyond a policy that has sockets: the name of the call, the policy, the attempt.
#[rustfmt::skip]
const BEYOND: &[(&str, Extension, Attempt)] = &[
    ("socket", Sandbox::internet, || call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    ("socket", Sandbox::internet, || call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP)),
    ("socket", Sandbox::internet, || call!(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_DGRAM, 0)),
    ("socket", Sandbox::internet, || call!(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    // The packet filter's tables.
    ("setsockopt", Sandbox::internet, || call!(libc::SYS_setsockopt, 0, libc::IPPROTO_IP, 64, NONE, 0)),
    ("setsockopt", Sandbox::internet, || call!(libc::SYS_setsockopt, 0, libc::SOL_NETLINK, 1, NONE, 0)),
    ("connect", Sandbox::unix_sockets, || call!(libc::SYS_connect, 0, NONE, 0)),
    ("socket", Sandbox::unix_sockets, || call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)),
    ("io_uring_register", Sandbox::rings, || call!(libc::SYS_io_uring_register, 0, 0, NONE, 0)),
    // TUNSETIFF: another interface.
    ("ioctl", Sandbox::tun, || call!(libc::SYS_ioctl, 0, 0x4004_54ca, NONE)),
];

#[test]
#[ignore = "ends its process: run by others"]
fn beyond() {
    let (name, grant, attempt) = BEYOND[case().parse::<usize>().unwrap()];
    let mut sandbox = Sandbox::new();
    grant(&mut sandbox);
    sandbox.enter().unwrap();
    println!("{name} has been made: {:?}", attempt());
}

#[test]
fn a_peripheral_gets_what_it_asked_for_and_no_more() {
    if has_seccomp() {
        for (index, (name, ..)) in BEYOND.iter().enumerate() {
            is_stopped("beyond", index, name);
        }
    }
}

#[test]
#[ignore = "in a process of its own: run by others"]
fn strictness() {
    let nowhere = Path::new("/nowhere/at/all");
    let mut sandbox = Sandbox::new();
    sandbox.path(nowhere, Access::Read);
    let error = sandbox.enter().unwrap_err();
    assert!(matches!(&error, SandboxError::Path { path, .. } if path == nowhere), "{error:?}");
    let whole = support().seccomp.is_ok() && support().landlock.is_ok();
    match Sandbox::new().strict().enter() {
        Ok(protection) => assert!(whole && protection.gaps().is_empty()),
        Err(error) => assert!(!whole && matches!(error, SandboxError::Missing { .. }), "{error:?}"),
    }
}

#[test]
fn strictness_is_about_the_host() {
    holds("strictness", "");
}
