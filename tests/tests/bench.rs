//! `bench primitives` counts, and counts the same twice.

use serde_json::Value;
use tests::tool::Tool;

/// The names of the contract, in its order.
const OPERATIONS: [&str; 10] = [
    "null_hypercall",
    "mem_share",
    "mem_unshare",
    "share_unshare_1m",
    "share_unshare_2m_aligned",
    "first_touch",
    "populate_2m_page",
    "mmio_exit",
    "vm_create",
    "reclaim_page",
];

/// Time for a machine that does nothing but count: a few seconds, on a busy machine more.
const SECONDS: &str = "100";

fn measure() -> String {
    let run = Tool::new(&["bench", "primitives", "--json", "--timeout", SECONDS]).run();
    assert_eq!(run.status, Some(0), "{run}");
    run.stdout
}

#[test]
fn two_runs_are_equal_to_the_byte_and_make_sense() {
    let text = measure();
    assert_eq!(text, measure());

    let record: Value = serde_json::from_str(&text).expect("a record and nothing else");
    assert_eq!(record["schema"], "cloister.bench-primitives/1");
    assert_eq!(record["ok"], true);
    assert!(record["error"].is_null());
    assert_eq!(record["machine"]["cpu"], "cortex-a76");
    assert_eq!(record["machine"]["cntfrq_hz"], 1_000_000_000);
    assert_eq!(record["machine"]["icount"], "shift=0,sleep=off");
    let command = record["command"].as_str().unwrap_or_default();
    assert!(command.contains("-icount shift=0,sleep=off"), "{command}");
    assert!(!command.contains('/'), "a path: {command}");

    let operations = record["operations"].as_array().expect("a list");
    let names: Vec<_> = operations.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, OPERATIONS);
    for operation in operations {
        let number =
            |key: &str| operation[key].as_u64().unwrap_or_else(|| panic!("{key} is no number: {operation}"));
        assert_eq!(operation["unit"], "instructions");
        assert!(number("samples") >= 8, "{operation}");
        assert!(number("min") <= number("p50"), "{operation}");
        assert!(number("p50") <= number("max"), "{operation}");
        assert!(number("el2_p50") <= number("p50"), "{operation}");
        assert!(number("el2_p50") > 0, "{operation}");
        assert!(number("p50") < number("upstream"), "{operation}");
        assert!(number("bar") < number("upstream"), "{operation}");
    }
    // What has more to do takes longer, and what only EL2 does is all EL2's.
    let p50 = |name: &str, key: &str| {
        let operation = operations.iter().find(|one| one["name"] == name);
        operation.and_then(|one| one[key].as_u64())
    };
    assert!(p50("null_hypercall", "p50") < p50("mem_share", "p50"));
    assert!(p50("mem_share", "p50") < p50("share_unshare_1m", "p50"));
    assert!(p50("null_hypercall", "p50") < p50("mmio_exit", "el2_p50"));
    assert!(p50("mmio_exit", "el2_p50") < p50("mmio_exit", "p50"));
    assert_eq!(p50("mem_share", "el2_p50"), p50("mem_share", "p50"));
}
