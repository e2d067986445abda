//! Networks of `popf run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backends::net::user::{Forward, UserConfig, UserNetwork};
use backends::net::{HostOnly, Mac, NetError, Network, Switch, Tap};
use board::virtio::Net;
use vms::Claim;

use crate::definition::Definition;
use crate::error::CliError;
use crate::exit::Failure;
use crate::spec::net::{self, NetSpec, stable_mac};
use crate::spec::publish::{Protocol, PublishSpec};

/// Opens a VM's networks, each with a card on it.
pub fn open(definition: &Definition, claim: &Claim) -> Result<Vec<Net>, CliError> {
    let name = claim.name().as_str();
    // All of them lead to the first user network.
    let mut publish = definition.publish.as_slice();
    let mut cards = Vec::new();
    for (index, spec) in (0..).zip(definition.networks()) {
        let mac = spec.mac.unwrap_or_else(|| stable_mac(name, index));
        let published = match spec.to {
            net::Network::User => std::mem::take(&mut publish),
            _ => &[],
        };
        let network = connect(&spec, mac, published, claim);
        let card = network.and_then(|network| match network {
            Some(network) => Net::new(network, mac, spec.queues.get()).map(Some),
            None => Ok(None),
        });
        let refuse =
            |error| CliError::new(Failure::Host, format!("cannot connect to {}", spec.to)).because(error);
        cards.extend(card.map_err(refuse)?);
    }
    Ok(cards)
}

/// The far end of one cable.
fn connect(
    spec: &NetSpec,
    mac: Mac,
    publish: &[PublishSpec],
    claim: &Claim,
) -> Result<Option<Arc<dyn Network>>, NetError> {
    Ok(Some(match &spec.to {
        net::Network::User => {
            let config = UserConfig {
                forwards: publish.iter().map(forward).collect(),
                hostname: Some(claim.name().to_string()),
                ..UserConfig::default()
            };
            Arc::new(UserNetwork::open(&config)?)
        }
        net::Network::Tap(name) => Arc::new(Tap::open(name)?),
        net::Network::Bridge(name) => Arc::new(Tap::on_bridge(name)?),
        net::Network::HostOnly(name) => Arc::new(HostOnly::join(name, mac)?),
        net::Network::Switch(name) => {
            Arc::new(Switch::join(&switch_folder(claim.runtime_directory(), name))?)
        }
        net::Network::None => return Ok(None),
    }))
}

/// Where the VMs of a switch meet: beside the VMs' own folders, under a name that no VM can have, since a folder that is
/// called like a VM and that nobody holds is removed as a dead one's.
fn switch_folder(runtime: &Path, name: &str) -> PathBuf {
    runtime.with_file_name(".switch").join(name)
}

fn forward(spec: &PublishSpec) -> Forward {
    Forward { listen: spec.listen(), guest_port: spec.guest.get(), udp: spec.protocol == Protocol::Udp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_no_vm() {
        let folder = switch_folder(Path::new("/run/popf/web"), "lab");
        assert_eq!(folder, Path::new("/run/popf/.switch/lab"));
        assert!(".switch".parse::<vms::Name>().is_err());
    }
}
