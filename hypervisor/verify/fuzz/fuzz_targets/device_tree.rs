//! `cargo fuzz run device_tree`: see `cloister_fuzz::device_tree`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloister_fuzz::device_tree::run(data));
