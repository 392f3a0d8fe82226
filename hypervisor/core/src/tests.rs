//! Unit tests of the core, on a plain memory. The tests on the fake machine are in `hyp-verify`.

pub(crate) mod memory;
mod tables;
