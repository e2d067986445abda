//! The user network, driven by a guest made of smoltcp against servers on the host's loopback.

mod guest;
mod hostile;
mod published;
mod services;
mod tcp;
mod udp;
