//! The program on the host itself: a check that fails here expects something else than a real machine does.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use selfcheck::narrow::{Answer, checks, program};
use selfcheck::{Generator, PROGRAM};

/// A path for this test run.
fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(file)
}

/// A program in a file of this name.
fn executable(file: &str, program: &[u8]) -> Command {
    let path = path(file);
    std::fs::write(&path, program).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    Command::new(path)
}

/// Runs the program with these arguments, from a file of this name.
fn run(file: &str, arguments: &[&str]) -> Output {
    executable(file, PROGRAM).args(arguments).output().unwrap()
}

#[test]
fn the_host_passes() {
    let output = run("selfcheck-all", &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.lines().filter(|line| line.starts_with("ok ")).count() >= 45, "{text}");
}

#[test]
fn checks_are_chosen_by_name() {
    let output = run("selfcheck-some", &["threads", "divide-errors"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "ok divide-errors\nok threads\n2 passed, 0 skipped, 0 failed\n"
    );
    // A name that no check has is no success.
    assert_eq!(run("selfcheck-none", &["nonsense"]).status.code(), Some(1));
}

#[test]
fn generated_data_are_the_same_on_both_sides() {
    let output = run("selfcheck-generate", &["generate", "100000"]);
    let mut expected = vec![0; 100_000];
    Generator::default().fill(&mut expected);
    assert_eq!(output.stdout, expected);
}

/// Each check of a 32-bit machine ends as it says on the host's processor, where that is one.
#[test]
fn the_host_answers_as_a_32_bit_machine() {
    const ENOEXEC: i32 = 8;
    let (script, commands) = (checks(), path("commands"));
    std::fs::write(&commands, script.input()).unwrap();
    let output = match executable("probe", &program()).stdin(File::open(&commands).unwrap()).output() {
        Ok(output) => output,
        Err(error) if error.raw_os_error() == Some(ENOEXEC) => {
            eprintln!("skipped: this host runs no 32-bit programs: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(output.status.success(), "{}", output.status);
    let answers = script.answers(&output.stdout).unwrap();
    let signals = answers.iter().filter(|(_, answer)| matches!(answer, Answer::Signal(_))).count();
    assert!(signals > 400, "{signals}");
}
