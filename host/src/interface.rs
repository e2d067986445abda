//! The host's network interfaces and bridges (netdevice(7), and the bridge's ioctls of `linux/sockios.h`).
//!
//! ioctls rather than netlink: each of these is one call, and of what only netlink can do nothing is needed.
//! Whatever changes something takes CAP_NET_ADMIN in the network namespace.
#![allow(unsafe_code)] // System calls.

use std::ffi::{CStr, CString};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::HostError;

// `linux/sockios.h`; the libc crate has them for Android only.
const SIOCBRADDBR: libc::c_ulong = 0x89a0;
const SIOCBRADDIF: libc::c_ulong = 0x89a2;

/// An interface that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    name: String,
}

impl Interface {
    /// The interface of that name, if there is one.
    pub fn find(name: &str) -> Option<Self> {
        index(name).map(|_| Self { name: name.into() })
    }

    /// Makes a bridge.
    pub fn create_bridge(name: &str) -> Result<Self, HostError> {
        let (c_name, socket) = (c_name(name)?, socket()?);
        // SAFETY: the call reads a string.
        let made = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCBRADDBR, c_name.as_ptr()) };
        check(made, "ioctl(SIOCBRADDBR)")?;
        Ok(Self { name: name.into() })
    }

    /// Joins `port` to this bridge; EOPNOTSUPP if it is none.
    pub fn add_port(&self, port: &str) -> Result<(), HostError> {
        let mut request = request(&self.name)?;
        let index = index(port).ok_or_else(|| HostError::last("if_nametoindex"))?;
        request.ifr_ifru.ifru_ifindex = index;
        self.call(SIOCBRADDIF, "ioctl(SIOCBRADDIF)", &mut request)
    }

    /// Turns it on or off.
    pub fn set_up(&self, up: bool) -> Result<(), HostError> {
        let mut request = request(&self.name)?;
        self.call(libc::SIOCGIFFLAGS, "ioctl(SIOCGIFFLAGS)", &mut request)?;
        let bit = libc::IFF_UP as libc::c_short;
        // SAFETY: the call has filled in the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let wanted = if up { flags | bit } else { flags & !bit };
        if flags == wanted {
            // Whoever may not turn it on can use one that is on.
            return Ok(());
        }
        request.ifr_ifru.ifru_flags = wanted;
        self.call(libc::SIOCSIFFLAGS, "ioctl(SIOCSIFFLAGS)", &mut request)
    }

    /// The longest packet that it takes.
    pub fn mtu(&self) -> Result<u16, HostError> {
        let mut request = request(&self.name)?;
        self.call(libc::SIOCGIFMTU, "ioctl(SIOCGIFMTU)", &mut request)?;
        // SAFETY: the call has filled it in.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Sets that.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), HostError> {
        let mut request = request(&self.name)?;
        request.ifr_ifru.ifru_mtu = mtu.into();
        self.call(libc::SIOCSIFMTU, "ioctl(SIOCSIFMTU)", &mut request)
    }

    /// Its first IPv4 address.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.ask_address(libc::SIOCGIFADDR, "ioctl(SIOCGIFADDR)")
    }

    /// Bits of that which are the network's.
    pub fn prefix(&self) -> Option<u8> {
        let mask = self.ask_address(libc::SIOCGIFNETMASK, "ioctl(SIOCGIFNETMASK)")?;
        // At most 32.
        Some(mask.to_bits().leading_ones() as u8)
    }

    fn ask_address(&self, number: libc::c_ulong, call: &'static str) -> Option<Ipv4Addr> {
        let mut request = request(&self.name).ok()?;
        self.call(number, call, &mut request).ok()?;
        // SAFETY: the call has filled in an IPv4 address, as the socket is of that family.
        let address = unsafe { request.ifr_ifru.ifru_addr };
        let [_, _, a, b, c, d, ..] = address.sa_data.map(|byte| byte as u8);
        Some(Ipv4Addr::new(a, b, c, d))
    }

    /// Gives it an IPv4 address in a network of `prefix` bits.
    pub fn set_address(&self, address: Ipv4Addr, prefix: u8) -> Result<(), HostError> {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        for (number, call, address) in [
            (libc::SIOCSIFADDR, "ioctl(SIOCSIFADDR)", address),
            (libc::SIOCSIFNETMASK, "ioctl(SIOCSIFNETMASK)", mask.into()),
        ] {
            let mut request = request(&self.name)?;
            let mut data = [0; 14];
            for (to, from) in data[2..].iter_mut().zip(address.octets()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_addr =
                libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data };
            self.call(number, call, &mut request)?;
        }
        Ok(())
    }

    fn call(
        &self,
        number: libc::c_ulong,
        call: &'static str,
        request: &mut libc::ifreq,
    ) -> Result<(), HostError> {
        let socket = socket()?;
        // SAFETY: these calls read and write one `ifreq`.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), number, request) }, call)
    }
}

/// A request about the interface `name`, the rest of it zero.
pub(crate) fn request(name: &str) -> Result<libc::ifreq, HostError> {
    let name = c_name(name)?;
    // SAFETY: plain data, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes_with_nul()) {
        *to = *from as libc::c_char;
    }
    Ok(request)
}

fn c_name(name: &str) -> Result<CString, HostError> {
    let bad = || HostError::Call { call: "interface name", source: std::io::ErrorKind::InvalidInput.into() };
    if name.len() >= libc::IFNAMSIZ {
        return Err(bad());
    }
    CString::new(name).map_err(|_| bad())
}

fn index(name: &str) -> Option<libc::c_int> {
    let name = c_name(name).ok()?;
    let name: &CStr = &name;
    // SAFETY: the call reads a string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    libc::c_int::try_from(index).ok().filter(|index| *index != 0)
}

/// Any socket reaches the interfaces.
fn socket() -> Result<OwnedFd, HostError> {
    // SAFETY: a plain call; the descriptor is new and ours alone.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(fd, "socket")?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn check(result: libc::c_int, call: &'static str) -> Result<(), HostError> {
    if result < 0 { Err(HostError::last(call)) } else { Ok(()) }
}
