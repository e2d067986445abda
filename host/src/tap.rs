//! Tap interfaces: network interfaces whose other end is a descriptor (the kernel's
//! Documentation/networking/tuntap.rst; the ioctls are those of `linux/if_tun.h`).
//!
//! Every frame has a virtio network header of [`HEADER_LENGTH`] bytes in front, in both directions, so that
//! checksums left to do and segments left to cut cross without either side touching the frame. An interface with
//! several queues is several descriptors of one name.
#![allow(unsafe_code)] // System calls.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::HostError;
use crate::interface::request;

/// `struct virtio_net_hdr_mrg_rxbuf`, little-endian as Virtio 1 has it.
pub const HEADER_LENGTH: usize = 12;

/// What may be left to do in frames that the kernel hands over: the `TUN_F_*` bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// A checksum.
    pub checksum: bool,
    /// Cutting TCP over IPv4, IPv6 into segments.
    pub tcp4: bool,
    #[allow(missing_docs)]
    pub tcp6: bool,
    /// The same for segments with ECN.
    pub ecn: bool,
    /// Cutting UDP over IP into datagrams (USO), which Linux knows since 6.2.
    pub udp: bool,
}

/// One queue of a tap interface. Reads and writes do not block.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Opens one queue of the interface `name`, or makes an interface that lives as long as its descriptors; a
    /// `%d` in the name becomes a number. Making one takes CAP_NET_ADMIN, and so does opening one that was not
    /// made for this user.
    pub fn open(name: &str, multi_queue: bool) -> Result<Self, HostError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(|source| HostError::Call { call: "open(/dev/net/tun)", source })?;
        let mut request = request(name)?;
        let several = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
        // The flags are a C short of which all bits are used.
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the call reads and writes the struct, which is ours.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) } < 0 {
            return Err(HostError::last("ioctl(TUNSETIFF)"));
        }
        let length = HEADER_LENGTH as libc::c_int;
        // SAFETY: the call reads an int.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &length) } < 0 {
            return Err(HostError::last("ioctl(TUNSETVNETHDRSZ)"));
        }
        let bytes = request.ifr_name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        let name = String::from_utf8(bytes).unwrap_or_else(|_| name.into());
        Ok(Self { file, name })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says what the reader of this interface takes unfinished; nothing at first. What a kernel does not know
    /// is an error (EINVAL) that changes nothing.
    pub fn set_offloads(&self, offloads: Offloads) -> Result<(), HostError> {
        let Offloads { checksum, tcp4, tcp6, ecn, udp } = offloads;
        let bits = [
            (checksum, libc::TUN_F_CSUM),
            (tcp4, libc::TUN_F_TSO4),
            (tcp6, libc::TUN_F_TSO6),
            (ecn, libc::TUN_F_TSO_ECN),
            (udp, libc::TUN_F_USO4 | libc::TUN_F_USO6),
        ];
        let bits = bits.iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, bit)| all | bit);
        // SAFETY: the argument is a number.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) } {
            0.. => Ok(()),
            _ => Err(HostError::last("ioctl(TUNSETOFFLOAD)")),
        }
    }

    /// Takes the next frame; what the buffers do not hold of it is lost.
    pub fn receive(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&self.file).read_vectored(buffers)
    }

    /// Gives one frame to the kernel, whole or not at all.
    pub fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(parts)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
