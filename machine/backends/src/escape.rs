//! The escape key: the one key of a raw terminal that the guest does not get.

/// Ctrl-], as telnet has it.
const ESCAPE: u8 = 0x1d;

/// What to tell a user who asks.
pub const HELP: &str = "\r\n[popf: Ctrl-] q quits, Ctrl-] Ctrl-] sends one Ctrl-], Ctrl-] ? shows this]\r\n";

/// What the user wants of popf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// To let go of the guest.
    Quit,
    /// To be told of the escape key.
    Help,
}

/// Sifts what is typed; remembers an escape key whose second key is still to come.
#[derive(Debug, Default)]
pub struct Escape {
    pending: bool,
}

impl Escape {
    /// Appends the guest's part of `typed` to `guest` and calls `command` for the rest. An unknown key after the
    /// escape key is as good as a question.
    pub fn sift(&mut self, typed: &[u8], guest: &mut impl Extend<u8>, mut command: impl FnMut(Command)) {
        for &byte in typed {
            match (std::mem::take(&mut self.pending), byte) {
                (false, ESCAPE) => self.pending = true,
                (false, _) | (true, ESCAPE) => guest.extend([byte]),
                (true, b'q' | b'Q') => command(Command::Quit),
                (true, _) => command(Command::Help),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of input given in pieces.
    fn sift(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Command>) {
        let (mut escape, mut guest, mut commands) = (Escape::default(), Vec::new(), Vec::new());
        for piece in pieces {
            escape.sift(piece, &mut guest, |command| commands.push(command));
        }
        (guest, commands)
    }

    #[test]
    fn other_bytes_pass_as_they_are() {
        let all: Vec<u8> = (0..=255).filter(|&byte| byte != ESCAPE).collect();
        assert_eq!(sift(&[&all]), (all.clone(), vec![]));
    }

    #[test]
    fn escape_sequences_are_taken_out_wherever_they_are_cut() {
        let typed = b"ab\x1dqc\x1d\x1dd\x1d?e\x1dzf";
        let expected = (b"abc\x1ddef".to_vec(), vec![Command::Quit, Command::Help, Command::Help]);
        for cut in 0..=typed.len() {
            let (left, right) = typed.split_at(cut);
            assert_eq!(sift(&[left, right]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_escape_at_the_end_waits() {
        assert_eq!(sift(&[b"a\x1d"]), (b"a".to_vec(), vec![]));
    }
}
