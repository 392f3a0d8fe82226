//! Tests of the core as a whole, on the fake machine.

mod bench_machine;
mod blocks;
mod guest;
mod lifecycle;
mod model;
mod oracle;
mod race;
mod refusals;
mod sequence;
mod transitions;
