//! The first process of popf's own guest images, `/init` of the initramfs.
//!
//! Built by the crate's build script for Linux x86-64 without a C library, so that a guest is up after few
//! instructions: this program forks once, where a shell script would start a dozen processes.
//!
//! Without `/popf/command` it runs a login shell on the first serial port and powers off when that ends. With
//! it, it runs just that (the NUL-terminated arguments), standard output on the first port and errors on the
//! second, both passing every byte as it is, and reports the exit status at the debug-exit port.
//! `crate::overlay` on the host writes those files and documents them.
//!
//! Not modelled: run levels, respawning, shutting services down in order; what is left is killed.

#![no_std]
#![no_main]

mod bare;
mod execute;
mod parse;
#[allow(dead_code, reason = "shared with other guests' programs")]
mod sys;

use core::ffi::CStr;
use execute::{NOT_EXECUTABLE, NOT_FOUND, execute};
use sys::{Line, Signals};

/// Where popf, and QEMU's `isa-debug-exit`, take an exit status.
const DEBUG_EXIT_PORT: u16 = 0xf4;

const DEFAULT_PATH: &CStr = c"PATH=/sbin:/usr/sbin:/bin:/usr/bin";
/// What `halt`, `poweroff` and `reboot` send to the first process, besides the children's signal.
const TAKEN: Signals = Signals::of(&[sys::SIGUSR1, sys::SIGUSR2, sys::SIGTERM, sys::SIGCHLD]);

/// The longest `popf.term` that is taken, with `TERM=` before it and a NUL after.
const TERM_SIZE: usize = 64;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The kernel panics when its first process ends: what the board then does is what it does for any guest.
    sys::exit(1)
}

/// How a run ends.
enum End {
    Exited(u8),
    PowerOff,
    Restart,
}

extern "C" fn main(_arguments: *const usize) -> ! {
    sys::reserve_standard_files();
    mount_all();
    if !sys::exists(c"/bin/sh") {
        install_links();
    }
    let mut buffer = [0; 4096];
    let command_line = sys::read_start(c"/proc/cmdline", &mut buffer);
    let mut term = [0; TERM_SIZE];
    let term = term_variable(command_line, &mut term);
    let command = sys::read_file(c"/popf/command");
    let tty = command.is_none() || sys::exists(c"/popf/tty");
    let (output, errors) = open_lines(tty, command_line);
    TAKEN.block();
    let child = sys::fork();
    if child == 0 {
        run(command.unwrap_or(b"-sh\0"), tty, output, errors, term);
    }
    let end = if child < 0 {
        End::Exited(NOT_EXECUTABLE as u8)
    } else {
        wait(child)
    };
    // What the command left behind may not write into the output's end.
    sys::kill_all();
    sys::drain(output);
    sys::drain(errors);
    match end {
        End::Exited(status) if command.is_some() => sys::port_write(DEBUG_EXIT_PORT, status),
        End::Restart => sys::reboot(sys::RESTART),
        End::Exited(_) | End::PowerOff => {}
    }
    // Also where there is no debug-exit port.
    sys::reboot(sys::POWER_OFF);
    sys::pause()
}

fn mount_all() {
    sys::mount(c"proc", c"/proc", c"");
    sys::mount(c"sysfs", c"/sys", c"");
    sys::mount(c"devtmpfs", c"/dev", c"");
    sys::mkdir(c"/dev/pts", 0o755);
    sys::mount(c"devpts", c"/dev/pts", c"gid=5,mode=620,ptmxmode=666");
    sys::mkdir(c"/dev/shm", 0o1777);
    sys::mount(c"tmpfs", c"/dev/shm", c"mode=1777");
    sys::mount(c"tmpfs", c"/tmp", c"mode=1777");
    sys::mount(c"tmpfs", c"/run", c"mode=755");
    sys::symlink(c"/proc/self/fd", c"/dev/fd");
    sys::symlink(c"fd/0", c"/dev/stdin");
    sys::symlink(c"fd/1", c"/dev/stdout");
    sys::symlink(c"fd/2", c"/dev/stderr");
    sys::set_host_name(b"popf");
    sys::loopback_up();
}

