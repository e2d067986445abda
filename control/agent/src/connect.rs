//! Reaching the agent: a Unix socket on the host that leads to the guest's vsock ports, as Firecracker has it.
//!
//! The client says `CONNECT PORT` and a newline; `OK` and another number come back when the guest has taken the
//! connection, and from then on it is the guest's. A connection that nobody takes is closed.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::protocol::PORT;

/// `OK`, a space, a number of 32 bits, a newline.
const ANSWER_LIMIT: usize = 14;
/// Between two attempts.
const INTERVAL: Duration = Duration::from_millis(100);

/// Connects to the agent of the VM with this vsock socket. Tries until `deadline`, as a guest that boots has no agent
/// yet.
pub fn connect(socket: &Path, deadline: Instant) -> Result<UnixStream> {
    loop {
        let attempted = attempt(socket, deadline);
        let left = deadline.saturating_duration_since(Instant::now());
        match attempted {
            Err(Error::NoAnswer) if !left.is_zero() => thread::sleep(INTERVAL.min(left)),
            other => return other,
        }
    }
}

fn attempt(socket: &Path, deadline: Instant) -> Result<UnixStream> {
    let mut stream =
        UnixStream::connect(socket).map_err(|source| Error::Connect { path: socket.to_owned(), source })?;
    if writeln!(stream, "CONNECT {PORT}").is_err() {
        return Err(Error::NoAnswer);
    }
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        if answer.len() == ANSWER_LIMIT {
            return Err(Error::Protocol("its answer to CONNECT is too long"));
        }
        let mut byte = [0];
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        // Nothing behind the newline may be taken, as it is the guest's.
        match stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut byte)) {
            Ok(1..) => answer.extend(byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return Err(Error::NoAnswer),
        }
    }
    if !answer.starts_with(b"OK ") {
        return Err(Error::Protocol("its answer to CONNECT is not OK"));
    }
    stream.set_read_timeout(None).map_err(Error::Lost)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Answers one connection after the other with the next of these, and closes it unless the answer is OK.
    fn host(answers: &'static [&'static [u8]]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let mut kept = Vec::new();
            for answer in answers {
                let mut stream = listener.accept().unwrap().0;
                let mut request = [0; 13];
                stream.read_exact(&mut request).unwrap();
                assert_eq!(&request, b"CONNECT 1024\n");
                stream.write_all(answer).unwrap();
                if answer.starts_with(b"OK") {
                    kept.push(stream);
                }
            }
        });
        (directory, path)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn what_follows_the_answer_is_the_guests() {
        let (_directory, path) = host(&[b"OK 1073741824\nguest"]);
        let mut text = [0; 5];
        connect(&path, soon()).unwrap().read_exact(&mut text).unwrap();
        assert_eq!(&text, b"guest");
    }

    #[test]
    fn a_guest_without_an_agent_is_asked_again() {
        let (_directory, path) = host(&[b"", b"", b"OK 5\n"]);
        connect(&path, soon()).unwrap();
        let (_directory, path) = host(&[b""]);
        let error = connect(&path, Instant::now()).unwrap_err();
        assert!(matches!(error, Error::NoAnswer), "{error:?}");
    }

    #[test]
    fn a_strange_answer_is_not_believed() {
        for answer in [b"NO 1024\n".as_slice(), b"OK 12345678901\n"] {
            let (_directory, path) = host(Box::leak(Box::new([answer])));
            let error = connect(&path, soon()).unwrap_err();
            assert!(matches!(error, Error::Protocol(_)), "{error:?}");
        }
    }

    #[test]
    fn a_vm_that_is_not_there_is_told_at_once() {
        let error = connect(Path::new("/nonexistent/vsock.sock"), soon()).unwrap_err();
        assert!(matches!(&error, Error::Connect { .. }), "{error:?}");
    }
}
