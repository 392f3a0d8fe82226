//! `cargo fuzz run host_call`: see `cloister_fuzz::host_call`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloister_fuzz::host_call::run(data));
