//! The only door to Linux: mappings, signals, terminals, timers.
