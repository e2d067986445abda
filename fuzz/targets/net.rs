//! A network card in the hands of a driver that writes anything anywhere, and of a network that brings anything; see
//! `popf_fuzz::arms`. It has a target of its own beside `virtio`, for what the network brings is hostile, too.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popf_fuzz::program::run(data, &[popf_fuzz::arms::net]));
