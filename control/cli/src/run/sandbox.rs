//! What popf itself still does once the guest runs; the board adds what the peripherals need.

use board::sandbox::{Access, Sandbox};
use vms::Claim;

use crate::definition::{Definition, SandboxArg};

/// The policy for a VM with these directories. It answers on its control socket, writes down how it ended, turns its
/// log over, and removes what nobody needs afterwards.
///
/// `calls_agent`: this process itself connects to the guest's agent, time and again until that answers.
pub fn of(definition: &Definition, claim: &Claim, calls_agent: bool) -> Option<Sandbox> {
    let mut sandbox = match definition.sandbox() {
        SandboxArg::Off => return None,
        SandboxArg::Auto => Sandbox::new(),
        SandboxArg::Strict => Sandbox::new().strict(),
    };
    sandbox.unix_sockets();
    sandbox.removal(claim.runtime_directory());
    if calls_agent {
        sandbox.unix_connections_at_any_price(claim.runtime_directory());
    }
    if let Some(directory) = claim.state_directory() {
        sandbox.path(directory, Access::ReadWrite);
        sandbox.removal(directory);
        if let Some(settings) = claim.settings_directory().filter(|settings| settings.exists()) {
            sandbox.removal(settings);
        }
    }
    Some(sandbox)
}
