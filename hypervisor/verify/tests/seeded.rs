//! The tests that notice each seeded bug ([`hyp_core::seeded`]): each of them fails with the bug on, and passes
//! without it.
//!
//! `cargo seeded` prints the table. Every bug runs in a process of its own, with its name in the environment. The
//! process is this binary again, or the core's unit tests.

use std::env;
use std::process::Command;

use hyp_core::seeded::Bug;

use Bug::*;

/// The tests that notice each bug, the most telling one first. Other tests may fail too.
const NOTICED_BY: &[(Bug, &[&str])] = &[
    (OddRoot, &["refusals::a_pool_is_the_hosts_own_ram_and_its_root_aligned"]),
    (OwnershipLeaked, &["lifecycle::a_vcpu_is_started_by_exactly_one_of_those_who_try"]),
    (StartForgotten, &["guest::calls::a_vcpu_is_started_once"]),
    (StaleOwner, &["race::a_page_that_changes_hands_in_between_is_not_taken_from_its_new_owner"]),
    (
        MeasuredSwapped,
        &[
            "lifecycle::a_page_that_is_taken_back_before_the_start_makes_another_measurement",
            "random::the_core_does_what_the_specification_says",
        ],
    ),
    (EmptyRange, &["refusals::a_range_has_a_page", "random::the_core_does_what_the_specification_says"]),
    (FirstPageMeasured, &["lifecycle::the_start_measures_what_was_kept_in_order"]),
    (
        LentTwice,
        &[
            "refusals::no_page_has_two_roles",
            "transitions::an_ordinary_vm_is_lent_pages_that_stay_the_hosts",
            "random::the_core_does_what_the_specification_says",
        ],
    ),
    (BoundTwice, &["refusals::binding_is_one_to_one_inside_the_guests_space_and_over_when_the_vm_starts"]),
    (GuardOverMemory, &["guest::devices::memory_is_no_device_whatever_the_guard_says"]),
    (RelinquishShared, &["guest::memory::what_cannot_be_given_up"]),
    (
        LeafForgotten,
        &[
            "transitions::the_guest_shares_in_place_and_takes_back_at_once",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
            "random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        WrongVmid,
        &[
            "transitions::what_the_host_takes_by_force_is_wiped_and_poison",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (RangeCutShort, &["maintenance::many_pages_that_leave_at_once_leave_all_tlbs"]),
    (
        CombinedKept,
        &[
            "transitions::sharing_in_a_split_block_writes_one_entry_and_unsharing_pays_one_invalidation",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        OtherCpusForgotten,
        &[
            "transitions::sharing_in_a_split_block_writes_one_entry_and_unsharing_pays_one_invalidation",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        VmidReused,
        &[
            "lifecycle::a_vmid_leaves_all_tlbs_before_it_is_used_again",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
            "random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        PreviousVcpu,
        &[
            "lifecycle::another_vcpu_of_the_vm_on_the_same_cpu_finds_no_stale_translations",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        InstructionsKept,
        &[
            "lifecycle::another_vcpu_of_the_vm_on_the_same_cpu_finds_no_stale_translations",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        TlbiUnfinished,
        &[
            "transitions::sharing_in_a_split_block_writes_one_entry_and_unsharing_pays_one_invalidation",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        IsbForgotten,
        &[
            "transitions::sharing_in_a_split_block_writes_one_entry_and_unsharing_pays_one_invalidation",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        TlbiTooEarly,
        &[
            "transitions::sharing_in_a_split_block_writes_one_entry_and_unsharing_pays_one_invalidation",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        Unpublished,
        &[
            "transitions::populating_a_protected_vm_takes_pages_from_the_host",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        HostKeepsMapping,
        &[
            "transitions::populating_a_protected_vm_takes_pages_from_the_host",
            "oracle::a_whole_life_is_as_it_should_be",
            "random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        StaleObject,
        &[
            "refusals::handles_and_indices_have_bounds",
            "objects::an_old_handle_names_nothing_where_the_short_way_would_do",
            "random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        DyingVm,
        &[
            "lifecycle::long_calls_stop_at_a_bound_and_go_on_where_they_stopped",
            "bounds::what_is_dying_gets_no_page_where_the_short_way_would_do",
        ],
    ),
    (TornWhileLoaded, &["lifecycle::a_vcpu_is_entered_by_one_cpu_and_only_while_its_vm_runs"]),
    (
        NoBreak,
        &[
            "maintenance::a_table_takes_the_place_of_a_block_after_all_tlbs_forgot_the_block",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        BlockTooEarly,
        &[
            "transitions::a_level_1_block_is_one_entry_in_the_guest_too",
            "random::the_core_does_what_the_specification_says",
        ],
    ),
    (FirstPageWiped, &["transitions::a_vm_gives_back_everything_wiped", "script::replay"]),
    (
        WipeForgotten,
        &[
            "transitions::populating_a_protected_vm_takes_pages_from_the_host",
            "transitions::a_vm_gives_back_everything_wiped",
            "oracle::a_whole_life_is_as_it_should_be",
            "transitions::what_the_host_takes_by_force_is_wiped_and_poison",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
            "guest::memory::a_page_is_given_up_and_filled_again",
            "random::the_core_does_what_the_specification_says",
        ],
    ),
    (KeptUncleaned, &["transitions::a_page_changes_hands_only_after_its_old_owner_has_lost_it"]),
    (
        FirstPageCleaned,
        &[
            "lifecycle::the_start_measures_what_was_kept_in_order",
            "lifecycle::long_calls_stop_at_a_bound_and_go_on_where_they_stopped",
            "random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        LentWiped,
        &[
            "transitions::an_ordinary_vm_is_lent_pages_that_stay_the_hosts",
            "random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        PoisonForgotten,
        &[
            "guest::exits::poison_stops_the_vm",
            "transitions::what_the_host_takes_by_force_is_wiped_and_poison",
        ],
    ),
    (BoundBeyond, &["refusals::binding_is_one_to_one_inside_the_guests_space_and_over_when_the_vm_starts"]),
    (AcrossPages, &["guest::devices::what_cannot_be_emulated_is_an_abort_in_the_guest"]),
    (OneTooMany, &["guest::memory::a_range_is_shared_and_taken_back_in_one_call", "script::replay"]),
    (WholeRegister, &["guest::devices::a_write_shows_its_value_and_nothing_more"]),
    (AnswerUnmasked, &["guest::devices::a_read_is_finished_by_the_host"]),
    (AnsweredTwice, &["cpu::mmio::tests::an_access_is_finished_once"]),
    (HighBits, &["refusals::immediates_and_upper_bits_are_refused"]),
    (HiddenFeature, &["cpu::sysreg::tests::a_cpu_with_everything_shows_what_is_on_the_list"]),
    (
        LockOrder,
        &[
            "locks::a_place_is_taken_before_the_hosts_memory_and_nothing_is_kept",
            "protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        CpuOnAgain,
        &[
            "guest::calls::a_vcpu_is_started_once",
            "lifecycle::a_vcpu_is_started_by_exactly_one_of_those_who_try",
            "threads::power::a_vcpu_that_a_cpu_kept_runs_as_if_it_was_looked_at_each_time",
        ],
    ),
    (
        RevokeForgotten,
        &[
            "lifecycle::a_cpu_goes_on_with_what_it_ran_last_unless_something_came_between",
            "guest::devices::a_page_whose_name_another_vcpu_took_back_is_no_device_any_more",
            "threads::power::a_vcpu_that_a_cpu_kept_runs_as_if_it_was_looked_at_each_time",
        ],
    ),
    (ReservedTwice, &["call::psci::host::tests::a_cpu_goes_on_and_off"]),
    (SharedUncounted, &["guest::memory::a_range_is_shared_and_taken_back_in_one_call"]),
    (
        LeftBehind,
        &[
            "lifecycle::long_calls_stop_at_a_bound_and_go_on_where_they_stopped",
            "oracle::a_long_teardown_is_as_it_should_be_after_each_part",
        ],
    ),
    (
        TablesUncounted,
        &[
            "refusals::an_empty_pool_says_how_many_pages_would_do",
            "refusals::an_object_that_the_pool_has_no_tables_for_is_not_made",
        ],
    ),
    (TablesUnreserved, &["refusals::a_machine_that_contradicts_itself_is_refused"]),
    (
        DeniedDevice,
        &[
            "transitions::devices_are_mapped_when_touched_and_denied_ones_never",
            "oracle::a_whole_life_is_as_it_should_be",
        ],
    ),
    (TrapIsFatal, &["guest::exits::whatever_the_syndrome_the_hypervisor_goes_on"]),
    (RetriedForEver, &["transitions::devices_are_mapped_when_touched_and_denied_ones_never"]),
    (FirmwareTrusted, &["boot::device_tree::tests::a_cpu_is_named_once"]),
];

/// The kind of check that a test is, by its module.
const WAYS: &[(&str, &str)] = &[
    ("threads::", "threads at once"),
    ("oracle::", "oracle"),
    ("protocol::", "protocol checker"),
    ("race::", "interleaving"),
    ("random::", "random calls"),
    ("script::", "script"),
    ("search::", "search"),
    ("secrecy::", "secrecy"),
    ("", "unit test"),
];

fn way(test: &str) -> &'static str {
    let found = WAYS.iter().find(|(module, _)| test.starts_with(module));
    found.map_or("", |(_, way)| way)
}

/// Returns true if the test is a unit test of the core. Those are all in modules `tests`.
fn is_of_core(test: &str) -> bool {
    test.contains("::tests::")
}

/// Runs tests with a bug on, or with none. Returns the tests that passed and those that failed.
fn run(bug: Option<Bug>, tests: &[&str]) -> (Vec<String>, Vec<String>) {
    let (of_core, own): (Vec<&str>, Vec<&str>) = tests.iter().partition(|test| is_of_core(test));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--offline", "-p", "hyp-core", "--features", "seeded-bugs", "--lib", "--"]);
    let mut text = String::new();
    for (mut command, tests) in [(Command::new(env::current_exe().unwrap()), own), (cargo, of_core)] {
        if tests.is_empty() {
            continue;
        }
        let output = command
            .args(["--exact", "--test-threads=2"])
            .args(tests)
            .env("CLOISTER_SEEDED", bug.map_or("", Bug::name))
            // Enough cases for the random tests to find the bugs that list them.
            .env("CLOISTER_CASES", "16")
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        text.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    let with = |verdict: &str| {
        let lines = text.lines();
        let ended = lines.filter_map(|line| line.strip_prefix("test ")?.strip_suffix(verdict));
        ended.map(String::from).collect()
    };
    (with(" ... ok"), with(" ... FAILED"))
}

#[test]
fn every_bug_is_on_the_list_once() {
    let mut listed: Vec<Bug> = NOTICED_BY.iter().map(|(bug, _)| *bug).collect();
    listed.sort_unstable();
    assert_eq!(listed, Bug::ALL);
    assert!(NOTICED_BY.iter().all(|(_, tests)| !tests.is_empty()));
}

#[test]
fn each_bug_makes_the_tests_fail_that_are_named_for_it() {
    let mut all: Vec<&str> = NOTICED_BY.iter().flat_map(|(_, tests)| *tests).copied().collect();
    all.sort_unstable();
    all.dedup();
    let (passed, _) = run(None, &all);
    let missing = |test: &&&str| !passed.iter().any(|passed| passed == *test);
    let wrong: Vec<_> = all.iter().filter(missing).collect();
    assert!(wrong.is_empty(), "these tests do not exist, or fail without a bug: {wrong:#?}");

    let mut unnoticed = Vec::new();
    println!("\n{:<17} class  noticed by", "bug");
    for (bug, tests) in NOTICED_BY {
        let (_, failed) = run(Some(*bug), tests);
        println!("{:<17} {:>5} {}", bug.name(), bug.class(), bug.text());
        for test in *tests {
            let seen = failed.iter().any(|failed| failed == test);
            let verdict = if seen { "" } else { "  NOT NOTICED" };
            println!("{:24}{:<16} {test}{verdict}", "", way(test));
            if !seen {
                unnoticed.push(format!("{}: {test}", bug.name()));
            }
        }
    }
    println!("\n{} bugs, {} tests\n", NOTICED_BY.len(), all.len());
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}
