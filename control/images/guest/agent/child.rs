//! Starting the program that a request names, on a terminal or on pipes.

use core::ffi::CStr;

use crate::calls::{self, Fd};
use crate::execute::{NOT_FOUND, execute};
use crate::protocol::{Refusal, Request};
use crate::{BLOCKED, sys};

const LOGIN_SHELL: &[u8] = b"-bash\0";
const HOME: &CStr = c"/root";
/// What a program finds unless the request says otherwise; PATH is the first.
const ENVIRONMENT: &[&CStr] = &[
    c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    c"HOME=/root",
    c"LANG=C.UTF-8",
    c"LOGNAME=root",
    c"SHELL=/bin/bash",
    c"USER=root",
];
/// What the new process says if it cannot enter the directory; beside the statuses of `execute`.
const NO_DIRECTORY: i32 = 1;

/// A program that runs, the leader of a session and process group.
pub struct Child {
    pub pid: i32,
    /// Its standard input, or its terminal.
    pub input: Option<Fd>,
    /// Its standard output, or its terminal.
    pub output: Option<Fd>,
    /// Its standard error, unless that goes to the terminal too.
    pub errors: Option<Fd>,
    /// Its terminal.
    pub terminal: Option<Fd>,
}

/// The ends that the program gets.
struct Theirs {
    input: Fd,
    output: Option<Fd>,
    errors: Option<Fd>,
}

/// Starts it; returns when it has become the program or cannot.
pub fn start(request: &Request) -> Result<Child, Refusal> {
    let (mut child, theirs) = connect(request).ok_or(Refusal::Resources)?;
    // Closed by the exec: then nothing is to be read.
    let (failure, failed) = calls::pipe().ok_or(Refusal::Resources)?;
    match sys::fork() {
        0 => {
            let status = become_program(request, &theirs);
            sys::write(failed.number(), &status.to_le_bytes());
            sys::exit(status)
        }
        pid if pid > 0 => child.pid = pid as i32,
        _ => return Err(Refusal::Resources),
    }
    drop((theirs, failed));
    let mut status = [0; 4];
    match calls::read(&failure, &mut status) {
        calls::Moved::Bytes(_) => Err(match i32::from_le_bytes(status) {
            NO_DIRECTORY => Refusal::Directory,
            NOT_FOUND => Refusal::NotFound,
            _ => Refusal::NotExecutable,
        }),
        _ => {
            for end in [&child.input, &child.output, &child.errors].into_iter().flatten() {
                calls::set_non_blocking(end);
            }
            Ok(child)
        }
    }
}

fn connect(request: &Request) -> Option<(Child, Theirs)> {
    if let Some(size) = request.terminal {
        let (master, slave) = calls::terminal(size)?;
        let (input, output) = (calls::duplicate(&master)?, calls::duplicate(&master)?);
        let child =
            Child { pid: 0, input: Some(input), output: Some(output), errors: None, terminal: Some(master) };
        return Some((child, Theirs { input: slave, output: None, errors: None }));
    }
    let ((their_input, input), (output, their_output)) = (calls::pipe()?, calls::pipe()?);
    let (errors, their_errors) = calls::pipe()?;
    let child =
        Child { pid: 0, input: Some(input), output: Some(output), errors: Some(errors), terminal: None };
    let theirs = Theirs { input: their_input, output: Some(their_output), errors: Some(their_errors) };
    Some((child, theirs))
}

/// In the new process; returns the status of a failure.
fn become_program(request: &Request, theirs: &Theirs) -> i32 {
    sys::new_session(request.terminal.map(|_| theirs.input.number()));
    let output = theirs.output.as_ref().unwrap_or(&theirs.input);
    let errors = theirs.errors.as_ref().unwrap_or(output);
    for (fd, to) in [(&theirs.input, 0), (output, 1), (errors, 2)] {
        sys::dup2(fd.number(), to);
    }
    let directory = if request.directory.is_empty() { HOME } else { request.directory };
    if calls::change_directory(directory) != 0 {
        return NO_DIRECTORY;
    }
    BLOCKED.unblock();
    let arguments = if request.arguments.is_empty() { LOGIN_SHELL } else { request.arguments };
    execute(arguments, request.environment, ENVIRONMENT).unwrap_or(NOT_FOUND)
}
