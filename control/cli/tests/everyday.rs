//! VMs as they are used day by day: started, listed, looked at, stopped, killed, removed, run again. Each test has
//! directories of its own and guests of a few instructions.

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Files, multiboot, popf, run};
use serde_json::Value;

/// mov dx, 3f8; mov al, '.'; out dx, al
const DOT: &[u8] = &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xee];
const JUMP_TO_ITSELF: &[u8] = &[0xeb, 0xfe];
/// Turns ACPI mode and the power button's event on.
#[rustfmt::skip]
const LISTEN: &[u8] = &[
    0xb0, 0xf1, 0xe6, 0xb2,                         // mov al, ACPI_ENABLE; out b2, al
    0x66, 0xba, 0x02, 0x06, 0x66, 0xb8, 0x00, 0x01, // mov dx, PM1a_EN; mov ax, PWRBTN_EN
    0x66, 0xef,                                     // out dx, ax
];
/// Waits for the power button and powers off.
#[rustfmt::skip]
const OBEY: &[u8] = &[
    0x66, 0xba, 0x00, 0x06,                         // mov dx, PM1a_STS
    0x66, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xf9,       // l: in ax, dx; test ah, PWRBTN_STS >> 8; jz l
    0x66, 0xb8, 0x00, 0x34,                         // mov ax, SLP_EN | S5
    0x66, 0xba, 0x04, 0x06, 0x66, 0xef,             // mov dx, PM1a_CNT; out dx, ax
    0xeb, 0xfe,                                     // jmp $
];

/// A user with nothing yet.
struct User {
    files: Files,
}

impl User {
    fn new() -> Self {
        Self { files: Files::new() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = popf(arguments);
        for (variable, directory) in [("XDG_RUNTIME_DIR", "run"), ("XDG_DATA_HOME", "data"), ("HOME", "home")]
        {
            command.env(variable, self.files.path(directory));
        }
        command
    }

    fn popf(&self, arguments: &[&str]) -> (i32, String, String) {
        run(&mut self.command(arguments))
    }

    /// Runs popf, which has to succeed; its standard output.
    fn done(&self, arguments: &[&str]) -> String {
        let (status, stdout, stderr) = self.popf(arguments);
        assert_eq!(status, 0, "{arguments:?}: {stderr}");
        stdout
    }

    /// Runs popf, which has to fail like this.
    fn refused(&self, arguments: &[&str], status: i32, words: &[&str]) {
        let (code, stdout, stderr) = self.popf(arguments);
        assert_eq!((code, stdout.as_str()), (status, ""), "{arguments:?}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{arguments:?}: no {word:?} in {stderr}");
        }
    }

    /// A kernel of this code.
    fn kernel(&self, name: &str, code: &[&[u8]]) -> String {
        self.files.write(name, &multiboot(&code.concat()))
    }

    /// `popf ps --all --json`: each name, and whether it runs.
    fn vms(&self) -> Vec<(String, bool)> {
        let list: Value = serde_json::from_str(&self.done(&["ps", "--all", "--json"])).unwrap();
        let row = |row: &Value| (row["name"].as_str().unwrap().to_owned(), row["running"].as_bool().unwrap());
        list.as_array().unwrap().iter().map(row).collect()
    }

    fn state(&self, name: &str) -> PathBuf {
        self.files.path("data/popf/vms").join(name)
    }

    /// Waits until the console of a detached VM has said this.
    fn console_says(&self, name: &str, text: &str) {
        let mut logs = self.command(&["logs", "--follow", name]).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = vec![0; text.len()];
        logs.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8_lossy(&said), text);
        logs.kill().unwrap();
        logs.wait().unwrap();
    }

    /// Nothing is left of any VM.
    fn has_nothing(&self) {
        assert_eq!(self.vms(), []);
        for directory in ["run/popf", "data/popf/vms"] {
            let path = self.files.path(directory);
            let names = |path: &Path| -> Vec<_> {
                std::fs::read_dir(path).map_or_else(
                    |_| Vec::new(),
                    |entries| entries.map(|entry| entry.unwrap().file_name()).collect(),
                )
            };
            let left: Vec<_> = names(&path).into_iter().filter(|name| name != ".lock").collect();
            assert!(left.is_empty(), "{directory}: {left:?}");
        }
    }
}

