//! Which tests notice which seeded bug ([`hyp_core::seeded`]): with the bug on each of them fails, without
//! it all pass.
//!
//! `cargo seeded` prints the table. Every bug is tried in a process of its own, which is this binary
//! again, with the bug's name in its environment.

use std::env;
use std::process::Command;

use Bug::*;
use hyp_core::seeded::Bug;

/// The tests that notice each bug, those that say most about it first. Other tests may fail as well.
const NOTICED_BY: &[(Bug, &[&str])] = &[
    (OddRoot, &["tests::refusals::a_pool_is_the_hosts_own_ram_and_its_root_aligned"]),
    (UnalignedShare, &["tests::guest::calls::what_cannot_be_shared"]),
    (HalfObject, &["tests::refusals::an_object_that_the_pool_has_no_tables_for_is_not_made"]),
    (ClaimLeaked, &["tests::lifecycle::a_vcpu_is_started_by_exactly_one_of_those_who_try"]),
    (StartForgotten, &["tests::guest::calls::a_vcpu_is_started_once"]),
    (StaleClaim, &["tests::race::a_page_that_changes_hands_in_between_is_not_taken_from_its_new_owner"]),
    (
        MeasuredSwapped,
        &[
            "tests::lifecycle::a_page_that_is_taken_back_before_the_start_makes_another_measurement",
            "tests::random::the_core_does_what_the_specification_says",
        ],
    ),
    (FarPage, &["tests::refusals::no_page_has_two_roles"]),
    (
        EmptyRange,
        &["tests::refusals::a_range_has_a_page", "tests::random::the_core_does_what_the_specification_says"],
    ),
    (TruncatedCount, &["tests::guest::memory::a_range_that_leaves_the_guests_space_does_nothing"]),
    (
        FirstPageChecked,
        &[
            "tests::refusals::no_page_has_two_roles",
            "tests::random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        LentTwice,
        &[
            "tests::refusals::no_page_has_two_roles",
            "tests::transitions::an_ordinary_vm_is_lent_pages_that_stay_the_hosts",
        ],
    ),
    (
        BoundTwice,
        &["tests::refusals::binding_is_one_to_one_inside_the_guests_space_and_over_when_the_vm_starts"],
    ),
    (GuardOverMemory, &["tests::guest::devices::memory_is_no_device_whatever_the_guard_says"]),
    (RelinquishShared, &["tests::guest::memory::what_cannot_be_given_up"]),
    (
        LeafForgotten,
        &[
            "tests::transitions::the_guest_shares_in_place_and_takes_back_at_once",
            "tests::protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
            "tests::random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        WrongVmid,
        &[
            "tests::transitions::what_the_host_takes_by_force_is_wiped_and_poison",
            "tests::protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (RangeCutShort, &["tests::maintenance::many_pages_that_leave_at_once_leave_all_tlbs"]),
    (
        CombinedKept,
        &[
            "tests::transitions::sharing_in_a_split_block_writes_one_entry_and_unsharing_pays_one_invalidation",
            "tests::protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        VmidReused,
        &[
            "tests::lifecycle::a_vmid_leaves_all_tlbs_before_it_is_used_again",
            "tests::protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
            "tests::random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        PreviousVcpu,
        &[
            "tests::lifecycle::another_vcpu_of_the_vm_on_the_same_cpu_finds_no_stale_translations",
            "tests::protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        TlbiTooEarly,
        &[
            "tests::transitions::sharing_in_a_split_block_writes_one_entry_and_unsharing_pays_one_invalidation",
            "tests::protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        Unpublished,
        &[
            "tests::transitions::populating_a_protected_vm_takes_pages_from_the_host",
            "tests::protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        HostKeepsMapping,
        &[
            "tests::transitions::populating_a_protected_vm_takes_pages_from_the_host",
            "tests::oracle::a_whole_life_is_as_it_should_be",
            "tests::random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        StaleObject,
        &[
            "tests::refusals::handles_and_indices_have_bounds",
            "tests::objects::an_old_handle_names_nothing_where_the_short_way_would_do",
            "tests::random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        DyingVm,
        &[
            "tests::lifecycle::long_calls_stop_at_a_bound_and_go_on_where_they_stopped",
            "tests::bounds::what_is_dying_gets_no_page_where_the_short_way_would_do",
        ],
    ),
    (TornWhileLoaded, &["tests::lifecycle::a_vcpu_is_entered_by_one_cpu_and_only_while_its_vm_runs"]),
    (
        NoBreak,
        &[
            "tests::maintenance::a_table_takes_the_place_of_a_block_after_all_tlbs_forgot_the_block",
            "tests::protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        BlockTooEarly,
        &[
            "tests::transitions::a_giant_is_one_entry_in_the_guest_too",
            "tests::random::the_core_does_what_the_specification_says",
        ],
    ),
    (FirstPageWiped, &["tests::transitions::a_vm_gives_back_everything_wiped", "tests::script::replay"]),
    (
        ReclaimUnwiped,
        &[
            "tests::transitions::what_the_host_takes_by_force_is_wiped_and_poison",
            "tests::protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
            "tests::guest::memory::a_page_is_given_up_and_filled_again",
            "tests::random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        PoolUnwiped,
        &[
            "tests::transitions::a_vm_gives_back_everything_wiped",
            "tests::oracle::a_whole_life_is_as_it_should_be",
        ],
    ),
    (PopulatedUnwiped, &["tests::transitions::populating_a_protected_vm_takes_pages_from_the_host"]),
    (KeptUncleaned, &["tests::transitions::a_page_changes_hands_only_after_its_old_owner_has_lost_it"]),
    (
        LentWiped,
        &[
            "tests::transitions::an_ordinary_vm_is_lent_pages_that_stay_the_hosts",
            "tests::random::the_core_does_what_the_specification_says",
        ],
    ),
    (
        PoisonForgotten,
        &[
            "tests::guest::exits::poison_stops_the_vm",
            "tests::transitions::what_the_host_takes_by_force_is_wiped_and_poison",
        ],
    ),
    (
        BoundBeyond,
        &["tests::refusals::binding_is_one_to_one_inside_the_guests_space_and_over_when_the_vm_starts"],
    ),
    (AcrossPages, &["tests::guest::devices::what_cannot_be_emulated_is_an_abort_in_the_guest"]),
    (
        OneTooMany,
        &["tests::guest::memory::a_range_is_shared_and_taken_back_in_one_call", "tests::script::replay"],
    ),
    (WholeRegister, &["tests::guest::devices::a_write_shows_its_value_and_nothing_more"]),
    (AnswerUnmasked, &["tests::guest::devices::a_read_is_finished_by_the_host"]),
    (AnsweredTwice, &["mmio::tests::an_access_is_finished_once"]),
    (ImmediateIgnored, &["tests::guest::calls::constants_by_both_conduits"]),
    (HighBits, &["psci::host::tests::immediates_and_upper_bits_are_refused"]),
    (HiddenFeature, &["sysreg::tests::a_cpu_with_everything_shows_what_is_on_the_list"]),
    (OrdinaryOffered, &["tests::guest::calls::an_ordinary_vm_is_offered_no_protection"]),
    (
        LockOrder,
        &[
            "tests::locks::a_place_is_taken_before_the_hosts_memory_and_nothing_is_kept",
            "tests::protocol::a_life_keeps_the_rules_and_shows_every_kind_of_duty",
        ],
    ),
    (
        CpuOnAgain,
        &[
            "tests::guest::calls::a_vcpu_is_started_once",
            "tests::lifecycle::a_vcpu_is_started_by_exactly_one_of_those_who_try",
            "tests::concurrent::power::a_vcpu_that_a_cpu_kept_runs_as_if_it_was_looked_at_each_time",
        ],
    ),
    (
        GuardForgotten,
        &[
            "tests::guest::devices::a_page_whose_name_another_vcpu_took_back_is_no_device_any_more",
            "tests::concurrent::power::a_vcpu_that_a_cpu_kept_runs_as_if_it_was_looked_at_each_time",
        ],
    ),
    (
        StopForgotten,
        &[
            "tests::lifecycle::a_cpu_goes_on_with_what_it_ran_last_unless_something_came_between",
            "tests::concurrent::power::a_vcpu_that_a_cpu_kept_runs_as_if_it_was_looked_at_each_time",
        ],
    ),
    (ClaimedTwice, &["psci::host::tests::a_cpu_goes_on_and_off"]),
    (SharedUncounted, &["tests::guest::memory::a_range_is_shared_and_taken_back_in_one_call"]),
    (
        LeftBehind,
        &[
            "tests::lifecycle::long_calls_stop_at_a_bound_and_go_on_where_they_stopped",
            "tests::oracle::a_long_teardown_is_as_it_should_be_after_each_part",
        ],
    ),
    (TablesUncounted, &["tests::refusals::an_empty_pool_says_how_many_pages_would_do"]),
    (TablesUnreserved, &["tests::refusals::a_machine_that_contradicts_itself_is_refused"]),
    (
        DeniedDevice,
        &[
            "tests::transitions::devices_are_mapped_when_touched_and_denied_ones_never",
            "tests::oracle::a_whole_life_is_as_it_should_be",
        ],
    ),
    (TrapIsFatal, &["tests::guest::exits::whatever_the_syndrome_the_hypervisor_goes_on"]),
    (RetriedForEver, &["tests::transitions::devices_are_mapped_when_touched_and_denied_ones_never"]),
    (FirmwareTrusted, &["device_tree::tests::a_cpu_is_named_once"]),
];

/// How a test looks at the core, by the module that it is in.
const WAYS: &[(&str, &str)] = &[
    ("tests::concurrent::", "threads at once"),
    ("tests::oracle::", "oracle"),
    ("tests::protocol::", "protocol checker"),
    ("tests::race::", "interleaving"),
    ("tests::random::", "random calls"),
    ("tests::script::", "script"),
    ("tests::search::", "search"),
    ("tests::secrecy::", "secrecy"),
    ("", "unit test"),
];

fn way(test: &str) -> &'static str {
    let found = WAYS.iter().find(|(module, _)| test.starts_with(module));
    found.map_or("", |(_, way)| way)
}

/// Runs tests with a bug on, or with none; answers which of them passed and which failed.
fn run(bug: Option<Bug>, tests: &[&str]) -> (Vec<String>, Vec<String>) {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--test-threads=2"])
        .args(tests)
        .env("CLOISTER_SEEDED", bug.map_or("", Bug::name))
        // Enough for the random tests to find what they are named for here.
        .env("CLOISTER_CASES", "16")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
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
    assert!(wrong.is_empty(), "not there, or they fail without a bug: {wrong:#?}");

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
