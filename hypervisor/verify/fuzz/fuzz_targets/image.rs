//! `cargo fuzz run image`: see `cloister_fuzz::image`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloister_fuzz::image::run(data));
