//! FP and SIMD registers: a pattern each round, others run, and the pattern is still there.

use bare_rt::el1::fp::FpState;
use guest_kernel::println;

use super::end_turn;

/// Rounds, each with a pattern of its own.
const ROUNDS: u64 = 1000;
/// Turns that a pattern stays for: one more each round, up to this number, and then one again.
const LONGEST: u64 = 2;

pub(super) fn run(party: u64, uart: u64) {
    FpState::permit();
    let fresh = FpState::current().difference(&FpState::ZERO);
    let (mut turns, mut wrong) = (0, 0);
    for round in 0..ROUNDS {
        let pattern = FpState::pattern(party, round);
        pattern.load();
        for _ in 0..=round % LONGEST {
            end_turn(uart);
            turns += 1;
        }
        wrong |= pattern.difference(&FpState::current());
    }
    println!("fp party={party} rounds={ROUNDS} turns={turns} fresh={fresh:#x} wrong={wrong:#x}");
}
