//! What a check found: nothing wrong, or one sentence, without an allocator.

use core::fmt::{self, Write};

use crate::sys;

/// The longest sentence kept.
const LENGTH: usize = 400;

/// How a check ends.
pub type Outcome = Result<(), Failure>;

/// Whether the check was impossible here instead of failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    Yes,
    No,
}

/// What is wrong, or why it cannot be told.
pub struct Failure {
    pub skip: Skip,
    text: Text,
}

impl Failure {
    pub fn new(skip: Skip, what: fmt::Arguments<'_>) -> Self {
        let mut text = Text { bytes: [0; LENGTH], length: 0 };
        let _ = text.write_fmt(what);
        Self { skip, text }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.text.bytes[..self.text.length]).unwrap_or("?"))
    }
}

struct Text {
    bytes: [u8; LENGTH],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().take(LENGTH - self.length) {
            // Cut in the middle of a character, the text would not be UTF-8 any more.
            self.bytes[self.length] = if byte.is_ascii() { byte } else { b'?' };
            self.length += 1;
        }
        Ok(())
    }
}

/// Writes a line to standard output, in one call, so that lines of processes do not mix.
pub fn line(what: fmt::Arguments<'_>) {
    let mut text = Text { bytes: [0; LENGTH], length: 0 };
    let _ = text.write_fmt(what);
    text.length = text.length.min(LENGTH - 1);
    let _ = text.write_str("\n");
    sys::write(1, &text.bytes[..text.length]);
}

/// Fails with a sentence unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err($crate::report::Failure::new($crate::report::Skip::No, format_args!($($what)+)));
        }
    };
}

/// Fails unless both are equal, showing them in hexadecimal.
macro_rules! same {
    ($found:expr, $expected:expr, $($what:tt)+) => {{
        let (found, expected) = ($found, $expected);
        if found != expected {
            return Err($crate::report::Failure::new(
                $crate::report::Skip::No,
                format_args!("{}: {found:#x}, not {expected:#x}", format_args!($($what)+)),
            ));
        }
    }};
}

/// Ends the check as impossible here.
macro_rules! skip {
    ($($what:tt)+) => {
        return Err($crate::report::Failure::new($crate::report::Skip::Yes, format_args!($($what)+)))
    };
}
