//! A value in a register reaches no other party, and is still there when its own runs again: two guests and
//! the host take turns on two CPUs (docs/verification.md).

use std::sync::OnceLock;

use tests::registers::judge::{Reader, Sweep};
use tests::registers::rules::{Access, KNOWN, Known, RULES, Rule};
use tests::registers::{Line, boot};
use tests::tool::ToolRun;

/// Switches that are enough.
const SWITCHES: u64 = 1000;

/// One boot has both tests.
fn run() -> &'static ToolRun {
    static RUN: OnceLock<ToolRun> = OnceLock::new();
    let run = RUN.get_or_init(boot);
    run.expect_status(0);
    run
}

/// Guests are the parties 1 and 2, the host is 3 on CPU 0 and 4 on CPU 1.
#[test]
fn fp_and_simd_registers_stay_through_a_thousand_switches() {
    let run = run();
    let console = run.text("console");
    for party in 1..=4 {
        let report = Line::find(console, &format!("fp party={party} "));
        // Bits 0 to 31 are V0 to V31, 32 is FPCR, 33 is FPSR.
        assert_eq!(report.number("fresh"), 0, "party {party} read another party's registers: {run}");
        assert_eq!(report.number("wrong"), 0, "party {party} lost its own: {run}");
        assert!(report.number("turns") >= SWITCHES, "{run}");
        assert!(report.number("rounds") >= SWITCHES / 2, "{run}");
    }
    for guest in 1..=2 {
        let exits = Line::find(console, &format!("fp exits of party={guest} "));
        assert!(exits.number("exits") >= SWITCHES, "{run}");
    }
}

/// The registers that cross are those that `KNOWN` lists, no more and no fewer.
#[test]
fn no_system_register_carries_a_value_from_guest_to_guest_or_host() {
    /// Registers that a guest can read and write at least, on the CPU that is booted.
    const READABLE: usize = 100;
    const WRITTEN: usize = 30;

    let run = run();
    let sweep = Sweep::read(run.text("console"));
    println!("a guest read {} registers and wrote {}", sweep.readable, sweep.written.len());
    println!("the others looked at {:?}", sweep.looked_at);
    assert!(sweep.readable >= READABLE && sweep.written.len() >= WRITTEN, "{sweep:#x?}");
    for reader in [Reader::Guest, Reader::Host] {
        assert!(sweep.looked_at.get(&reader) >= Some(&sweep.readable), "{sweep:#x?}");
    }
    for Rule { name, register, access, .. } in RULES {
        if let Access::Write(bits) = access {
            let written = sweep.written.get(register).copied().unwrap_or(0);
            assert!(written != 0 && written & !bits == 0, "{name}: {written:#x} of {bits:#x} was written");
        }
    }

    let known = |reader, register| KNOWN.iter().find(|one| (one.reader, one.register) == (reader, register));
    let new: Vec<_> = sweep
        .crossed
        .iter()
        .filter(|((reader, register), _)| known(*reader, *register).is_none())
        .map(|((reader, register), bits)| format!("{register} to {reader:?}: {bits:#x}"))
        .collect();
    assert!(new.is_empty(), "a guest's value reaches another party: {new:#?}");
    for Known { name, register, reader, .. } in KNOWN {
        let crosses = sweep.crossed.contains_key(&(*reader, *register));
        assert!(crosses, "{name} does not cross any more: take it off the list");
    }
}
