//! The programs of `cargo xtask bench` that no package has, in one: `work NAME COUNT` does one thing COUNT times and
//! prints what came of it, the same wherever it runs.
//!
//! `system` holds operations of the operating system, `compute` loops that need nothing of it.

mod compute;
mod system;

use std::env;
use std::process::ExitCode;

/// Something to do so many times; gives what it computed.
type Work = fn(u64) -> u64;

const WORKS: &[(&str, Work)] = &[
    ("getppid", system::getppid),
    ("yield", system::yield_),
    ("clock", system::clock),
    ("signal", system::signal),
    ("fault", system::fault),
    ("pipe", system::pipe_to_self),
    ("ping-pong", system::ping_pong),
    ("fork", system::fork_and_wait),
    ("exec", system::execute),
    ("map", system::map_touch_unmap),
    ("protect", system::protect),
    ("read", system::read_4k),
    ("calls", compute::calls),
    ("dispatch", compute::dispatch),
    ("branches", compute::branches),
    ("matrix", compute::matrix),
    ("x87", compute::x87),
    ("copy", compute::copy),
    ("chase", compute::chase),
    ("touch", compute::touch),
];

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    if name == system::NOTHING {
        return ExitCode::SUCCESS;
    }
    let count = arguments.next().and_then(|count| count.parse().ok());
    let work = WORKS.iter().find(|(known, _)| *known == name);
    let (Some(count), Some((_, work))) = (count, work) else {
        let names: Vec<_> = WORKS.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: work NAME COUNT; NAME is one of {}", names.join(", "));
        return ExitCode::from(2);
    };
    println!("{name} {count}: {}", work(count));
    ExitCode::SUCCESS
}
