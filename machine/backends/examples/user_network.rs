//! Puts a network namespace of the host's on a user network, instead of a guest: real TCP/IP to hold it against, and
//! to measure it with.
//!
//! ```sh
//! ip netns add guest
//! cargo run --release -p backends --example user_network -- nat0 127.0.0.1:5202:5202 &
//! ip link set nat0 netns guest
//! ip netns exec guest sh -c 'ip link set nat0 up; ip address add 10.0.2.15/24 dev nat0; ip route add default via 10.0.2.2'
//! iperf3 -s -D && ip netns exec guest iperf3 -c 10.0.2.2
//! ```

use std::error::Error;
use std::sync::Arc;

use backends::net::user::{Forward, UserConfig, UserNetwork};
use backends::net::{Handlers, Network, Tap};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let interface = arguments.next().ok_or("usage: user_network INTERFACE [ADDR:HOSTPORT:GUESTPORT]...")?;
    let mut config = UserConfig::default();
    for argument in arguments {
        let (listen, guest_port) = argument.rsplit_once(':').ok_or("expected ADDR:HOSTPORT:GUESTPORT")?;
        let forward = Forward { listen: listen.parse()?, guest_port: guest_port.parse()?, udp: false };
        config.forwards.push(forward);
    }
    let tap: Arc<dyn Network> = Arc::new(Tap::open(&interface)?);
    let user: Arc<dyn Network> = Arc::new(UserNetwork::open(&config)?);
    join(&tap, &user)?;
    join(&user, &tap)?;
    loop {
        std::thread::park();
    }
}

/// What comes from one network goes to the other.
fn join(from: &Arc<dyn Network>, to: &Arc<dyn Network>) -> Result<(), Box<dyn Error>> {
    let (receiver, room) = (Arc::clone(to), Arc::clone(to));
    from.guest_takes(to.takes());
    from.start(Handlers {
        receive: Box::new(move |frame, offload| receiver.send(frame, offload)),
        drained: Box::new(move || room.room()),
    })?;
    Ok(())
}
