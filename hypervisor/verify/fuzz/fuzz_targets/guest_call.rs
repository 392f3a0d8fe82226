//! `cargo fuzz run guest_call`: see `cloister_fuzz::guest_call`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloister_fuzz::guest_call::run(data));
