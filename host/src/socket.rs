//! What the standard library's sockets cannot do: connect without waiting, ping without privileges, end with a
//! reset.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::seqpacket;

/// Begins to connect. The stream does not block; it becomes writable when it is connected or has failed, which
/// [`TcpStream::take_error`] tells.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = open(domain(address.ip()), libc::SOCK_STREAM, 0)?;
    let (raw, length) = raw_address(address);
    // SAFETY: the address is ours and as long as said.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const raw).cast(), length) };
    if result != 0 {
        let error = io::Error::last_os_error();
        // An interrupted attempt goes on by itself, too.
        if !matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR)) {
            return Err(error);
        }
    }
    Ok(socket.into())
}

/// Connects to whoever listens at `path`, without waiting for room in the listener's queue: if that is full, the
/// error is [`io::ErrorKind::WouldBlock`]. The stream does not block.
pub fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let socket = open(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let (raw, length) = seqpacket::address(path).map_err(io::Error::other)?;
    // SAFETY: the address is ours and as long as said.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const raw).cast(), length) };
    if result == 0 { Ok(socket.into()) } else { Err(io::Error::last_os_error()) }
}

/// Listens at `path`, where only this user may connect, from the first moment on: the socket has its rights before it
/// has its name. It does not block.
pub fn listen_privately(path: &Path) -> io::Result<UnixListener> {
    const WAITING: libc::c_int = 8;
    let socket = open(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let (raw, length) = seqpacket::address(path).map_err(io::Error::other)?;
    let fd = socket.as_raw_fd();
    // SAFETY: plain calls; the address is ours and as long as said.
    let done = unsafe {
        libc::fchmod(fd, 0o600) == 0
            && libc::bind(fd, (&raw const raw).cast(), length) == 0
            && libc::listen(fd, WAITING) == 0
    };
    if done { Ok(socket.into()) } else { Err(io::Error::last_os_error()) }
}

/// A socket that sends and receives ICMP echo messages and nothing else, from the message's type on (icmp(7),
/// `net.ipv4.ping_group_range`). The kernel puts in the identifier and the checksum. It does not block.
pub fn ping(family_of: IpAddr) -> io::Result<UdpSocket> {
    let protocol = match family_of {
        IpAddr::V4(_) => libc::IPPROTO_ICMP,
        IpAddr::V6(_) => libc::IPPROTO_ICMPV6,
    };
    open(domain(family_of), libc::SOCK_DGRAM, protocol).map(UdpSocket::from)
}

/// Has the socket's close send a reset and forget what is unsent (`SO_LINGER` of zero).
pub fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the value is ours and as long as said; the descriptor is borrowed for longer than the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn open(domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: a plain call.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn domain(address: IpAddr) -> libc::c_int {
    match address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    }
}

/// The address as the kernel has it, and its length.
fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: zeroes are a value of it.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let place = &raw mut storage;
    let length = match address {
        SocketAddr::V4(address) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_storage has room for each kind, aligned.
            unsafe { place.cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            // SAFETY: as above.
            unsafe { place.cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Wait, poll};
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;

    fn finish(stream: &TcpStream) -> Option<io::Error> {
        poll(&mut [Wait::writable(stream)], None).unwrap();
        stream.take_error().unwrap()
    }

    #[test]
    fn connecting_does_not_wait_and_tells_how_it_went() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let address = listener.local_addr().unwrap();
            let mut stream = connect(address).unwrap();
            assert!(finish(&stream).is_none());
            let (mut peer, from) = listener.accept().unwrap();
            assert_eq!(stream.local_addr().unwrap(), from);
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            peer.write_all(b"x").unwrap();
            poll(&mut [Wait::readable(&stream)], None).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 1);
            drop(listener);
            // Loopback may answer at once or later; either way it is a refusal.
            let error = match connect(address) {
                Ok(stream) => finish(&stream).expect("nobody listens"),
                Err(error) => error,
            };
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn connecting_to_a_path_does_not_wait() {
        let path = std::env::temp_dir().join(format!("popf-connect-{}", std::process::id()));
        assert_eq!(connect_unix(&path).unwrap_err().kind(), ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).unwrap();
        let mut stream = connect_unix(&path).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"x").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 1);
        // Nobody accepts, and the queue is short.
        // SAFETY: a plain call.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
        let waiting: Result<Vec<_>, _> = (0..100).map(|_| connect_unix(&path)).collect();
        assert_eq!(waiting.unwrap_err().kind(), ErrorKind::WouldBlock);
        std::fs::remove_file(&path).unwrap();
        assert!(connect_unix(Path::new(&"long/".repeat(100))).is_err());
    }

    #[test]
    fn a_private_socket_is_the_users_alone() {
        let path = std::env::temp_dir().join(format!("popf-private-{}", std::process::id()));
        let listener = listen_privately(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listen_privately(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"x").unwrap();
        listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_reset_is_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        reset_on_close(&stream).unwrap();
        drop(stream);
        assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
