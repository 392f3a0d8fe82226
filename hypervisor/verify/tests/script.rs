//! Scripts: a machine and actions on it, one a line, to be replayed.

use std::fmt::Write as _;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::string::{String, ToString};
use std::{env, fs, println};

use hyp_core::machine::geometry::Geometry;
use hyp_verify::lockstep::action::{Action, parse};
use hyp_verify::lockstep::{Bench, Divergence, Pair, Verdict, with_pair};

use super::bench_machine::{Short, Tiny};

/// The directory of scripts that found a bug, or that show a case.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

/// Prints a script. Its first line gives the machine's layout.
pub(super) fn print<G: Geometry>(bench: &Bench, actions: &[Action]) -> String {
    let mut text = String::new();
    let range = |range: &Range<u64>| format!("{}..{}", range.start, range.end);
    let (ram, reserved, denied) = (range(&bench.ram), range(&bench.reserved), range(&bench.denied));
    let per_call = G::PAGES_PER_CALL;
    let _ = writeln!(text, "machine ram={ram} reserved={reserved} denied={denied} per-call={per_call}");
    for action in actions {
        let _ = writeln!(text, "{action}");
    }
    text
}

/// Parses the output of [`print`].
fn read(text: &str) -> (Bench, Vec<Action>) {
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let machine = lines.find(|line| !line.trim().is_empty()).expect("a machine");
    let range = |name: &str| {
        let word = machine.split_whitespace().find_map(|word| word.strip_prefix(name));
        let (start, end) = word.expect(name).split_once("..").expect("a range");
        start.parse().unwrap()..end.parse().unwrap()
    };
    let bench = Bench { ram: range("ram="), reserved: range("reserved="), denied: range("denied=") };
    let rest: Vec<&str> = lines.collect();
    let actions = parse(&rest.join("\n")).unwrap_or_else(|bad| panic!("no action: {}", bad.0));
    (bench, actions)
}

/// Runs all actions. A panic of the core counts as a divergence.
pub(super) fn run<G: Geometry>(bench: &Bench, actions: &[Action]) -> Result<Vec<Verdict>, Divergence> {
    let all = || {
        with_pair(bench, |pair: &mut Pair<'_, '_, G>| {
            actions.iter().map(|action| pair.step(action)).collect()
        })
    };
    catch_unwind(AssertUnwindSafe(all)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(Divergence(format!("panic: {}", text.unwrap_or_default())))
    })
}

/// Returns the shortest script that still fails, as far as omitting actions finds one: first halves, then quarters,
/// and finally single actions.
pub(super) fn shrink<G: Geometry>(bench: &Bench, actions: &[Action]) -> Vec<Action> {
    let mut best = actions.to_vec();
    let mut chunk = best.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shorter = false;
        while at < best.len() {
            let mut candidate = best.clone();
            candidate.drain(at..(at + chunk).min(best.len()));
            if run::<G>(bench, &candidate).is_err() {
                best = candidate;
                shorter = true;
            } else {
                at += chunk;
            }
        }
        match (chunk, shorter) {
            (1, false) => return best,
            _ => chunk = chunk.div_ceil(2),
        }
    }
}

/// Panics with a shrunk script.
pub(super) fn fail<G: Geometry>(bench: &Bench, actions: &[Action], why: &str) -> ! {
    let shrunk = shrink::<G>(bench, actions);
    let last = match run::<G>(bench, &shrunk) {
        Err(divergence) => divergence.0,
        Ok(_) => format!("only once: {why}"),
    };
    panic!(
        "{last}\n# Put this into a file, then: CLOISTER_SCRIPT=FILE cargo test -p hyp-verify replay -- --nocapture\n{}",
        print::<G>(bench, &shrunk)
    );
}

fn replay_file(path: &Path) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    println!("{}", path.display());
    match text.contains("per-call=4\n") {
        true => replay_on::<Short>(&text),
        false => replay_on::<Tiny>(&text),
    }
}

fn replay_on<G: Geometry>(text: &str) {
    let (bench, actions) = read(text);
    with_pair(&bench, |pair: &mut Pair<'_, '_, G>| {
        for action in &actions {
            match pair.step(action) {
                Ok(verdict) => println!("{action}  # {verdict:?}"),
                Err(divergence) => panic!("{action}: {}", divergence.0),
            }
        }
    });
}

#[test]
fn replay() {
    if let Some(path) = env::var_os("CLOISTER_SCRIPT") {
        return replay_file(Path::new(&path));
    }
    let scripts = fs::read_dir(DIRECTORY).expect("the directory of scripts");
    let mut paths: Vec<_> = scripts.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().for_each(|path| replay_file(path));
}

#[test]
fn scripts_read_as_they_were_written() {
    for path in fs::read_dir(DIRECTORY).unwrap() {
        let text = fs::read_to_string(path.unwrap().path()).unwrap();
        let (bench, actions) = read(&text);
        let (_, again) = read(&print::<Tiny>(&bench, &actions));
        assert_eq!(actions, again);
    }
}
