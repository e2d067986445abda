//! What the guest's first process reads: the kernel command line and NUL-separated lists.
//!
//! Pure functions, without allocation, so that the host's tests can call them.

use core::ffi::CStr;

/// The value of `key=value` on a kernel command line, the last where there are several.
pub fn parameter<'a>(command_line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    command_line
        .split(|byte| byte.is_ascii_whitespace())
        .filter_map(|word| word.strip_prefix(key)?.strip_prefix(b"="))
        .next_back()
}

/// A decimal number that fits 16 bits.
pub fn number(text: &[u8]) -> Option<u16> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u16, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u16::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// The strings of a list in which each is followed by a NUL; what follows the last NUL is no string.
pub fn strings(list: &[u8]) -> impl Iterator<Item = &CStr> + Clone {
    list.split_inclusive(|byte| *byte == 0).filter_map(|string| CStr::from_bytes_with_nul(string).ok())
}

/// The name in a `NAME=value` string of an environment.
pub fn name(variable: &[u8]) -> &[u8] {
    variable.split(|byte| *byte == b'=').next().unwrap_or(variable)
}

/// The exit status as a shell reports it, of a process that ended as `wait4` says.
pub fn exit_status(wait_status: i32) -> u8 {
    match wait_status & 0x7f {
        0 => (wait_status >> 8) as u8,
        signal => 128 + signal as u8,
    }
}
