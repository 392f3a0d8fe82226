//! Coverage-guided fuzzing of all input that Cloister reads from untrusted parties.
//!
//! Each module is a target. `run` plays the fuzzer's bytes against the real code and asserts properties, not only the
//! absence of panics. `seeds` returns the first inputs. `fuzz_targets/` passes `run` to libFuzzer. The tests of the
//! main workspace replay `corpus/`, so that a past finding is checked without a fuzzer. docs/verification.md says how
//! to run both.

#![forbid(unsafe_code)]

pub mod board;
pub mod device_tree;
pub mod guest_call;
pub mod host_call;
pub mod image;
pub mod input;
pub mod mmio;
pub mod virtqueue;

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its binary, and of its directory in `corpus/`.
    pub name: &'static str,
    /// Plays an input. Panics if a property does not hold.
    pub run: fn(&[u8]),
    /// Returns the named inputs that the fuzzer starts from.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

macro_rules! targets {
    ($($name:ident),*) => {
        [$(Target { name: stringify!($name), run: $name::run, seeds: $name::seeds }),*]
    };
}

/// All targets.
pub const TARGETS: [Target; 6] = targets![device_tree, guest_call, host_call, image, mmio, virtqueue];
