//! popf: the command line.
fn main() {}
