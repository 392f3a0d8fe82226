//! Whole boots with a bug switched on at EL2 (docs/verification.md): the oracle names what it does, or
//! the demo itself notices. What is shipped has no bug to switch on.

use std::fs;

use tests::tool::{Tool, ToolRun};
use tests::workspace::root;

/// The feature's hypervisor and the shipped one, as the tool builds them.
const WITH_BUGS: &str = "target/bare-seeded-bugs/aarch64-unknown-none-softfloat/bare/hypervisor";
const SHIPPED: &str = "target/bare/aarch64-unknown-none-softfloat/bare/hypervisor";

/// Boots with a bug switched on.
fn boot(bug: &str) -> ToolRun {
    Tool::boot_with_bug(bug, &["--cpus", "1"]).run()
}

#[test]
fn the_oracle_names_page_party_and_rule() {
    let run = boot("HostKeepsMapping");
    run.expect_status(1);
    assert_eq!(run.text("exit.reason"), "panic");
    let message = run.text("error.message");
    // The first page that the host gave away: a pool's.
    let words = ["oracle: page 0x", ", the host, ", "the pools' pages are nobody's to reach"];
    for word in words {
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn the_demo_notices_what_the_oracle_cannot_see() {
    let run = boot("OneTooMany");
    run.expect_status(1);
    assert!(run.text("console").contains("cannot be shared"), "{run}");
    assert!(run.number("oracle.checks") > 0);
}

#[test]
fn the_shipped_hypervisor_has_no_bugs_to_switch_on() {
    // To pack an image is to build what ships.
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let packed = Tool::new(&["image", "pack", "--output", image.to_str().unwrap()]).run();
    assert_eq!(packed.status, Some(0), "{packed}");
    let unknown = boot("NoSuchBug");
    assert_eq!(unknown.text("exit.reason"), "refused");
    let names = names();
    assert!(names.len() > 30, "{names:?}");
    let (with_bugs, shipped) = (read(WITH_BUGS), read(SHIPPED));
    for name in &names {
        assert!(contains(&with_bugs, name), "the feature's has no {name}");
        assert!(!contains(&shipped, name), "what is shipped has {name}");
    }
}

/// The bugs' names, from the source: lines like `OddRoot: 1,`.
fn names() -> Vec<String> {
    let source = root().join("hypervisor/core/src/seeded.rs");
    let source = fs::read_to_string(source).unwrap();
    let bug = |line: &str| {
        let (name, class) = line.trim().strip_suffix(',')?.split_once(": ")?;
        class.parse::<u8>().ok().map(|_| name.to_owned())
    };
    source.lines().filter_map(bug).collect()
}

fn read(elf: &str) -> Vec<u8> {
    fs::read(root().join(elf)).unwrap_or_else(|error| panic!("{elf}: {error}"))
}

fn contains(bytes: &[u8], mark: &str) -> bool {
    let mut windows = bytes.windows(mark.len());
    windows.any(|window| window == mark.as_bytes())
}
