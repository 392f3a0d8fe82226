//! Tests of the core's parts, on a memory that does what it is told. Tests on the fake machine are in
//! `hyp-verify`.

pub(crate) mod memory;
mod tables;
