//! Tests of the core as a whole, on the fake machine.

mod bench_machine;
mod model;
mod sequence;
mod transitions;
