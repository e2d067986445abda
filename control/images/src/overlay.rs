//! What a single run adds to an image: a further archive behind the initramfs, which tells the guest's first
//! process (`guest/init.rs`) what to run.
//!
//! | file | meaning |
//! | --- | --- |
//! | `/popf/command` | the program and its arguments, each ended by NUL; absent: an interactive shell |
//! | `/popf/environment` | `NAME=value` strings, each ended by NUL |
//! | `/popf/tty` | present: the command gets the first serial port as its controlling terminal, errors included |
//! | `/popf/stdin` | standard input: a file, or a link to the first serial port; absent: the null device |
//!
//! A serial port has no end of file: with [`Stdin::Console`] a command that reads to the end waits for ever.
//! Input that is known before the run should be passed as [`Stdin::Bytes`].

use crate::error::{Error, Result};
use crate::newc::Writer;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// The device whose output is the command's standard output.
const CONSOLE: &str = "/dev/ttyS0";
/// The kernel's limit on a single argument (`MAX_ARG_STRLEN`).
const STRING_LIMIT: usize = 128 << 10;
/// The kernel's limit on all of them and the pointers to them, with the usual stack of 8 MiB (a quarter of it).
const STRINGS_LIMIT: usize = 2 << 20;

/// What a command in the guest reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: end of file at once.
    #[default]
    Null,
    /// What arrives at the first serial port, every byte as it is, without an end.
    Console,
    /// These bytes, then end of file.
    Bytes(Vec<u8>),
}

/// How a command in the guest is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// As on a terminal: line editing, Ctrl-C, standard error mixed into standard output. `stdin` is ignored.
    pub tty: bool,
    /// Standard input without a terminal.
    pub stdin: Stdin,
    /// Variables besides, or instead of, the image's own.
    pub environment: Vec<(OsString, OsString)>,
}

/// The archive to append to an image's initramfs (see [`append`]).
pub fn overlay(command: &[OsString], options: &Overlay) -> Result<Vec<u8>> {
    let program = command.first().ok_or(Error::Command("it is empty"))?;
    if program.is_empty() {
        return Err(Error::Command("the program's name is empty"));
    }
    let mut arguments = Vec::new();
    for argument in command {
        push_string(&mut arguments, argument.as_bytes())?;
    }
    let mut environment = Vec::new();
    for (name, value) in &options.environment {
        push_string(&mut environment, &variable(name, value)?)?;
    }
    let pointers = (command.len() + options.environment.len()) * size_of::<u64>();
    if arguments.len() + environment.len() + pointers > STRINGS_LIMIT {
        return Err(Error::Command("its arguments and environment take more than 2 MiB"));
    }
    let mut writer = Writer::new(Vec::new());
    let mut write = || {
        writer.directory("popf", 0o755)?;
        writer.file("popf/command", 0o644, &arguments)?;
        if !environment.is_empty() {
            writer.file("popf/environment", 0o644, &environment)?;
        }
        if options.tty {
            writer.file("popf/tty", 0o644, &[])?;
        } else {
            match &options.stdin {
                Stdin::Null => {}
                Stdin::Console => writer.symlink("popf/stdin", CONSOLE)?,
                Stdin::Bytes(bytes) => writer.file("popf/stdin", 0o644, bytes)?,
            }
        }
        Ok(())
    };
    write().map_err(Error::Archive)?;
    writer.finish().map_err(Error::Archive)
}

/// Appends a further archive where the kernel looks for it.
pub fn append(initrd: &mut Vec<u8>, archive: &[u8]) {
    // Zeros between archives are skipped, and one starts at a multiple of 4.
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend_from_slice(archive);
}

fn push_string(list: &mut Vec<u8>, string: &[u8]) -> Result<()> {
    if string.contains(&0) {
        return Err(Error::Command("an argument or variable contains a NUL byte"));
    }
    if string.len() >= STRING_LIMIT {
        return Err(Error::Command("an argument or variable has 128 KiB or more"));
    }
    list.extend_from_slice(string);
    list.push(0);
    Ok(())
}

fn variable(name: &OsStr, value: &OsStr) -> Result<Vec<u8>> {
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return Err(Error::Command("a variable's name is empty or contains '='"));
    }
    Ok([name.as_bytes(), b"=", value.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::newc::tests::read;
    use std::os::unix::ffi::OsStringExt;

    fn strings(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    fn files(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        read(archive).into_iter().map(|entry| (entry.name, entry.mode >> 12, entry.content)).collect()
    }

    #[test]
    fn a_command_keeps_every_byte() {
        let odd = OsString::from_vec(vec![b'a', 0xff, b'\n', b'\'', b' ']);
        let archive = overlay(&[OsString::from("echo"), odd, OsString::new()], &Overlay::default()).unwrap();
        let directory = ("popf".to_owned(), 4, Vec::new());
        let command = ("popf/command".to_owned(), 8, b"echo\0a\xff\n' \0\0".to_vec());
        assert_eq!(files(&archive), [directory, command]);
    }

    #[test]
    fn each_connection_has_its_file() {
        let with = |options: &Overlay| files(&overlay(&strings(&["cat"]), options).unwrap()).split_off(2);
        let console = Overlay { stdin: Stdin::Console, ..Overlay::default() };
        assert_eq!(with(&console), [("popf/stdin".to_owned(), 0o12, b"/dev/ttyS0".to_vec())]);
        let bytes = Overlay { stdin: Stdin::Bytes(b"in".to_vec()), ..Overlay::default() };
        assert_eq!(with(&bytes), [("popf/stdin".to_owned(), 8, b"in".to_vec())]);
        let tty = Overlay { tty: true, stdin: Stdin::Console, ..Overlay::default() };
        assert_eq!(with(&tty), [("popf/tty".to_owned(), 8, Vec::new())]);
        let environment = Overlay { environment: vec![("A-B".into(), "c=d".into())], ..Overlay::default() };
        assert_eq!(with(&environment), [("popf/environment".to_owned(), 8, b"A-B=c=d\0".to_vec())]);
    }

    #[test]
    fn what_cannot_be_passed_is_refused() {
        let refused = |command: &[OsString], environment: &[(&str, &str)]| {
            let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
            let options = Overlay { environment, ..Overlay::default() };
            assert!(matches!(overlay(command, &options), Err(Error::Command(_))));
        };
        refused(&[], &[]);
        refused(&strings(&[""]), &[]);
        refused(&[OsString::from_vec(b"a\0b".to_vec())], &[]);
        refused(&strings(&["a"]), &[("", "x")]);
        refused(&strings(&["a"]), &[("A=B", "x")]);
        refused(&strings(&["a", &"x".repeat(STRING_LIMIT)]), &[]);
        refused(&vec![OsString::from("x".repeat(STRING_LIMIT - 1)); 17], &[]);
    }

    #[test]
    fn appended_archives_are_aligned() {
        let archive = overlay(&strings(&["true"]), &Overlay::default()).unwrap();
        for length in 0..5 {
            let mut initrd = vec![0; length];
            append(&mut initrd, &archive);
            assert_eq!(initrd.len(), length.next_multiple_of(4) + archive.len());
            assert_eq!(read(&initrd).len(), 2);
        }
    }
}
