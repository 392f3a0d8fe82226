//! Adjacent pages merge into one entry again.

use hyp_core::machine::Stage2Id;
use shared_abi::addr::Gfn;

use super::bench_machine::*;

/// Returns the level of the entry by which an address space maps a page.
fn level(hypervisor: &TinyHypervisor, stage2_id: Stage2Id, page: u64) -> Option<u32> {
    let found = hypervisor.machine().walk(stage2_id, page);
    found.map(|found| found.level)
}

#[test]
fn pages_shared_one_by_one_end_as_a_block_of_the_hosts() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    vm.populate(&hypervisor, 0, 72, 4).unwrap();
    vm.start(&hypervisor);
    let guest = vm.load(&hypervisor).unwrap();
    let host = hypervisor.host_stage2_id();
    for _ in 0..2 {
        for offset in 0..4 {
            assert_eq!(level(&hypervisor, host, 72 + offset), None);
            assert_eq!(guest.share(guest_pages(GUEST_FIRST + offset, 1)), Ok(1));
        }
        assert_eq!(level(&hypervisor, host, 72), Some(2));
        assert_eq!(level(&hypervisor, vm.stage2_id, GUEST_FIRST), Some(2));
        for offset in [2, 0, 1, 3] {
            assert_eq!(guest.unshare(guest_pages(GUEST_FIRST + offset, 1)), Ok(1));
        }
    }
    drop(guest);
    vm.reclaim(&hypervisor, 0, 4).unwrap();
    assert_eq!(level(&hypervisor, host, 72), Some(1), "a level-1 block of the host's again");
}

#[test]
fn a_run_that_completes_the_next_block_makes_it_one_entry() {
    for (first, then) in [((5, 3), (2, 3)), ((0, 3), (3, 2))] {
        let hypervisor = tiny();
        let vm = TestVm::new(&hypervisor, true, 54, 12);
        for (offset, pages) in [first, then] {
            vm.populate(&hypervisor, offset, 80 + offset, pages).unwrap();
        }
        let whole = if first.0 == 0 { 0 } else { 4 };
        for offset in 0..8 {
            let found = level(&hypervisor, vm.stage2_id, Gfn(GUEST_FIRST + offset).0);
            let in_whole = (whole..whole + 4).contains(&offset);
            let there =
                in_whole || [first, then].iter().any(|(at, pages)| (*at..at + pages).contains(&offset));
            let expected = there.then_some(if in_whole { 2 } else { 3 });
            assert_eq!(found, expected, "offset {offset}");
        }
    }
}
