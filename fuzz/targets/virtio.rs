//! Each virtio device behind its PCI transport, with a driver and a host that do anything; see `popf_fuzz::program`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popf_fuzz::program::run(data, popf_fuzz::arms::ALL));
