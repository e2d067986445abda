//! `popf shell` and `popf cp` against the agent as it is put into guests, which runs on this host here: what stands for
//! a VM is a name that the test holds, and a socket that leads to the agent as a VM's vsock socket does.

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use common::{Files, popf, run};
use vms::{Claim, Registry};

/// A VM called `web`, of which there is the agent alone.
struct Vm {
    files: Files,
    agent: Child,
    _claim: Claim,
}

impl Vm {
    fn start() -> Self {
        let files = Files::new();
        let program = files.write("agent", images::AGENT);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let socket = files.path("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let stdin = || Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
        let agent = loop {
            match Command::new(&program).arg("inherited").stdin(stdin()).spawn() {
                Ok(agent) => break agent,
                // Busy as long as a process that another test is starting holds the file as it was written.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        let registry = Registry::at(files.path("run/popf"), files.path("data/popf/vms"));
        let claim = registry.claim(&"web".parse().unwrap()).unwrap();
        let vsock = UnixListener::bind(claim.path(vms::VSOCK_SOCKET)).unwrap();
        thread::spawn(move || {
            for stream in vsock.incoming() {
                lead(stream.unwrap(), &socket);
            }
        });
        Self { files, agent, _claim: claim }
    }

    fn popf(&self, arguments: &[&str]) -> Command {
        let mut command = popf(arguments);
        command.env("XDG_RUNTIME_DIR", self.files.path("run")).env("XDG_DATA_HOME", self.files.path("data"));
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Copies, which has to succeed.
    fn cp(&self, from: &str, to: &str) {
        let (status, _, stderr) = run(&mut self.popf(&["cp", from, to]));
        assert_eq!((status, stderr.as_str()), (0, ""), "{from} {to}");
    }

    /// A path that is the guest's, which here is the host's too.
    fn guest(&self, name: &str) -> String {
        format!("web:{}", self.text(name))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
    }
}

/// Does as a VM's vsock socket does.
fn lead(mut client: UnixStream, agent: &Path) {
    let mut request = [0; 13];
    client.read_exact(&mut request).unwrap();
    assert_eq!(&request, b"CONNECT 1024\n");
    let guest = UnixStream::connect(agent).unwrap();
    client.write_all(b"OK 1073741824\n").unwrap();
    for (mut from, mut to) in [(&client, &guest), (&guest, &client)]
        .map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()))
    {
        thread::spawn(move || {
            // Either may go away at any time.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
}

#[test]
fn a_commands_streams_and_status_are_carried() {
    let vm = Vm::start();
    let script = "read line; echo got $line; echo err >&2; exit 7";
    let mut command = vm.popf(&["shell", "web", "--", "sh", "-c", script]);
    fs::write(vm.path("input"), "line\n").unwrap();
    command.stdin(fs::File::open(vm.path("input")).unwrap());
    assert_eq!(run(&mut command), (7, "got line\n".to_owned(), "err\n".to_owned()));
    let status = |arguments: &[&str]| run(&mut vm.popf(&[&["shell", "web", "--"], arguments].concat())).0;
    assert_eq!(status(&["sh", "-c", "kill -KILL $$"]), 137);
    assert_eq!(status(&["popf-no-such-program"]), 127);
    assert_eq!(status(&["/etc/passwd"]), 126);
}

#[test]
fn a_vm_that_does_not_run_is_told() {
    let vm = Vm::start();
    let (status, _, stderr) = run(&mut vm.popf(&["shell", "other", "--", "true"]));
    assert!(status == 125 && stderr.contains("other"), "{status}: {stderr}");
    let (status, _, stderr) = run(&mut vm.popf(&["shell", "other"]));
    assert!(status == 66 && stderr.contains("other"), "{status}: {stderr}");
}

#[test]
fn a_signal_goes_to_the_command() {
    let vm = Vm::start();
    let script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = vm
        .popf(&["shell", "web", "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    let killed = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(3), "caught\n"));
}

#[test]
fn a_terminal_is_passed_through() {
    let vm = Vm::start();
    let (user, terminal) = host::terminal::pseudo_terminal().unwrap();
    let stdio = || Stdio::from(terminal.try_clone().unwrap());
    let script = "tty && printf 'type: ' && read line && echo \"<$line $TERM>\"";
    let mut child = vm
        .popf(&["shell", "web", "--", "sh", "-c", script])
        .env("TERM", "vt52")
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .spawn()
        .unwrap();
    let mut user = fs::File::from(user);
    let mut shown = String::new();
    let mut see = |user: &mut fs::File, what: &str| {
        while !shown.contains(what) {
            let mut bytes = [0; 256];
            let count = user.read(&mut bytes).unwrap();
            shown += std::str::from_utf8(&bytes[..count]).unwrap();
        }
    };
    see(&mut user, "/dev/pts/");
    see(&mut user, "type: ");
    user.write_all(b"hello\r").unwrap();
    see(&mut user, "<hello vt52>");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(host::terminal::is_cooked(std::os::fd::AsFd::as_fd(&terminal)).unwrap(), "it is given back");
}

#[test]
fn the_escape_key_lets_go() {
    let vm = Vm::start();
    let (user, terminal) = host::terminal::pseudo_terminal().unwrap();
    let stdio = || Stdio::from(terminal.try_clone().unwrap());
    let script = format!("echo $$ > {}; echo ready; trap '' INT; sleep 1000", vm.text("pid"));
    let mut child = vm
        .popf(&["shell", "web", "--", "sh", "-c", &script])
        .stdin(stdio())
        .stdout(stdio())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut user = fs::File::from(user);
    let mut shown = String::new();
    while !shown.contains("ready") {
        let mut bytes = [0; 256];
        let count = user.read(&mut bytes).unwrap();
        shown += std::str::from_utf8(&bytes[..count]).unwrap();
    }
    user.write_all(b"\x1dq").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(125));
}

#[test]
fn files_and_folders_are_copied_both_ways() {
    let vm = Vm::start();
    let big: Vec<u8> = (0u32..3 << 20).map(|index| (index ^ index >> 8 ^ index >> 16) as u8).collect();
    fs::create_dir_all(vm.path("tree/inner")).unwrap();
    fs::create_dir(vm.path("there")).unwrap();
    fs::write(vm.path("tree/big"), &big).unwrap();
    fs::write(vm.path("tree/inner/script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(vm.path("tree/inner/script"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("big", vm.path("tree/link")).unwrap();
    let assert_is_tree = |name: &str| {
        let root = vm.path(name);
        assert!(fs::read(root.join("big")).unwrap() == big, "{name}");
        let mode = fs::metadata(root.join("inner/script")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750, "{name}");
        assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("big"), "{name}");
    };
    // Into a folder that is there, and to a new name.
    vm.cp(&vm.text("tree"), &vm.guest("there"));
    assert_is_tree("there/tree");
    vm.cp(&vm.text("tree"), &vm.guest("new"));
    assert_is_tree("new");
    fs::create_dir(vm.path("here")).unwrap();
    vm.cp(&vm.guest("tree"), &vm.text("here"));
    assert_is_tree("here/tree");
    vm.cp(&vm.guest("tree"), &vm.text("renamed"));
    assert_is_tree("renamed");
    // Single files, one of them over another.
    vm.cp(&vm.text("tree/big"), &vm.guest("there/copy"));
    vm.cp(&vm.guest("there/copy"), &vm.text("here/copy"));
    assert!(fs::read(vm.path("here/copy")).unwrap() == big);
    vm.cp(&vm.guest("tree/inner/script"), &vm.text("here/copy"));
    assert_eq!(fs::read_to_string(vm.path("here/copy")).unwrap(), "#!/bin/sh\n");
    let left: Vec<_> =
        fs::read_dir(vm.path("here")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn what_cannot_be_copied_is_told() {
    let vm = Vm::start();
    fs::write(vm.path("file"), "content").unwrap();
    let refused = |from: &str, to: &str, status: i32, part: &str| {
        let (found, _, stderr) = run(&mut vm.popf(&["cp", from, to]));
        assert!(found == status && stderr.contains(part), "{from} {to}: {found}: {stderr}");
    };
    refused(&vm.text("file"), &vm.text("other"), 2, "NAME:PATH");
    refused("web:/a", "web:/b", 2, "NAME:PATH");
    refused(&vm.text("none"), &vm.guest("x"), 66, "cannot copy");
    refused(&vm.guest("none"), &vm.text("x"), 65, "none: Cannot stat");
    assert!(!vm.path("x").exists());
    refused(&vm.text("file"), &vm.guest("none/x"), 65, "none");
    refused(&vm.guest("file"), &vm.text("none/x"), 71, "cannot write");
    refused("web:/", &vm.text("x"), 2, "file's name");
}
