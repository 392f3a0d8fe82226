//! What one party has in a register reaches no other, and is there when it runs again: two guests and the
//! host take turns on two CPUs (docs/verification.md).

use std::sync::OnceLock;

use tests::registers::{Line, boot};
use tests::tool::Run;

/// Switches that are enough.
const SWITCHES: u64 = 1000;

/// One boot has both tests.
fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(boot)
}

/// Guests are the parties 1 and 2, the host is 3 on CPU 0 and 4 on CPU 1.
#[test]
fn fp_and_simd_registers_stay_through_a_thousand_switches() {
    let run = run();
    let console = run.text("console");
    for party in 1..=4 {
        let report = Line::find(console, &format!("fp party={party} "));
        // Bits 0 to 31 are V0 to V31, 32 is FPCR, 33 is FPSR.
        assert_eq!(report.number("fresh"), 0, "party {party} found what another had: {run}");
        assert_eq!(report.number("wrong"), 0, "party {party} lost its own: {run}");
        assert!(report.number("turns") >= SWITCHES, "{run}");
        assert!(report.number("rounds") >= SWITCHES / 2, "{run}");
    }
    for guest in 1..=2 {
        let exits = Line::find(console, &format!("fp exits of party={guest} "));
        assert!(exits.number("exits") >= SWITCHES, "{run}");
    }
}
