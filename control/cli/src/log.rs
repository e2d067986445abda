//! `POPF_LOG`: what popf's parts have to say about themselves, on standard error.

use std::io::{self, Write};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Starts logging at the level `POPF_LOG` names (error, warn, info, debug, trace); warnings without it.
pub fn start() {
    let level = std::env::var("POPF_LOG").ok().and_then(|level| level.parse().ok());
    // A second subscriber cannot be there yet; if it were, it would do.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(LevelFilter::WARN))
        .with_writer(Stderr)
        .without_time()
        .with_target(false)
        .try_init();
}

/// Standard error, readable while the terminal is in raw mode.
struct Stderr;

impl MakeWriter<'_> for Stderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        if !host::terminal::any_raw() {
            return stderr.write(bytes);
        }
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(text) => {
                    stderr.write_all(text)?;
                    stderr.write_all(b"\r\n")?;
                }
                None => stderr.write_all(line)?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
