//! Whole boots with a hypervisor that holds its tables against its records after each call and each
//! exit (docs/verification.md), and what is shipped, which has nothing of that.

use std::fs;
use std::path::Path;

use tests::payload;
use tests::tool::{Run, Tool};
use tests::workspace::root;

/// The feature's hypervisor and the shipped one, as the tool builds them.
const WITH_ORACLE: &str = "target/bare-oracle/aarch64-unknown-none-softfloat/bare/hypervisor";
const SHIPPED: &str = "target/bare/aarch64-unknown-none-softfloat/bare/hypervisor";

/// What only the oracle brings along: a rule's text, its module's name in symbols, its file's in debug
/// information.
const MARKS: [&str; 3] = ["a private page is its guest's alone", "hyp_core6oracle", "oracle.rs"];

/// Boots with the oracle, which has to have looked at least once for each thing that EL2 was asked.
fn boot(arguments: &[&str]) -> Run {
    let run = Tool::boot(&[arguments, &["--oracle"]].concat()).run();
    run.expect_status(0);
    let asked = run.number("cost.hypercalls") + run.number("cost.exits");
    assert!(asked > 0 && run.number("oracle.checks") > asked, "{run}");
    run
}

#[test]
fn the_demo_is_as_it_should_be_after_each_call() {
    let run = boot(&["--cpus", "1"]);
    assert!(run.number("guest.shares") > 0);
    assert_eq!(*run.field("attack.read_faulted"), true);
}

/// Other CPUs call meanwhile.
#[test]
fn so_it_is_on_four_cpus_with_two_vcpus() {
    let run = boot(&["--cpus", "4", "--smp", "2"]);
    assert_eq!(run.number("hypervisor.cpus"), 4);
}

#[test]
fn so_it_is_for_an_ordinary_vm() {
    let run = boot(&["--cpus", "2", "--unprotected"]);
    assert_eq!(*run.field("vm.protected"), false);
}

#[test]
fn the_shipped_hypervisor_has_no_oracle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("payload");
    fs::write(&path, payload::hello("hello")).unwrap();
    let arguments = ["--payload", path.to_str().unwrap(), "--cpus", "1"];
    let with_oracle = boot(&arguments);
    let shipped = Tool::boot(&arguments).run();
    shipped.expect_status(0);
    assert!(shipped.field("oracle").is_null(), "{shipped}");
    assert!(
        shipped.number("hypervisor.text_bytes") < with_oracle.number("hypervisor.text_bytes"),
        "the oracle is code"
    );
    for mark in MARKS {
        assert!(contains(WITH_ORACLE, mark), "no mark of the oracle: {mark}");
        assert!(!contains(SHIPPED, mark), "a mark of the oracle: {mark}");
    }
}

fn contains(elf: &str, mark: &str) -> bool {
    let path = root().join(Path::new(elf));
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes.windows(mark.len()).any(|window| window == mark.as_bytes())
}
