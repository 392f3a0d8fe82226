//! The checks of `hyp-core`. The README lists which check finds which kind of bug, and its command.
//!
//! * [`oracle`]: compares all tables with all page states. It is `no_std`, because it also runs at EL2.
//! * [`fake`]: a machine in memory, with the worst TLBs that the architecture allows.
//! * [`protocol`]: checks a stream of events against the architecture's rules for tables and TLBs, and against the
//!   core's rules for locks.
//! * [`spec`]: the specification of every call, as plain data.
//! * [`lockstep`]: runs the core and its specification side by side.
//! * `seeded`: a machine with bugs that a test switches on, with the feature `seeded-bugs`. It is `no_std` too.
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
