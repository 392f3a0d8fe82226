//! Coverage-guided fuzzing of what Cloister reads from those whom it does not trust.
//!
//! Each module is a target: `run` takes the fuzzer's bytes, plays them against the real code and asserts
//! more than that nothing panics; `seeds` are the inputs to start from. `fuzz_targets/` hands `run` to
//! libFuzzer, the tests of the main workspace replay `corpus/` through it, so that what was once found
//! stays found without a fuzzer. docs/verification.md says how to run both.

#![forbid(unsafe_code)]

pub mod board;
pub mod device_tree;
pub mod guest_call;
pub mod host_call;
pub mod image;
pub mod input;
pub mod mmio;
pub mod virtqueue;

/// A target: its code and where it starts.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the binary, and of its directory in `corpus/`.
    pub name: &'static str,
    /// Plays an input; panics where a property does not hold.
    pub run: fn(&[u8]),
    /// Named inputs that the fuzzer starts from.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

macro_rules! targets {
    ($($name:ident),*) => {
        [$(Target { name: stringify!($name), run: $name::run, seeds: $name::seeds }),*]
    };
}

/// All targets.
pub const TARGETS: [Target; 6] = targets![device_tree, guest_call, host_call, image, mmio, virtqueue];
