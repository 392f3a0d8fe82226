//! `cargo fuzz run virtqueue`: see `cloister_fuzz::virtqueue`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloister_fuzz::virtqueue::run(data));
