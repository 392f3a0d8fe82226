//! Random sequences of a thousand actions of the host and of guests on two CPUs. The specification guides them and is
//! compared with the core after every step.
//!
//! `CLOISTER_CASES` sets the number of sequences. A failure is shrunk to a script and printed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use hyp_core::machine::geometry::Geometry;
use hyp_verify::lockstep::action::{Action, Arg, CALLS};
use hyp_verify::lockstep::{Bench, Divergence, Pair, Verdict, with_pair};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use shared_abi::host_call::VmHandle;

use super::bench_machine::{DENIED, RAM, RESERVED, Short, Tiny};
use super::coverage::Coverage;
use super::guide::{self, Dice};
use super::{cases, script};

/// Actions in a sequence.
const STEPS: usize = 1000;

/// The machine.
pub(super) fn bench() -> Bench {
    let range = |(first, pages): (u64, u64)| first..first + pages;
    Bench { ram: range(RAM), reserved: range(RESERVED), denied: range(DENIED) }
}

/// Runs one step and returns its actions. If a pool has too few pages, it tops the pool up by the number that the
/// call asked for. The same call must not find the pool too small again.
fn step<G: Geometry>(
    pair: &mut Pair<'_, '_, G>,
    dice: &mut Dice,
    coverage: &mut Coverage,
    done: &mut Vec<Action>,
) -> Result<(), Divergence> {
    let mut take = |pair: &mut Pair<'_, '_, G>, action: Action| {
        done.push(action);
        let verdict = pair.step(&action)?;
        coverage.count(&action, verdict);
        Ok(verdict)
    };
    let action = guide::next(pair, dice);
    if take(pair, action)? != Verdict::NoMemory || dice.one_in(3) {
        return Ok(());
    }
    let Some(vm) = whose(pair, action) else {
        return Ok(());
    };
    let more = guide::top_up(pair, dice, vm, pair.short_of);
    if take(pair, more)? == Verdict::Done && take(pair, action)? == Verdict::NoMemory {
        return Err(Divergence("the pool got the pages that it asked for, and is still too small".into()));
    }
    Ok(())
}

/// Returns the VM whose pool a call uses.
fn whose<G: Geometry>(pair: &Pair<'_, '_, G>, action: Action) -> Option<VmHandle> {
    let Action::Host { call, x } = action else {
        return None;
    };
    match (CALLS[call].0, x[0]) {
        ("force-reclaim", _) => None,
        (_, Arg::Vm(index)) => Some(VmHandle(*pair.vms.get(index)?)),
        (_, Arg::Object(index)) => {
            let handle = shared_abi::host_call::ObjectHandle(*pair.objects.get(index)?);
            pair.spec.vms.iter().find(|(_, vm)| vm.objects.contains_key(&handle)).map(|(vm, _)| *vm)
        }
        _ => None,
    }
}

fn sequence<G: Geometry>(seeds: &[u64], coverage: &mut Coverage) {
    let bench = bench();
    let mut done = Vec::new();
    let run = || {
        with_pair(&bench, |pair: &mut Pair<'_, '_, G>| {
            for seed in seeds {
                step(pair, &mut Dice(*seed), coverage, &mut done)?;
            }
            Ok(())
        })
    };
    let why = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return,
        Ok(Err(Divergence(why))) => why,
        Err(_) => "panic".into(),
    };
    script::fail::<G>(&bench, &done, &why);
}

fn sequences<G: Geometry>(thousands: u32) -> Coverage {
    let mut coverage = Coverage::default();
    let config = Config {
        cases: thousands,
        failure_persistence: None,
        // `shrink` shortens scripts, so proptest must not shrink seeds.
        max_shrink_iters: 0,
        rng_seed: RngSeed::Fixed(thousands.into()),
        ..Config::default()
    };
    let seeds = prop::collection::vec(any::<u64>(), STEPS);
    let mut runner = TestRunner::new(config);
    let result = runner.run(&seeds, |seeds| {
        let mut one = Coverage::default();
        sequence::<G>(&seeds, &mut one);
        TOTAL.with_borrow_mut(|total| total.add(&one));
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    TOTAL.with_borrow_mut(|total| coverage.add(&core::mem::take(total)));
    coverage
}

std::thread_local! {
    static TOTAL: core::cell::RefCell<Coverage> = core::cell::RefCell::default();
}

fn check<G: Geometry>(thousands: u32) {
    let start = Instant::now();
    let coverage = sequences::<G>(thousands);
    let seconds = start.elapsed().as_secs_f64();
    coverage.print();
    let rate = coverage.steps as f64 / seconds;
    println!("{} calls in {seconds:.1} s: {rate:.0} per second", coverage.steps);
    assert_eq!(coverage.unknown(), Vec::<String>::new());
    let done = |name: &str| coverage.taken(name, Verdict::Done) > 0;
    for name in ["guest share", "guest unshare", "guest relinquish", "object-reclaim", "vm-destroy"] {
        assert!(done(name), "{name} was never done: the guide is of no use");
    }
}

#[test]
fn the_core_does_what_the_specification_says() {
    check::<Tiny>(cases() / 2);
}

#[test]
fn a_core_that_stops_half_way_does_what_the_specification_says() {
    check::<Short>(cases() / 2);
}
