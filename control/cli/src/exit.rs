//! What popf's exit status says. `popf --help` prints this table; nothing else decides a number.
//!
//! With a COMMAND the status is the command's, as `docker run` has it, so popf's own failures all are
//! [`Failure::COMMAND_MODE`] there and the message tells which it was. Without one, nothing of the guest's comes
//! through (but for `--debug-exit`, which asks for it), and each kind of failure has a number of its own, from
//! the range that `sysexits.h` uses.

/// The table as users see it.
pub const HELP: &str = "\
Exit status of `popf run IMAGE -- COMMAND`:
  the command's own (128+N if signal N ended it, 126 if it cannot be executed,
  127 if there is no such program), or
  125  popf or the guest's kernel failed; the message says how
  129, 130, 131, 143  popf was ended by SIGHUP, SIGINT, SIGQUIT, SIGTERM
  141  nobody reads popf's output any more
  159  the sandbox stopped popf (SIGSYS); the message says at what

Exit status of everything else:
  0    done; the guest powered itself off
  N    with --debug-exit: the byte the guest wrote to port 0xf4
  2    wrong usage
  65   a file is no kernel, is damaged, or does not fit the guest
  66   a file or image does not exist or cannot be read
  69   an image cannot be built (no apt, no network, a damaged package), or the guest's
       agent does not answer
  70   the engine cannot go on, or a bug in popf
  71   the host refused something (memory, a thread, the terminal)
  75   a VM of that name runs, or another one has the disk
  80   the guest's processor shut down after a triple fault
  81   the guest halted its last processor for good
  82   quit by the escape key (Ctrl-] q)
  83   the guest did not shut down when it was asked to; a program of `popf theory`
       has not halted
  129, 130, 131, 143  ended by SIGHUP, SIGINT, SIGQUIT, SIGTERM
  137  ended by `popf kill`
  141  nobody reads popf's output any more
  159  the sandbox stopped popf (SIGSYS); the message says at what

With --detach, popf's status says whether the VM runs; how it ended says `popf ps -a`.";

/// `popf kill`: what a process gets that is ended without being asked.
pub const KILLED: u8 = 137;

/// A failure's number outside of COMMAND mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failure {
    /// The arguments make no sense together.
    Usage = 2,
    /// A kernel or initial RAM disk that cannot be used.
    Data = 65,
    /// No such file or image.
    NoInput = 66,
    /// An image cannot be made here, or a guest does not answer.
    Unavailable = 69,
    /// The engine, or popf itself.
    Software = 70,
    /// The host refused something.
    Host = 71,
    /// A name or a disk is in use.
    Busy = 75,
    /// Triple fault.
    TripleFault = 80,
    /// Halted with interrupts off.
    Dead = 81,
    /// The escape key.
    Quit = 82,
    /// A guest that goes on.
    GoesOn = 83,
}

impl Failure {
    /// Every failure of popf's own in COMMAND mode.
    pub const COMMAND_MODE: u8 = 125;

    /// The number to exit with.
    pub fn status(self, command_mode: bool) -> u8 {
        if command_mode { Self::COMMAND_MODE } else { self as u8 }
    }
}

/// The shell's number for a death by signal.
pub fn signal_status(signal: i32) -> u8 {
    128_u8.wrapping_add(signal as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_number_once() {
        let (_, table) = HELP.split_once("everything else").unwrap();
        for failure in [
            Failure::Usage,
            Failure::Data,
            Failure::NoInput,
            Failure::Unavailable,
            Failure::Software,
            Failure::Host,
            Failure::Busy,
            Failure::TripleFault,
            Failure::Dead,
            Failure::Quit,
            Failure::GoesOn,
        ] {
            let row = format!("\n  {:<5}", failure as u8);
            assert_eq!(table.matches(&row).count(), 1, "{failure:?}");
            assert_eq!(failure.status(true), 125);
        }
        assert_eq!([1, 2, 3, 9, 13, 15].map(signal_status), [129, 130, 131, KILLED, 141, 143]);
    }
}
