//! Everything that checks `hyp-core`: what finds what, and by which command, is in the README beside.
//!
//! * [`oracle`]: holds all tables against all records. It is `no_std`, as it runs at EL2 too.
//! * [`fake`]: a machine in memory, with TLBs as badly behaved as the architecture allows.
//! * [`protocol`]: the architecture's rules for tables and TLBs, and ours for locks, on a stream of events.
//! * [`spec`]: what every call has to do, as plain data.
//! * [`lockstep`]: the core and its specification, side by side.
//! * `seeded`: a machine that makes mistakes, with the feature `seeded-bugs`. It is `no_std` too.
//!
//! The tests that use them are in `tests/`, the fuzz targets in `fuzz/`.

#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

#[cfg(feature = "std")]
extern crate std;

#[cfg(feature = "std")]
pub mod fake;
#[cfg(feature = "std")]
pub mod lockstep;
pub mod oracle;
#[cfg(feature = "std")]
pub mod protocol;
#[cfg(feature = "seeded-bugs")]
pub mod seeded;
#[cfg(feature = "std")]
pub mod spec;
