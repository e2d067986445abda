//! Becoming another program: its arguments and environment from lists, itself from PATH.

use core::ffi::CStr;

use crate::{parse, sys};

pub const NOT_EXECUTABLE: i32 = 126;
pub const NOT_FOUND: i32 = 127;

/// The longest directory of PATH and program name joined.
const PATH_SIZE: usize = 4096;

/// Returns only if the command cannot be executed: with the status for that. A variable of `defaults`, the first of
/// which is PATH, counts where `environment` has none of its name.
pub fn execute(command: &[u8], environment: &[u8], defaults: &[&CStr]) -> Option<i32> {
    let argv = sys::allocate_pointers(parse::strings(command).count() + 1)?;
    for (slot, argument) in argv.iter_mut().zip(parse::strings(command)) {
        *slot = sys::pointer(argument);
    }
    let given = |name: &[u8]| {
        parse::strings(environment)
            .filter(move |v| parse::name(v.to_bytes()) == name)
            .last()
    };
    let inherited = defaults
        .iter()
        .copied()
        .filter(|v| given(parse::name(v.to_bytes())).is_none());
    let variables = parse::strings(environment).chain(inherited);
    let envp = sys::allocate_pointers(variables.clone().count() + 1)?;
    for (slot, variable) in envp.iter_mut().zip(variables) {
        *slot = sys::pointer(variable);
    }
    let program = parse::strings(command).next()?.to_bytes();
    // A login shell is told so by a dash; its file has none.
    if let Some(shell) = program.strip_prefix(b"-") {
        return Some(try_in(b"/bin", shell, argv, envp));
    }
    if program.contains(&b'/') {
        return Some(status_of(sys::exec(argv[0], argv, envp)));
    }
    let path = given(b"PATH")
        .or(defaults.first().copied())?
        .to_bytes()
        .strip_prefix(b"PATH=")?;
    let mut worst = NOT_FOUND;
    for directory in path.split(|byte| *byte == b':') {
        worst = worst.min(try_in(directory, program, argv, envp));
    }
    Some(worst)
}

fn try_in(directory: &[u8], program: &[u8], argv: &[*const u8], envp: &[*const u8]) -> i32 {
    let mut file = [0u8; PATH_SIZE];
    let mut at = 0;
    for part in [directory, b"/", program] {
        // One byte stays for the NUL.
        let Some(into) = file[..PATH_SIZE - 1].get_mut(at..at + part.len()) else {
            return NOT_FOUND;
        };
        into.copy_from_slice(part);
        at += part.len();
    }
    status_of(sys::exec(file.as_ptr(), argv, envp))
}

fn status_of(error: isize) -> i32 {
    if error == sys::ENOENT {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    }
}
