//! The hypervisor that holds its tables against its records after each call and each exit
//! (docs/verification.md), where it is hardest pressed, and what is shipped, which has nothing of that.
//!
//! Every other system test boots it as well, as far as it does not say why not: `Tool::boot`.

use std::fs;
use std::path::Path;

use tests::payload;
use tests::tool::Tool;
use tests::workspace::root;

/// The feature's hypervisor and the shipped one, as the tool builds them.
const WITH_ORACLE: &str = "target/bare-oracle/aarch64-unknown-none-softfloat/bare/hypervisor";
const SHIPPED: &str = "target/bare/aarch64-unknown-none-softfloat/bare/hypervisor";

/// What only the oracle brings along: a rule's text; in symbols the names of its module and of the core's that
/// shows it the private state; in debug information the names of their files.
const MARKS: [&str; 5] = [
    "a private page is its guest's alone",
    "hyp_verify6oracle",
    "hyp_core6verify",
    "oracle.rs",
    "core/src/verify",
];

/// Other CPUs call meanwhile. That the oracle looked, after each thing that EL2 was asked, is what
/// [`Tool::boot`] sees to.
#[test]
fn all_is_as_it_should_be_on_four_cpus_with_two_vcpus() {
    let run = Tool::boot(&["--cpus", "4", "--smp", "2"]).run();
    run.expect_status(0);
    assert_eq!(run.number("hypervisor.cpus"), 4);
    assert_eq!(run.number("vm.vcpus"), 2);
}

#[test]
fn the_shipped_hypervisor_has_no_oracle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("payload");
    fs::write(&path, payload::hello("hello")).unwrap();
    let arguments = ["--payload", path.to_str().unwrap(), "--cpus", "1"];
    let with_oracle = Tool::boot(&arguments).run();
    with_oracle.expect_status(0);
    let shipped = Tool::boot_shipped(&arguments, "what it does not have is what is asked").run();
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
