//! Real guests under the popf that cargo has built, by the properties of Popek and Goldberg.
//!
//! `equivalence` boots Debian's kernel and compares programs in it with the same programs on the host;
//! `resource_control` runs guests that do what no sane one does; `everyday` uses VMs as one does day by day;
//! `insight` looks at what they are made of; `debugger` looks into them while they run. Images are built when they are missing, which needs the host's apt and
//! network once.

#[path = "../control/cli/tests/common/mod.rs"]
mod common;
mod debugger;
mod everyday;
mod harness;
mod insight;

mod equivalence {
    mod commands;
    mod kernels;
    mod narrow;
    mod options;
    mod programs;
    mod terminal;
    mod unprivileged;
}

mod resource_control {
    mod drivers;
    mod sandbox;
    mod wild;
}
