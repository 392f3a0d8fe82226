//! The exhaustive search: breadth first over the states of the real core, from a few small machines, until it finds
//! no new state or reaches a bound. Each action runs on the core and on its specification. After it, both agree for
//! every page and every party ([`hyp_verify::lockstep`]). After a refused call, the core's state is the same, bit for
//! bit.
//!
//! Two states are equal if no decision of the core can tell them apart: the hash leaves out the generations of
//! handles, the addresses of table pages, counters and measurements ([`state`]).
//!
//! The machines have tables of 4 entries. With 2 entries, a map of all memory would take 7 table pages for 8 pages of
//! memory, so that no VM would fit. With 4, blocks of 4 pages and level-1 blocks of 16 split and merge as on metal.

mod scopes;
mod state;

use std::collections::HashSet;
use std::time::Instant;

use hyp_core::machine::geometry::Geometry;
use hyp_verify::lockstep::action::Action;
use hyp_verify::lockstep::{Bench, Divergence, Pair, Verdict, with_pair};

use super::bench_machine::{Short, Tiny};
use super::coverage::Coverage;
use super::{cases, script};
use scopes::Scope;

/// A pair with the geometry of the search.
type TinyPair<'h, 'm, G> = Pair<'h, 'm, G>;

/// The result of a search.
struct Found {
    states: usize,
    transitions: u64,
    depth: usize,
    complete: bool,
    coverage: Coverage,
}

/// A state: the number of the state before it, and the action between them.
struct Node {
    parent: usize,
    action: Option<Action>,
    depth: usize,
}

fn path(nodes: &[Node], mut node: usize) -> Vec<Action> {
    let mut path = Vec::new();
    while let Some(action) = nodes[node].action {
        path.push(action);
        node = nodes[node].parent;
    }
    path.reverse();
    path
}

fn search<G: Geometry>(scope: &Scope, most_states: usize) -> Found {
    let bench = scope.bench();
    with_pair(&bench, |pair: &mut TinyPair<'_, '_, G>| {
        // The search restores states after each step, so the stream of events is not that of one machine.
        pair.real.machine().stop_checking();
        walk(pair, &scope.prefix, &scope.prefix, &bench);
        pair.checking = false;
        let root = pair.save();
        let mut nodes = vec![Node { parent: 0, action: None, depth: 0 }];
        let mut seen = HashSet::from([state::of(pair)]);
        let mut coverage = Coverage::default();
        let mut next = 0;
        let mut complete = true;
        while next < nodes.len() {
            let depth = nodes[next].depth;
            let way = path(&nodes, next);
            pair.restore(&root);
            walk(pair, &way, &scope.prefix, &bench);
            let here = state::of(pair);
            let saved = pair.save();
            for action in scope.moves(pair) {
                let there = pair.step(&action).and_then(|verdict| {
                    coverage.count(&action, verdict);
                    let there = state::of(pair);
                    if there != here {
                        pair.agree()?;
                    }
                    match there != here && changes_nothing(verdict) {
                        true => Err(Divergence(format!("{verdict:?}, but the state changed"))),
                        false => Ok(there),
                    }
                });
                let there = there.unwrap_or_else(|divergence| {
                    let all = scope.prefix.iter().chain(&way).chain([&action]);
                    fail::<G>(&bench, all, &divergence);
                });
                if there == here {
                    pair.real.machine().take_trace();
                    continue;
                }
                if nodes.len() >= most_states {
                    complete &= seen.contains(&there);
                } else if seen.insert(there) {
                    nodes.push(Node { parent: next, action: Some(action), depth: depth + 1 });
                }
                pair.restore(&saved);
            }
            next += 1;
        }
        Found {
            states: nodes.len(),
            transitions: coverage.steps,
            depth: nodes.iter().map(|node| node.depth).max().unwrap_or(0),
            complete,
            coverage,
        }
    })
}

/// Replays a path that was taken before, or the one that leads to the first state.
fn walk<G: Geometry>(pair: &mut TinyPair<'_, '_, G>, way: &[Action], prefix: &[Action], bench: &Bench) {
    for (done, action) in way.iter().enumerate() {
        if let Err(divergence) = pair.step(action) {
            fail::<G>(bench, prefix.iter().chain(&way[..=done]), &divergence);
        }
    }
}

const fn changes_nothing(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Refused(_)
            | Verdict::GuestRefused(_)
            | Verdict::NoMemory
            | Verdict::BadValue
            | Verdict::Abort
            | Verdict::Skipped
    )
}

fn fail<'a, G: Geometry>(
    bench: &Bench,
    actions: impl Iterator<Item = &'a Action>,
    divergence: &Divergence,
) -> ! {
    let actions: Vec<Action> = actions.copied().collect();
    script::fail::<G>(bench, &actions, &divergence.0);
}

/// The maximum number of states: a default that keeps `cargo test` fast, and at most four times as many.
fn bound() -> usize {
    64 * cases().clamp(64, 256) as usize
}

#[test]
fn every_state_within_the_bound_agrees_with_the_specification() {
    let mut coverage = Coverage::default();
    let mut lines = String::new();
    for scope in scopes::all() {
        let start = Instant::now();
        let found = match scope.short {
            false => search::<Tiny>(&scope, bound()),
            true => search::<Short>(&scope, bound()),
        };
        coverage.add(&found.coverage);
        lines += &format!(
            "{:<10} {:>8} states {:>9} transitions, depth {:>2}, {} ({:.1} s)\n",
            scope.name,
            found.states,
            found.transitions,
            found.depth,
            if found.complete { "fixed point" } else { "bound reached" },
            start.elapsed().as_secs_f32(),
        );
    }
    println!("{lines}");
    coverage.print();
    assert_eq!(coverage.unknown(), Vec::<String>::new(), "rows that the table does not have");
    assert_eq!(coverage.missing(), Vec::<String>::new(), "rows that were never taken");
}