/// Makes the applets' links where the image was built without their list.
fn install_links() {
    let child = sys::fork();
    if child == 0 {
        let argv = [c"busybox", c"--install", c"-s"].map(sys::pointer);
        sys::exec(
            sys::pointer(c"/bin/busybox"),
            &[argv[0], argv[1], argv[2], sys::NULL],
            &[sys::NULL],
        );
        sys::exit(NOT_FOUND);
    }
    while sys::reap(true).is_some_and(|(pid, _)| pid != child) {}
}

/// `TERM=...` for the child, from `popf.term`.
fn term_variable<'a>(command_line: &[u8], buffer: &'a mut [u8; TERM_SIZE]) -> &'a CStr {
    const PREFIX: &[u8] = b"TERM=";
    const DEFAULT: &CStr = c"TERM=linux";
    let Some(term) = parse::parameter(command_line, b"popf.term") else {
        return DEFAULT;
    };
    let Some(into) = buffer.get_mut(PREFIX.len()..PREFIX.len() + term.len() + 1) else {
        return DEFAULT;
    };
    into[..term.len()].copy_from_slice(term);
    into[term.len()] = 0;
    buffer[..PREFIX.len()].copy_from_slice(PREFIX);
    CStr::from_bytes_until_nul(buffer).unwrap_or(DEFAULT)
}

/// The lines for standard output and errors.
fn open_lines(tty: bool, command_line: &[u8]) -> (i32, i32) {
    // Without a serial port the console is all there is, and without that nobody sees the output.
    let output = [c"/dev/ttyS0", c"/dev/console", c"/dev/null"]
        .into_iter()
        .find_map(sys::open_write)
        .unwrap_or(0);
    sys::set_line(output, if tty { Line::Cooked } else { Line::Raw });
    if tty {
        let dimension = |key| parse::parameter(command_line, key).and_then(parse::number);
        if let (Some(rows), Some(columns)) = (dimension(b"popf.rows"), dimension(b"popf.cols")) {
            sys::set_window(output, rows, columns);
        }
        return (output, output);
    }
    let errors = sys::open_write(c"/dev/ttyS1").unwrap_or(output);
    sys::set_line(errors, Line::Raw);
    (output, errors)
}

/// In the child: becomes the command.
fn run(command: &[u8], tty: bool, output: i32, errors: i32, term: &CStr) -> ! {
    TAKEN.unblock();
    let input = if tty {
        Some(output)
    } else {
        sys::open_read(c"/popf/stdin")
    };
    let input = input
        .or_else(|| sys::open_read(c"/dev/null"))
        .unwrap_or(output);
    sys::new_session(tty.then_some(output));
    for (fd, to) in [(input, 0), (output, 1), (errors, 2)] {
        sys::dup2(fd, to);
    }
    sys::chdir(c"/");
    let environment = sys::read_file(c"/popf/environment").unwrap_or(&[]);
    let defaults = [DEFAULT_PATH, c"HOME=/root", term];
    let status = execute(command, environment, &defaults).unwrap_or(NOT_EXECUTABLE);
    sys::write(2, b"popf: ");
    sys::write(
        2,
        parse::strings(command)
            .next()
            .unwrap_or_default()
            .to_bytes(),
    );
    sys::write(
        2,
        if status == NOT_FOUND {
            b": not found\n"
        } else {
            b": cannot be executed\n"
        },
    );
    sys::exit(status)
}

/// Reaps whatever ends, until `child` does or somebody asks for a shutdown.
fn wait(child: isize) -> End {
    loop {
        match TAKEN.wait() {
            sys::SIGCHLD => {
                while let Some((pid, status)) = sys::reap(false) {
                    if pid == child {
                        return End::Exited(parse::exit_status(status));
                    }
                }
            }
            sys::SIGTERM => return End::Restart,
            // A halted guest could only be killed from outside, so `halt` powers off as well.
            _ => return End::PowerOff,
        }
    }
}
