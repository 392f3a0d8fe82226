//! The fuzz targets on their corpus, without a fuzzer: what was once found stays found.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use cloister_fuzz::{TARGETS, Target};
use tests::workspace::root;

fn corpus(target: Target) -> PathBuf {
    root().join("hypervisor/verify/fuzz/corpus").join(target.name)
}

/// The inputs in a directory, by name.
fn inputs(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn every_input_of_the_corpus_holds() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let inputs = inputs(&corpus(target));
        assert!(inputs.len() >= (target.seeds)().len(), "{}", target.name);
        for (path, bytes) in inputs {
            if catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The seeds are in the corpus, as their targets make them. `CLOISTER_BLESS=1` writes them there.
#[test]
fn the_seeds_are_in_the_corpus() {
    let bless = std::env::var_os("CLOISTER_BLESS").is_some();
    for target in TARGETS {
        for (name, bytes) in (target.seeds)() {
            let path = corpus(target).join(format!("seed-{name}"));
            if bless {
                fs::create_dir_all(corpus(target)).unwrap();
                fs::write(&path, &bytes).unwrap();
            }
            assert_eq!(fs::read(&path).ok(), Some(bytes), "{}", path.display());
        }
    }
}

/// What the fuzzer builds and what is replayed here are the same targets.
#[test]
fn every_target_has_its_binary() {
    let binaries: Vec<_> = inputs(&root().join("hypervisor/verify/fuzz/fuzz_targets"))
        .into_iter()
        .map(|(path, _)| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let mut names = TARGETS.map(|target| target.name);
    names.sort_unstable();
    assert_eq!(binaries, names);
}
