//! `popf shell`.

use std::time::Instant;

use vms::Registry;

use super::attach::{self, Input};
use crate::args::ShellArgs;
use crate::error::CliError;

/// Runs a command, or root's shell, in a VM; its status is popf's.
pub fn shell(args: &ShellArgs) -> Result<u8, CliError> {
    let run = || {
        let vm = Registry::of_user()?.running(&args.name)?;
        let stream = agent::connect(&vm.path(vms::VSOCK_SOCKET), Instant::now() + args.timeout)?;
        let attached = attach::start(stream, &args.command, Input::Standard)?;
        let _signals = attached.pass_signals()?;
        attached.carry()
    };
    run().map_err(|error: CliError| error.in_command_mode(!args.command.is_empty()))
}
