//! What host and agent say to each other. The agent's program includes this file (`control/images/guest/agent.rs`),
//! so it needs no standard library and no memory of its own.
//!
//! A connection runs one program. Both sides send frames, each a head and a payload:
//!
//! | byte | |
//! | --- | --- |
//! | 0 | kind |
//! | 1..4 | the payload's length, at most [`PAYLOAD_LIMIT`], little-endian |
//!
//! | kind | from | payload |
//! | --- | --- | --- |
//! | [`Kind::Exec`] | host | the [`Request`]; the first frame, and sent once |
//! | [`Kind::Input`] | host | bytes for standard input; none: its end |
//! | [`Kind::Resize`] | host | rows and columns of the terminal, 16 bits each |
//! | [`Kind::Signal`] | host | a signal's number, one byte, for the program's process group |
//! | [`Kind::Taken`] | guest | 32 bits: so many bytes of input have gone to the program, or to nobody |
//! | [`Kind::Output`] | guest | bytes of standard output, and of a terminal |
//! | [`Kind::Errors`] | guest | bytes of standard error |
//! | [`Kind::Exited`] | guest | the exit status, one byte; the last frame |
//! | [`Kind::Killed`] | guest | the number of the signal that ended the program, one byte; the last frame |
//! | [`Kind::Refused`] | guest | a [`Refusal`], one byte; the last frame |
//!
//! The host may have at most [`INPUT_WINDOW`] bytes of input on their way, that is, sent and not yet reported as
//! taken. So the agent can always read what comes next, a resize or a signal, though the program does not read.
//! Output needs no such thing: an agent whose frames are not taken stops reading from the program.
//!
//! The program's end ends the connection, whoever still holds its output. The connection's end is the program's: it
//! is sent SIGHUP, and a moment later SIGKILL.
//!
//! Who may connect is not part of this: the agent takes connections from the host alone (vsock context 2).

use core::ffi::CStr;

/// The vsock port at which the agent listens.
pub const PORT: u32 = 1024;
/// The first byte of a request, changed when the meaning of anything here does.
pub const VERSION: u8 = 1;
/// No frame has more behind its head.
pub const PAYLOAD_LIMIT: usize = 64 << 10;
/// Bytes of a frame before its payload.
pub const HEAD_SIZE: usize = 4;
/// Bytes of input that may be on their way.
pub const INPUT_WINDOW: usize = 64 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Start a program.
    Exec = 1,
    /// Standard input.
    Input = 2,
    /// The terminal's size.
    Resize = 3,
    /// A signal for the program.
    Signal = 4,
    /// Input has been taken.
    Taken = 16,
    /// Standard output.
    Output = 17,
    /// Standard error.
    Errors = 18,
    /// The program has ended by itself.
    Exited = 19,
    /// The program was ended by a signal.
    Killed = 20,
    /// There was no program.
    Refused = 21,
}

const KINDS: [Kind; 10] = [
    Kind::Exec,
    Kind::Input,
    Kind::Resize,
    Kind::Signal,
    Kind::Taken,
    Kind::Output,
    Kind::Errors,
    Kind::Exited,
    Kind::Killed,
    Kind::Refused,
];

/// A frame's head, for a payload within the limit.
pub const fn head(kind: Kind, length: usize) -> [u8; HEAD_SIZE] {
    let [low, middle, high, ..] = (length as u32).to_le_bytes();
    [kind as u8, low, middle, high]
}

/// Kind and payload length that a head announces; `None` if no such frame is sent.
pub fn parse_head(head: [u8; HEAD_SIZE]) -> Option<(Kind, usize)> {
    let [kind, low, middle, high] = head;
    let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
    let kind = KINDS.into_iter().find(|known| *known as u8 == kind)?;
    (length <= PAYLOAD_LIMIT).then_some((kind, length))
}

/// Why there was no program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The request is not one of this version.
    Request = 1,
    /// The working directory cannot be entered.
    Directory = 2,
    /// There is no such program.
    NotFound = 3,
    /// It cannot be executed.
    NotExecutable = 4,
    /// The guest has no more processes, terminals or memory.
    Resources = 5,
}

impl Refusal {
    /// By its number.
    pub fn of(number: u8) -> Option<Self> {
        [Self::Request, Self::Directory, Self::NotFound, Self::NotExecutable, Self::Resources]
            .into_iter()
            .find(|refusal| *refusal as u8 == number)
    }
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its height.
    pub rows: u16,
    /// Its width.
    pub columns: u16,
}

impl Size {
    /// As a frame has it.
    pub const fn to_bytes(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.rows.to_le_bytes(), self.columns.to_le_bytes());
        [a, b, c, d]
    }

    /// As a frame has it.
    pub const fn of(bytes: [u8; 4]) -> Self {
        let [a, b, c, d] = bytes;
        Self { rows: u16::from_le_bytes([a, b]), columns: u16::from_le_bytes([c, d]) }
    }
}

/// Bytes of a request before its strings: version, terminal or not, its size, the number of arguments.
pub const REQUEST_HEAD_SIZE: usize = 8;

/// What to run, as the payload of [`Kind::Exec`] has it: the head, then NUL-terminated strings, which are the
/// working directory (empty: the user's home), the arguments, and `NAME=value` for the environment.
///
/// Without arguments it is the user's login shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The size of the terminal that the program gets; without, it gets pipes.
    pub terminal: Option<Size>,
    /// Where it starts.
    pub directory: &'a CStr,
    /// The program and its arguments, each ended by NUL.
    pub arguments: &'a [u8],
    /// Variables, each ended by NUL.
    pub environment: &'a [u8],
}

impl<'a> Request<'a> {
    /// The head of a request.
    pub const fn head(terminal: Option<Size>, arguments: u16) -> [u8; REQUEST_HEAD_SIZE] {
        let [low, high] = arguments.to_le_bytes();
        match terminal {
            None => [VERSION, 0, 0, 0, 0, 0, low, high],
            Some(size) => {
                let [a, b, c, d] = size.to_bytes();
                [VERSION, 1, a, b, c, d, low, high]
            }
        }
    }

    /// Takes a payload apart; `None` if it is no request of this version.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let (head, strings) = payload.split_first_chunk::<REQUEST_HEAD_SIZE>()?;
        let [VERSION, terminal, a, b, c, d, low, high] = *head else {
            return None;
        };
        let terminal = match terminal {
            0 => None,
            1 => Some(Size::of([a, b, c, d])),
            _ => return None,
        };
        let directory = CStr::from_bytes_until_nul(strings).ok()?;
        let strings = &strings[directory.count_bytes() + 1..];
        if strings.last().is_some_and(|last| *last != 0) {
            return None;
        }
        let mut split = 0;
        for _ in 0..u16::from_le_bytes([low, high]) {
            split += strings[split..].iter().position(|byte| *byte == 0)? + 1;
        }
        let (arguments, environment) = strings.split_at(split);
        Some(Self { terminal, directory, arguments, environment })
    }
}
