//! A block device in the hands of a driver that writes anything anywhere, with a back-end that answers late; see
//! `popf_fuzz::arms`. It has a target of its own beside `virtio`, for it has the longest way from request to answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popf_fuzz::program::run(data, &[popf_fuzz::arms::block]));
