//! Why there is no network.

use std::io;
use std::net::SocketAddr;

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
    /// A published port cannot be had.
    #[error("cannot listen on {address} for the guest")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The host refuses its help.
    #[error("the network cannot be set up")]
    Host(#[from] host::HostError),
    /// The same, where the standard library asked.
    #[error("the network cannot be set up")]
    Socket(#[source] io::Error),
    /// No thread.
    #[error("no thread for the network")]
    Thread(#[source] io::Error),
}
