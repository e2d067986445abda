//! From a configuration to a machine: wiring, lifecycle, kernel loading.
