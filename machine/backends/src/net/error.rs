//! Why there is no network.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// A network could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The text is no Ethernet address.
    #[error("{0:?} is no address of a network card; expected one such as 52:54:00:12:34:56")]
    Mac(String),
    /// A published port is taken.
    #[error(
        "port {port} of {ip} is in use: end the program that has it (`ss -lnp 'sport = {port}'` names it) or publish \
         another port",
        port = .0.port(),
        ip = .0.ip()
    )]
    PortInUse(SocketAddr),
    /// A published port is for privileged programs.
    #[error(
        "port {port} may not be had without privileges: publish one from 1024 on, such as {other}, or lower \
         net.ipv4.ip_unprivileged_port_start",
        port = .0.port(),
        other = 8000 + u32::from(.0.port())
    )]
    PortReserved(SocketAddr),
    /// A port is to be published on an address that is another host's.
    #[error("{0} is no address of this host: publish the port on 127.0.0.1, or on 0.0.0.0 for everybody")]
    NoSuchAddress(IpAddr),
    /// A published port cannot be had.
    #[error("cannot listen on {address} for the guest")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The host has no tap interfaces.
    #[error("this host has no tap interfaces: load the kernel's module with `sudo modprobe tun`")]
    NoTun(#[source] host::HostError),
    /// An interface cannot be made or taken.
    #[error(
        "the tap interface {name} is not this user's and may not be made: make it with `sudo ip tuntap add {name} mode \
         tap user $USER && sudo ip link set {name} up`, or run popf with CAP_NET_ADMIN"
    )]
    TapPrivilege {
        /// Its name.
        name: String,
    },
    /// Something else has it.
    #[error("the tap interface {name} is in use: end the program that has it, or name another")]
    TapBusy {
        /// Its name.
        name: String,
    },
    /// It is of another kind.
    #[error("{name} is no tap interface: `ip tuntap show` lists those there are")]
    NoTap {
        /// Its name.
        name: String,
        /// What the host says.
        source: host::HostError,
    },
    /// An interface that is turned off may not be turned on.
    #[error("the interface {name} is turned off: turn it on with `sudo ip link set {name} up`")]
    TapDown {
        /// Its name.
        name: String,
    },
    /// Nothing to join.
    #[error(
        "there is no bridge {name}: make it with `sudo ip link add {name} type bridge && sudo ip link set {name} up`"
    )]
    NoBridge {
        /// Its name.
        name: String,
    },
    /// A bridge may not be joined.
    #[error(
        "joining the bridge {name} takes CAP_NET_ADMIN: run popf with it, or have a tap interface joined once (`sudo ip \
         tuntap add tap0 mode tap user $USER && sudo ip link set tap0 master {name} up`) and use tap:tap0"
    )]
    BridgePrivilege {
        /// Its name.
        name: String,
    },
    /// A host-only network may not be made.
    #[error(
        "a host-only network takes CAP_NET_ADMIN: run popf with it; without, switch:NAME joins VMs, and a published \
         port of the user network lets the host reach a guest"
    )]
    HostOnlyPrivilege,
    /// The folder of a switch cannot be used.
    #[error("cannot use {path} to find the VMs on the switch", path = path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder of a switch is not private.
    #[error("{path} belongs to others, or others may write to it: remove it", path = path.display())]
    Strangers {
        /// Where.
        path: PathBuf,
    },
    /// No room on a switch.
    #[error("there are {limit} VMs on the switch already: use another")]
    Full {
        /// How many it joins.
        limit: usize,
    },
    /// The host refuses its help.
    #[error("the network cannot be set up")]
    Host(#[from] host::HostError),
    /// No thread.
    #[error("no thread for the network")]
    Thread(#[source] io::Error),
}
