//! The machines that the core accepts, and the host's memory on them.

use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::{MAX_CPUS, MAX_DENIED, MAX_REGIONS};
use hyp_core::ownership::setup::{Setup, SetupError};
use hyp_verify::fake::Fake;
use shared_abi::addr::Pfn;
use shared_abi::host_call::{HostCall, InitialContent};

use super::bench_machine::*;

/// A machine. Its memory for tables and page states may be less than the core needs.
#[derive(Clone)]
struct Given {
    ram: Vec<(u64, u64)>,
    denied: Vec<(u64, u64)>,
    /// The first page of the tables, which fill the hypervisor's reserved memory.
    tables: u64,
    cpus: usize,
    tables_short: u64,
    owner_words_short: usize,
}

impl Given {
    fn new(ram: &[(u64, u64)]) -> Self {
        Self {
            ram: ram.to_vec(),
            denied: vec![DENIED],
            tables: 10,
            cpus: 2,
            tables_short: 0,
            owner_words_short: 0,
        }
    }

    fn set_up(&self) -> Result<TinyHypervisor, SetupError> {
        let ranges = |ranges: &[(u64, u64)]| -> &'static [_] {
            let ranges = ranges.iter().map(|(first, pages)| range(*first, *pages));
            ranges.collect::<Vec<_>>().leak()
        };
        let (ram, denied_devices) = (ranges(&self.ram), ranges(&self.denied));
        let needs = TinyHypervisor::needs(ram, denied_devices);
        let tables = (self.tables, needs.tables - self.tables_short);
        let words = vec![u64::MAX; needs.owner_words - self.owner_words_short];
        let setup = Setup {
            ram,
            reserved: ranges(&[tables]),
            denied_devices,
            owner_words: Box::leak(words.into_boxed_slice()),
            tables: range(tables.0, tables.1),
            cpus: self.cpus,
            expected: None,
        };
        Hypervisor::new(Fake::checked(), setup)
    }

    fn refusal(&self) -> Option<SetupError> {
        self.set_up().err()
    }
}

#[test]
fn as_much_as_it_asks_for_is_enough_and_a_bit_less_is_not() {
    let given = Given::new(&[RAM]);
    assert_eq!(given.refusal(), None);
    let tables_short = Given { tables_short: 1, ..given.clone() };
    assert_eq!(tables_short.refusal(), Some(SetupError::TooSmall));
    let owner_words_short = Given { owner_words_short: 1, ..given };
    assert_eq!(owner_words_short.refusal(), Some(SetupError::TooSmall));
}

#[test]
fn ram_is_ascending_apart_and_within_reach() {
    for ram in [&[(9, 119)][..], &[(9, 60), (69, 59)], &[(9, 60), (80, 40)]] {
        assert_eq!(Given::new(ram).refusal(), None, "{ram:?}");
    }
    for ram in [&[(9, 120)][..], &[(9, 60), (68, 40)], &[(80, 40), (9, 60)], &[(9, 60), (80, 49)]] {
        assert_eq!(Given::new(ram).refusal(), Some(SetupError::Ram), "{ram:?}");
    }
}

#[test]
fn there_may_be_so_many_of_each_and_no_more() {
    // The tables are in the first range. Each block after it has a page.
    let ram = |ranges: usize| -> Vec<_> {
        let more = (0..).map(|next| (72 + 4 * next, 1)).take(ranges - 1);
        [(9, 60)].into_iter().chain(more).collect()
    };
    assert_eq!(Given::new(&ram(MAX_REGIONS)).refusal(), None);
    let too_many = Some(SetupError::TooMany);
    assert_eq!(Given::new(&ram(MAX_REGIONS + 1)).refusal(), too_many);
    for (cpus, denied, refusal) in
        [(MAX_CPUS, MAX_DENIED, None), (MAX_CPUS + 1, 1, too_many), (1, MAX_DENIED + 1, too_many)]
    {
        let given = Given {
            cpus,
            denied: vec![(3, 1); denied],
            // Each denied range needs tables.
            ..Given::new(&[(9, 119)])
        };
        assert_eq!(given.refusal(), refusal, "{cpus} CPUs, {denied} ranges");
    }
}

#[test]
fn each_range_of_ram_is_used_and_the_hole_between_is_none() {
    let ram = [(9, 60), (82, 40)];
    let hypervisor = Given::new(&ram).set_up().unwrap();
    hypervisor.machine().watch(hypervisor.host_stage2_id());
    let needs = TinyHypervisor::needs(&ram.map(|(first, pages)| range(first, pages)), &[range(3, 1)]);
    for page in 0..128 {
        let reserved = (10..10 + needs.tables).contains(&page);
        let in_ram = (9..69).contains(&page) || (82..122).contains(&page);
        assert_eq!(host_reaches(&hypervisor, page), in_ram && !reserved, "page {page}");
    }
    let vm = TestVm::new(&hypervisor, true, 84, 12);
    vm.populate(&hypervisor, 0, 100, 8).unwrap();
    vm.start(&hypervisor);
    assert!(!host_reaches(&hypervisor, 103) && host_reaches(&hypervisor, 108));
    for (first, pages) in [(68, 2), (69, 1), (81, 1), (81, 2), (121, 2)] {
        let call = HostCall::ObjectPopulate {
            object: vm.object,
            offset: 8,
            first: Pfn(first),
            pages,
            content: InitialContent::Zero,
        };
        let failure = hypervisor.host_call(&call).unwrap_err();
        let wrong = shared_abi::error::CallError::InvalidParameter;
        assert_eq!(failure.error, wrong, "{first}, {pages}");
    }
    assert_eq!(vm.destroy(&hypervisor), Ok(20));
    assert!((82..122).all(|page| host_reaches(&hypervisor, page)));
}