impl Drop for User {
    /// A test that failed half-way leaves no VM running.
    fn drop(&mut self) {
        let (_, list, _) = self.popf(&["ps", "--json"]);
        let list: Value = serde_json::from_str(&list).unwrap_or_default();
        for row in list.as_array().into_iter().flatten() {
            let _ = self.command(&["kill", row["name"].as_str().unwrap_or_default()]).output();
        }
    }
}

/// Sends a signal.
fn signal(name: &str, pid: &str) {
    let kill = Command::new("kill").args(["-s", name, pid]).status().unwrap();
    assert!(kill.success());
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_vm_with_a_name_lives_on_and_is_run_again() {
    let user = User::new();
    let kernel = user.kernel("kernel", &[LISTEN, DOT, OBEY]);
    let arguments = ["run", "--detach", "--name", "web", "--memory", "16M", "--kernel", &kernel];
    assert_eq!(user.done(&arguments), "web\n");
    user.console_says("web", ".");
    let table = user.done(&["ps"]);
    let row = table.lines().nth(1).unwrap();
    assert!(row.starts_with("web") && row.contains("up ") && row.ends_with("16M"), "{table}");

    user.refused(&arguments, 75, &["running VM called web", "popf stop web"]);
    user.refused(&["run", "--name", "web"], 75, &["web"]);
    user.refused(&["rm", "web"], 75, &["popf stop web", "popf rm --force web"]);

    let (status, _, stderr) = user.popf(&["stop", "web"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains("pressed the power button of web") && stderr.contains("powered off"), "{stderr}");
    assert_eq!(user.vms(), [("web".to_owned(), false)]);
    assert_eq!(user.done(&["ps"]).lines().count(), 1, "only the heading");
    assert!(user.done(&["ps", "-a"]).contains("powered off"));
    user.refused(&["stop", "web"], 66, &["web is not running", "popf run --name web"]);

    assert_eq!(user.done(&["run", "--name", "web"]), "web\n");
    user.console_says("web", "..");
    let (status, _, stderr) = user.popf(&["kill", "web"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains("web has ended: killed"), "{stderr}");
    assert_eq!(user.done(&["logs", "web"]), "..");
    assert_eq!(std::fs::read_to_string(user.state("web").join("popf.log")).unwrap(), "");
    user.done(&["rm", "web"]);
    user.has_nothing();
    user.refused(&["rm", "web"], 66, &["no VM called web", "popf ps -a"]);
    user.refused(&["run", "--name", "web"], 66, &["no VM called web", "popf run --name web IMAGE"]);
}

#[test]
fn a_vm_without_a_name_leaves_nothing() {
    let user = User::new();
    let kernel = user.kernel("kernel", &[DOT, JUMP_TO_ITSELF]);
    let name = user.done(&["run", "-d", "--memory", "16M", "--kernel", &kernel]);
    let name = name.trim();
    assert!(name.starts_with("vm-"), "{name}");
    let mut logs = spawn(&mut user.command(&["logs", "-f", name]));
    let mut said = [0];
    logs.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(said, *b".");
    user.refused(&["stop", "--timeout", "1", name], 83, &["does not listen", &format!("popf kill {name}")]);
    user.done(&["rm", "--force", name]);
    // It follows to the end, and no further.
    let output = logs.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b""[..]));
    user.has_nothing();
}

#[test]
fn a_guest_that_does_not_shut_down_is_told_of() {
    let user = User::new();
    let kernel = user.kernel("kernel", &[LISTEN, DOT, JUMP_TO_ITSELF]);
    user.done(&["run", "-d", "--name", "web", "--memory", "16M", "--kernel", &kernel]);
    user.console_says("web", ".");
    user.refused(&["stop", "--timeout", "0.1", "web"], 83, &["has not shut down in 0.1 s", "popf kill web"]);
    assert_eq!(user.vms(), [("web".to_owned(), true)]);
    user.done(&["rm", "-f", "web"]);
    user.has_nothing();
}

#[test]
fn a_killed_process_is_not_mistaken_for_a_running_vm() {
    let user = User::new();
    let kernel = user.kernel("kernel", &[DOT, JUMP_TO_ITSELF]);
    user.done(&["run", "-d", "--name", "web", "--memory", "16M", "--kernel", &kernel]);
    user.done(&["run", "-d", "--memory", "16M", "--kernel", &kernel]);
    let list: Value = serde_json::from_str(&user.done(&["ps", "--json"])).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    // Both follow to the end.
    let follow = |row: &Value| {
        let mut logs = spawn(&mut user.command(&["logs", "-f", row["name"].as_str().unwrap()]));
        logs.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        logs
    };
    let logs: Vec<_> = list.as_array().unwrap().iter().map(follow).collect();
    for row in list.as_array().unwrap() {
        signal("KILL", &row["pid"].to_string());
    }
    for child in logs {
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    }
    assert_eq!(user.vms(), [("web".to_owned(), false)]);
    assert!(user.done(&["ps", "-a"]).contains("its process was killed"));
    user.done(&["run", "--name", "web"]);
    user.done(&["kill", "web"]);
    user.done(&["rm", "web"]);
    user.has_nothing();
}

#[test]
fn of_two_that_want_a_name_one_gets_it() {
    let user = User::new();
    let kernel = user.kernel("kernel", &[JUMP_TO_ITSELF]);
    let arguments = ["run", "-d", "--name", "web", "--memory", "16M", "--kernel", &kernel];
    let racers = [(); 2].map(|()| spawn(&mut user.command(&arguments)));
    let mut codes = racers.map(|racer| racer.wait_with_output().unwrap().status.code());
    codes.sort();
    assert_eq!(codes, [Some(0), Some(75)]);
    user.done(&["rm", "-f", "web"]);
    user.has_nothing();
}

#[test]
fn signals_and_kills_leave_nothing_behind() {
    let user = User::new();
    let kernel = user.kernel("kernel", &[DOT, JUMP_TO_ITSELF]);
    for (how, status) in [("INT", 130), ("TERM", 143), ("popf kill", 137)] {
        let mut child = spawn(&mut user.command(&["run", "--memory", "16M", "--kernel", &kernel]));
        let mut byte = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        let [(name, true)] = &user.vms()[..] else { panic!("one VM") };
        match how {
            "popf kill" => drop(user.done(&["kill", name])),
            _ => signal(how, &child.id().to_string()),
        }
        assert_eq!(child.wait().unwrap().code(), Some(status), "{how}");
        user.refused(&["logs", name], 66, &[name]);
        user.has_nothing();
    }
}

#[test]
fn a_detached_run_fails_as_another_does() {
    let user = User::new();
    let kernel = user.files.write("kernel", b"no kernel");
    for detach in ["--detach=false", "--detach"] {
        user.refused(&["run", detach, "--name", "web", "--kernel", &kernel], 65, &["popf: ", "not a kernel"]);
        user.has_nothing();
    }
    user.refused(&["run", "-d", "--kernel", "/nothing"], 66, &["cannot read /nothing"]);
}

#[test]
fn a_vm_whose_starter_is_gone_ends() {
    let user = User::new();
    let kernel = user.kernel("kernel", &[JUMP_TO_ITSELF]);
    let mut vm =
        user.command(&["run-detached"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    drop(vm.stdout.take());
    let definition = format!("detach = true\nname = 'web'\nmemory = '16M'\nkernel = '{kernel}'\n");
    vm.stdin.take().unwrap().write_all(definition.as_bytes()).unwrap();
    assert_eq!(vm.wait().unwrap().code(), Some(137));
    assert_eq!(user.vms(), [("web".to_owned(), false)]);
}

#[test]
fn definitions_are_run_and_printed() {
    let user = User::new();
    // mov al, 7; out f4, al
    user.kernel("kernel", &[&[0xb0, 7, 0xe6, 0xf4]]);
    let file = user.files.write("vm.toml", b"kernel = 'kernel'\nmemory = '16M'\ndebug-exit = true\n");
    assert_eq!(user.popf(&["run", &file]).0, 7);
    let printed = user.done(&["run", &file, "--memory", "1G", "--print-definition"]);
    let kernel = user.files.path("kernel");
    let expected = format!("kernel = \"{}\"\nmemory = \"1G\"\ndebug-exit = true\n", kernel.display());
    assert_eq!(printed, expected);
    let wrong = user.files.write("wrong.toml", b"kernel = 'kernel'\nmemry = '16M'\n");
    user.refused(&["run", &wrong], 2, &["wrong.toml:2: ", "unknown field `memry`", "memory"]);
    let misfit = user.files.write("misfit.toml", b"kernel = 'kernel'\ncpus = 17\n");
    user.refused(&["run", &misfit], 2, &["misfit.toml:2: cpus: ", "16 processors at most"]);
    user.refused(&["run", "nothing.toml"], 66, &["nothing.toml", "No such file"]);
}

#[test]
fn shells_learn_popfs_words() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = user.done(&["completions", shell]);
        for word in ["print-definition", "doctor", "follow"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        assert!(!script.contains("run-detached"), "{shell}");
    }
}
