//! Tests of the core as a whole, on the fake machine.

mod bench_machine;
mod blocks;
mod bounds;
mod coverage;
mod guest;
mod guide;
mod host;
mod lifecycle;
mod locks;
mod maintenance;
mod merging;
mod objects;
mod oracle;
mod protocol;
mod race;
mod random;
mod refusals;
mod script;
mod search;
mod secrecy;
#[cfg(feature = "seeded-bugs")]
mod seeded;
mod setup;
mod threads;
mod transitions;

/// The number of cases: `CLOISTER_CASES`, or a default that keeps `cargo test` fast.
fn cases() -> u32 {
    let wanted = std::env::var("CLOISTER_CASES").ok();
    wanted.and_then(|cases| cases.parse().ok()).unwrap_or(64)
}
