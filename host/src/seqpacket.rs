//! Unix sockets that keep packets apart and in order (SOCK_SEQPACKET, unix(7)), which the standard library does
//! not have. Nothing here blocks.
#![allow(unsafe_code)] // System calls.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::HostError;

/// A place where others connect to.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    file: File,
}

impl Listener {
    /// Makes a socket at `path`, at which nothing may be, and listens.
    pub fn bind(path: &Path) -> Result<Self, HostError> {
        let fd = socket()?;
        let (address, length) = address(path)?;
        // SAFETY: the address is ours and as long as said.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        check(bound, "bind")?;
        // SAFETY: a plain call.
        check(unsafe { libc::listen(fd.as_raw_fd(), libc::SOMAXCONN) }, "listen")?;
        Ok(Self { fd })
    }

    /// The next connection; `None` if there is none now.
    pub fn accept(&self) -> Result<Option<Connection>, HostError> {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a plain call that is asked for no address.
        let fd =
            unsafe { libc::accept4(self.fd.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
        if fd >= 0 {
            // SAFETY: the descriptor is new and ours alone.
            return Ok(Some(Connection { file: unsafe { File::from_raw_fd(fd) } }));
        }
        let error = HostError::last("accept4");
        match error.os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ECONNABORTED) => Ok(None),
            _ => Err(error),
        }
    }
}

impl Connection {
    /// Connects to whoever listens at `path`; it has not accepted yet when this returns.
    pub fn connect(path: &Path) -> Result<Self, HostError> {
        let fd = socket()?;
        let (address, length) = address(path)?;
        // SAFETY: the address is ours and as long as said.
        let connected = unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length) };
        check(connected, "connect")?;
        Ok(Self { file: fd.into() })
    }

    /// Two ends of one connection.
    pub fn pair() -> Result<(Self, Self), HostError> {
        let mut fds = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: the call fills two ints; the descriptors are new and ours alone.
        unsafe {
            check(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()), "socketpair")?;
            Ok(fds.map(|fd| Self { file: File::from_raw_fd(fd) }).into())
        }
    }

    /// Asks for room for so many bytes on their way to the other end; the kernel may give less.
    pub fn set_send_room(&self, bytes: usize) -> Result<(), HostError> {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        let value = (&raw const bytes).cast();
        // SAFETY: the call reads an int.
        check(
            unsafe {
                libc::setsockopt(self.file.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, value, length)
            },
            "setsockopt(SO_SNDBUF)",
        )
    }

    /// Whether the process at the other end is one of this user's.
    pub fn is_own_user(&self) -> Result<bool, HostError> {
        let mut peer = MaybeUninit::<libc::ucred>::uninit();
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: the call fills the struct if it succeeds.
        unsafe {
            let value = peer.as_mut_ptr().cast();
            check(
                libc::getsockopt(
                    self.file.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_PEERCRED,
                    value,
                    &mut length,
                ),
                "getsockopt(SO_PEERCRED)",
            )?;
            Ok(peer.assume_init().uid == libc::geteuid())
        }
    }

    /// Sends one packet, whole or, with [`io::ErrorKind::WouldBlock`], not at all. A peer that has gone is an
    /// error and no signal.
    pub fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        // SAFETY: plain data, for which zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // `IoSlice` is laid out as an iovec, and the call does not write through it.
        message.msg_iov = parts.as_ptr().cast_mut().cast();
        message.msg_iovlen = parts.len();
        // SAFETY: the message and what it points to live longer than the call.
        match unsafe { libc::sendmsg(self.file.as_raw_fd(), &message, libc::MSG_NOSIGNAL) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Takes the next packet; what the buffers do not hold of it is lost. 0 is the end.
    pub fn receive(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&self.file).read_vectored(buffers)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn socket() -> Result<OwnedFd, HostError> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a plain call; the descriptor is new and ours alone.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, kind, 0);
        check(fd, "socket")?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A Unix socket's address as the kernel has it, and its length.
pub(crate) fn address(path: &Path) -> Result<(libc::sockaddr_un, libc::socklen_t), HostError> {
    // SAFETY: plain data, for which zero is a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        let source = io::Error::from_raw_os_error(libc::ENAMETOOLONG);
        return Err(HostError::Call { call: "socket address", source });
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

fn check(result: libc::c_int, call: &'static str) -> Result<(), HostError> {
    if result < 0 { Err(HostError::last(call)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Wait, poll};

    #[test]
    fn packets_stay_apart_and_a_full_socket_takes_none() {
        let (a, b) = Connection::pair().unwrap();
        assert!(a.is_own_user().unwrap());
        a.set_send_room(64 << 10).unwrap();
        a.send(&[IoSlice::new(b"he"), IoSlice::new(b"llo")]).unwrap();
        a.send(&[IoSlice::new(b"again")]).unwrap();
        let (mut front, mut back) = ([0; 2], [0; 8]);
        let got = b.receive(&mut [IoSliceMut::new(&mut front), IoSliceMut::new(&mut back)]);
        assert_eq!((got.unwrap(), &front, &back[..3]), (5, b"he", b"llo".as_slice()));
        assert_eq!(b.receive(&mut [IoSliceMut::new(&mut back)]).unwrap(), 5);
        let refused = b.receive(&mut [IoSliceMut::new(&mut back)]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);

        let large = [7; 16 << 10];
        let sent = (0..1000).take_while(|_| a.send(&[IoSlice::new(&large)]).is_ok()).count();
        assert!((1..1000).contains(&sent), "{sent} packets of 16 KiB in room for 64");
        assert!(!poll(&mut [Wait::writable(&a)], Some(std::time::Duration::ZERO)).unwrap());
        let mut buffer = vec![0; large.len()];
        for _ in 0..sent {
            assert_eq!(b.receive(&mut [IoSliceMut::new(&mut buffer)]).unwrap(), large.len());
        }
        assert!(poll(&mut [Wait::writable(&a)], None).unwrap());
        drop(b);
        assert_eq!(a.send(&[IoSlice::new(b"x")]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_listener_can_be_renamed_and_reached() {
        let folder = std::env::temp_dir().join(format!("popf-seqpacket-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (first, second) = (folder.join("first"), folder.join("second"));
        let listener = Listener::bind(&first).unwrap();
        assert!(listener.accept().unwrap().is_none());
        std::fs::rename(&first, &second).unwrap();
        assert_eq!(Connection::connect(&first).unwrap_err().os_error(), Some(libc::ENOENT));
        let near = Connection::connect(&second).unwrap();
        let far = listener.accept().unwrap().unwrap();
        near.send(&[IoSlice::new(b"!")]).unwrap();
        drop(near);
        let mut buffer = [0; 4];
        assert_eq!(far.receive(&mut [IoSliceMut::new(&mut buffer)]).unwrap(), 1);
        assert_eq!(far.receive(&mut [IoSliceMut::new(&mut buffer)]).unwrap(), 0);
        drop(listener);
        assert_eq!(Connection::connect(&second).unwrap_err().os_error(), Some(libc::ECONNREFUSED));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
