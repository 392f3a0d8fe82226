//! TLB maintenance, in cases that the tests of transitions do not check in detail.

use std::collections::BTreeSet;

use hyp_core::machine::event::{Barrier, Event, Scope};
use hyp_core::machine::geometry::Level;
use hyp_core::memory::stage2::descriptor::{Kind, kind};
use shared_abi::addr::Pfn;

use super::bench_machine::*;

#[test]
fn many_pages_that_leave_at_once_leave_all_tlbs() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 24);
    // No two frames are adjacent, so each page needs an entry of its own.
    let frame = |offset| 80 + 2 * offset;
    for offset in 0..OBJECT_PAGES {
        vm.populate(&hypervisor, offset, frame(offset), 1).unwrap();
    }
    vm.start(&hypervisor);
    let guest = vm.load(&hypervisor).unwrap();
    let all = guest_pages(GUEST_FIRST, OBJECT_PAGES);
    // One call may do part of the range.
    let mut shared = guest.share(all).unwrap();
    while shared != OBJECT_PAGES {
        let rest = guest_pages(GUEST_FIRST + shared, OBJECT_PAGES - shared);
        shared += guest.share(rest).unwrap();
    }
    assert!((0..OBJECT_PAGES).all(|offset| host_reaches(&hypervisor, frame(offset))));
    let back = guest.unshare(all).unwrap();
    assert!(back > 8, "more than are invalidated one by one");
    assert!(!(0..back).any(|offset| host_reaches(&hypervisor, frame(offset))));
    no_violations(&hypervisor);
}

#[test]
fn a_table_takes_the_place_of_a_block_after_all_tlbs_forgot_the_block() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    vm.populate(&hypervisor, 0, 73, 1).unwrap();
    let host = hypervisor.host_stage2_id();
    // The host's tables as they come into use, and their entries. A free page's link is no entry.
    let mut tables = BTreeSet::from([0, 1].map(|table| host.root.page().0 + table));
    let mut broken: Vec<((Pfn, usize), bool, bool)> = Vec::new();
    let mut splits = 0;
    for event in hypervisor.machine().take_events() {
        match event {
            Event::Write { table, index, value } if tables.contains(&table.0) => {
                let place = (table, index);
                if let Kind::Table(next) = kind(Level::Two, value)
                    && in_host_tables(next)
                {
                    tables.insert(next.0);
                    if let Some((_, told, done)) = broken.iter().find(|(at, ..)| *at == place) {
                        assert!(*told && *done, "{place:?}");
                        splits += 1;
                    }
                }
                broken.retain(|(at, ..)| *at != place);
                if value == 0 {
                    broken.push((place, false, false));
                }
            }
            Event::Tlbi { vmid, scope: Scope::Ipa(_) | Scope::All } if vmid == host.vmid => {
                broken.iter_mut().for_each(|(_, told, _)| *told = true);
            }
            Event::Barrier(Barrier::DsbIsh) => {
                broken.iter_mut().for_each(|(_, told, done)| *done |= *told);
            }
            _ => {}
        }
    }
    assert!(splits >= 2, "a level-1 block and a block");
}

fn in_host_tables(table: Pfn) -> bool {
    (RESERVED.0..RESERVED.0 + RESERVED.1).contains(&table.0)
}
