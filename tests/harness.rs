//! Runs processes with a limit on their time, and finds the image whose guests are tested.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::common::{self, popf};

/// What any guest here may take; on a busy machine a boot has been seen to take half a minute.
pub const LIMIT: Duration = Duration::from_secs(120);

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    /// -1 for a death by signal.
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Kills a process of ours that has not been waited for.
pub fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "process {pid} cannot be sent SIG{signal}");
}

/// Has a thread read everything.
fn reader(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe ends the reading like any end of it.
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// Runs a process to its end; one that takes longer than the limit is sent `at_limit`, and if that is SIGKILL the
/// test fails with what it said.
pub fn run_for(command: &mut Command, input: &[u8], limit: Duration, at_limit: &str) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = child.id();
    let (stdout, stderr) = (reader(child.stdout.take().unwrap()), reader(child.stderr.take().unwrap()));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Ends with the process, if that does not read.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait().unwrap()));
    let mut killed = false;
    let status = match ended.recv_timeout(limit) {
        Ok(status) => status,
        Err(RecvTimeoutError::Disconnected) => panic!("nobody waits for {command:?}"),
        Err(RecvTimeoutError::Timeout) => {
            signal(pid, at_limit);
            ended.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| {
                killed = true;
                signal(pid, "KILL");
                ended.recv().unwrap()
            })
        }
    };
    writer.join().unwrap();
    let stderr = String::from_utf8_lossy(&stderr.join().unwrap()).into_owned();
    let ended = Ended { status: status.code().unwrap_or(-1), stdout: stdout.join().unwrap(), stderr };
    let tail = String::from_utf8_lossy(&ended.stdout[ended.stdout.len().saturating_sub(2000)..]).into_owned();
    let hangs = killed || at_limit == "KILL" && status.code().is_none();
    assert!(!hangs, "{command:?} hangs or is killed ({status});\nit said: {tail}\nerrors: {}", ended.stderr);
    ended
}

/// Runs a process that has to end by itself.
pub fn run(command: &mut Command, input: &[u8]) -> Ended {
    run_for(command, input, LIMIT, "KILL")
}

/// Runs a command in a guest, with this standard input if it is not empty.
pub fn guest(command: &[&str], input: &[u8]) -> Ended {
    image();
    guest_of(&["busybox"], command, input)
}

/// The same in a guest of another image, or with other options of `popf run`. The image is built if it is missing.
pub fn guest_of(options: &[&str], command: &[&str], input: &[u8]) -> Ended {
    let mut arguments = vec!["run"];
    if !input.is_empty() {
        arguments.push("-i");
    }
    arguments.extend(options);
    arguments.push("--");
    arguments.extend(command);
    run(&mut popf(&arguments), input)
}

/// Runs a program on the host; what it wrote, or nothing if it is none for this host.
pub fn host_program(program: &[u8], input: &[u8]) -> Option<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    const ENOEXEC: i32 = 8;
    match Command::new(&path).stdin(Stdio::null()).stdout(Stdio::null()).status() {
        Err(error) if error.raw_os_error() == Some(ENOEXEC) => return None,
        other => assert!(other.is_ok(), "{other:?}"),
    }
    let ended = run(&mut Command::new(&path), input);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
    Some(ended.stdout)
}

/// Runs a shell script in a guest; what it wrote, if it succeeded.
pub fn guest_script(script: &str, input: &[u8]) -> String {
    let ended = guest(&["sh", "-c", script], input);
    assert_eq!(ended.status, 0, "{}{}", ended.text(), ended.stderr);
    assert_eq!(ended.stderr, "", "{}", ended.text());
    ended.text()
}

/// An image as `popf image list --json` has it.
pub struct Image {
    pub kernel: PathBuf,
    /// The program that is the whole user land of the guest, for the host to run too.
    pub busybox: PathBuf,
}

/// Builds an image if it is missing. Whoever waits meanwhile for another test's build of it says so, which is not to be among what
/// a guest says.
pub fn build(image: &str) {
    let (status, _, stderr) = common::run(&mut popf(&["image", "build", image]));
    assert_eq!(status, 0, "{image} cannot be built: {stderr}");
}

/// The image of the tests, built first if it is missing.
pub fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        build("busybox");
        let (_, list, _) = common::run(&mut popf(&["image", "list", "--json"]));
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        let kernel = list[0]["kernel"].as_str().unwrap_or_else(|| panic!("no kernel in {list}"));
        let kernel = PathBuf::from(kernel);
        Image { busybox: kernel.with_file_name("busybox"), kernel }
    })
}

/// Runs a script with the guest's own programs, on the host, in a directory of its own; what it wrote.
pub fn host_script(script: &str, input: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let programs = directory.path().join("bin");
    fs::create_dir(&programs).unwrap();
    let busybox: &Path = &image().busybox;
    let installed = run(Command::new(busybox).args(["--install", "-s"]).arg(&programs), &[]);
    assert_eq!(installed.status, 0, "{}", installed.stderr);
    let mut shell = Command::new(programs.join("sh"));
    shell.args(["-c", script]).current_dir(directory.path()).env_clear().env("PATH", &programs);
    let ended = run(&mut shell, input);
    assert_eq!(ended.status, 0, "{}{}", ended.text(), ended.stderr);
    ended.text()
}
