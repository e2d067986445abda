//! Whether a definition's fields go together, wherever each was said.

use super::{Definition, SerialArg};
use board::machine::MOST_CPUS;

use crate::spec::net::Network;

/// Fields that do not go together.
#[derive(Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The field to be changed or left out.
    pub field: &'static str,
    /// Why.
    pub message: String,
}

impl Definition {
    /// Holds the fields against each other.
    pub fn check(&self) -> Result<(), Misfit> {
        let image = self.image.is_some();
        let kernel = self.kernel.is_some();
        let command = self.command_mode();
        let detached = self.detached();
        let user_network = self.networks().iter().any(|spec| spec.to == Network::User);
        let given = |value: Option<bool>| value == Some(true);
        let on_terminal = |end: &Option<SerialArg>| *end == Some(SerialArg::Stdio);
        // It lies below 2 GiB with all that goes with it.
        let fits = |cache: u64| (1 << 20..=1 << 30).contains(&cache) && cache.is_multiple_of(4096);
        // Field, whether it is given wrongly, why that is wrong.
        #[rustfmt::skip]
        let table = [
            ("image",      !image && !kernel,                        "there is nothing to run: give an image or a kernel"),
            ("image",      image && kernel,                          "an image has its own kernel: give one of image and kernel"),
            ("image",      self.image.as_ref().is_some_and(|image| image.ends_with(".toml")), "a definition cannot name another definition"),
            ("initrd",     !self.initrd.is_empty() && !kernel,       "an initial RAM disk goes with a kernel of your own, an image has its own"),
            ("command",    command && !image,                        "a command needs an image to run in"),
            ("stdin",      given(self.stdin) && !command,            "standard input is given to a command, and there is none"),
            ("serial",     self.serial.is_some() && command,         "with a command, the serial ports are its output"),
            ("command",    command && detached,                      "a command's output and exit status are popf's, which must not leave then"),
            ("serial",     detached && on_terminal(&self.serial), "a detached VM has no standard input and output"),
            ("console",    on_terminal(&self.console) && (command || detached), "standard input and output are a command's, or nobody's"),
            ("console",    on_terminal(&self.console) && on_terminal(&self.serial), "the first serial port has standard input and output"),
            ("stats",      detached && given(self.stats),            "a detached VM has no standard error to list them on"),
            ("translation-cache", self.translation_cache.is_some_and(|size| !fits(size.0)), "whole pages are wanted, and from 1M to 1G"),
            ("publish",    !self.publish.is_empty() && !user_network, "ports are published by a user network, and there is none"),
            ("no-sandbox", given(self.no_sandbox) && self.sandbox.is_some(), "it says the same as sandbox: give one of them"),
            ("cpus",       self.cpus == Some(0),                     "a machine needs a processor"),
            ("cpus",       self.cpus > Some(MOST_CPUS),              "a machine has 16 processors at most"),
        ];
        match table.into_iter().find(|(_, wrong, _)| *wrong) {
            Some((field, _, message)) => Err(Misfit { field, message: message.to_owned() }),
            None => Ok(()),
        }
    }
}
