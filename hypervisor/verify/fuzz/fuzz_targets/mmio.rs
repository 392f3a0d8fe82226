//! `cargo fuzz run mmio`: see `cloister_fuzz::mmio`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloister_fuzz::mmio::run(data));
