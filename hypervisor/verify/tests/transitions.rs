//! One test per transition: its effect on every party, and its cost.

use hyp_core::machine::Stage2Id;
use hyp_core::machine::event::{Barrier, Event, Scope};
use hyp_core::machine::geometry::Granule4K;
use hyp_core::ownership::host::{HostAbort, HostAccess};
use hyp_core::transition::ShareError;
use hyp_core::vcpu::loaded::GuestPage;
use shared_abi::addr::{Gfn, Pfn};
use shared_abi::host_call::{HostCall, InitialContent, ObjectPageState};

use super::bench_machine::*;

#[test]
fn at_boot_the_host_reaches_its_ram_and_nothing_else() {
    let hypervisor = tiny();
    for page in 0..128 {
        let reserved = (RESERVED.0..RESERVED.0 + RESERVED.1).contains(&page);
        let ram = (RAM.0..RAM.0 + RAM.1).contains(&page);
        assert_eq!(host_reaches(&hypervisor, page), ram && !reserved, "{page}");
    }
    let level = |page| {
        let translation = hypervisor.machine().walk(hypervisor.host_stage2_id(), page);
        translation.unwrap().level
    };
    assert_eq!(level(54), 3);
    assert_eq!(level(56), 2);
    assert_eq!(level(64), 1);
    assert_eq!(level(118), 3);
    no_violations(&hypervisor);
}

#[test]
fn devices_are_mapped_when_touched_and_denied_ones_never() {
    let hypervisor = tiny();
    let abort = |page: u64, access| hypervisor.host_abort(Gfn(page).base(), access);
    assert_eq!(abort(3, HostAccess::Read), HostAbort::Inject);
    assert_eq!(abort(120, HostAccess::Execute), HostAbort::Inject);
    assert_eq!(abort(128, HostAccess::Read), HostAbort::Inject);
    assert_eq!(abort(120, HostAccess::Write), HostAbort::Retry);
    assert_eq!(abort(4, HostAccess::Write), HostAbort::Retry);
    assert_eq!(abort(2, HostAccess::Read), HostAbort::Retry);
    let walk = |page| hypervisor.machine().walk(hypervisor.host_stage2_id(), page);
    let device = walk(120).unwrap();
    assert_eq!((device.level, device.normal, device.executable), (2, false, false));
    assert_eq!(walk(4).unwrap().level, 2);
    assert_eq!(walk(2).unwrap().level, 3);
    assert_eq!(walk(3), None);
    assert_eq!(walk(0), None);
    // RAM of the host is retried, RAM of the hypervisor is not.
    assert_eq!(abort(HOST_FIRST, HostAccess::Execute), HostAbort::Retry);
    assert_eq!(abort(RESERVED.0, HostAccess::Read), HostAbort::Inject);
    no_violations(&hypervisor);
}

#[test]
fn populating_a_protected_vm_takes_pages_from_the_host() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    hypervisor.machine().fill(Pfn(70), 0x5a);
    hypervisor.machine().fill(Pfn(71), 0xa5);
    assert_eq!(vm.populate(&hypervisor, 3, 70, 1), Ok(1));
    assert_eq!(vm.populate_with(&hypervisor, 4, 71, 1, InitialContent::Keep), Ok(1));
    assert!(!host_reaches(&hypervisor, 70));
    assert!(!host_reaches(&hypervisor, 71));
    assert!(host_reaches(&hypervisor, 72));
    assert_eq!(reached(&hypervisor, vm.stage2_id, GUEST_FIRST + 3), Some(70));
    assert_eq!(reached(&hypervisor, vm.stage2_id, GUEST_FIRST + 4), Some(71));
    assert_eq!(hypervisor.machine().uniform_byte(Pfn(70)), Some(0));
    assert_eq!(hypervisor.machine().uniform_byte(Pfn(71)), Some(0xa5));
    assert_eq!(vm.query(&hypervisor, 0), (ObjectPageState::Absent, 3));
    assert_eq!(vm.query(&hypervisor, 3), (ObjectPageState::Private, 1));
    assert_eq!(hypervisor.host_abort(Gfn(70).base(), HostAccess::Read), HostAbort::Inject);
    no_violations(&hypervisor);
}

#[test]
fn a_block_is_one_entry_everywhere_until_a_part_of_it_leaves() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    let level = |stage2_id, page| {
        let translation = hypervisor.machine().walk(stage2_id, page);
        translation.map(|translation| translation.level)
    };
    // Host page 68 is in a level-1 block with a single entry. The populate takes a block out of it.
    assert_eq!(level(hypervisor.host_stage2_id(), 68), Some(1));
    assert_eq!(vm.populate(&hypervisor, 4, 68, 4), Ok(4));
    assert_eq!(level(vm.stage2_id, GUEST_FIRST + 4), Some(2));
    assert_eq!(level(hypervisor.host_stage2_id(), 72), Some(2));
    assert_eq!(vm.reclaim(&hypervisor, 5, 1), Ok(1));
    assert_eq!(level(vm.stage2_id, GUEST_FIRST + 4), Some(3));
    assert_eq!(level(vm.stage2_id, GUEST_FIRST + 5), None);
    assert!(host_reaches(&hypervisor, 69));
    // The hole is populated with the page that was there, so the block is one entry again.
    assert_eq!(vm.populate(&hypervisor, 5, 69, 1), Ok(1));
    assert_eq!(level(vm.stage2_id, GUEST_FIRST + 4), Some(2));
    // All pages go back, so the host has its level-1 block again.
    assert_eq!(vm.reclaim(&hypervisor, 0, OBJECT_PAGES), Ok(OBJECT_PAGES));
    assert_eq!(level(hypervisor.host_stage2_id(), 68), Some(1));
    no_violations(&hypervisor);
}

#[test]
fn a_block_that_lost_one_page_and_got_it_back_is_one_entry_again() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    let level = |page| {
        let translation = hypervisor.machine().walk(hypervisor.host_stage2_id(), page);
        translation.map(|translation| translation.level)
    };
    for page in [72, 74, 73] {
        assert_eq!(level(75), Some(1));
        assert_eq!(vm.populate(&hypervisor, 0, page, 1), Ok(1));
        assert_eq!(level(75), Some(3));
        assert_eq!(level(76), Some(2));
        assert_eq!(vm.reclaim(&hypervisor, 0, 1), Ok(1));
    }
    assert_eq!(level(75), Some(1));
    no_violations(&hypervisor);
}

#[test]
fn scattered_pages_never_look_like_a_block() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 12);
    let pages = [72, 74, 73, 90];
    for (offset, page) in (4..).zip(pages) {
        assert_eq!(vm.populate(&hypervisor, offset, page, 1), Ok(1));
    }
    // One run whose physical pages are not aligned as the guest's.
    assert_eq!(vm.populate(&hypervisor, 8, 93, 4), Ok(4));
    for (offset, page) in (4..).zip(pages.into_iter().chain(93..97)) {
        assert_eq!(reached(&hypervisor, vm.stage2_id, GUEST_FIRST + offset), Some(page));
        assert_eq!(vm.query(&hypervisor, offset).0, ObjectPageState::Private);
    }
    assert_eq!(vm.reclaim(&hypervisor, 4, 8), Ok(8));
    for page in pages.into_iter().chain(93..97) {
        assert!(host_reaches(&hypervisor, page));
    }
    no_violations(&hypervisor);
}

#[test]
fn a_level_1_block_is_one_entry_in_the_guest_too() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 12);
    assert_eq!(vm.populate(&hypervisor, 0, 80, 16), Ok(16));
    let walk = |stage2_id, page| hypervisor.machine().walk(stage2_id, page);
    assert_eq!(walk(vm.stage2_id, GUEST_FIRST).unwrap().level, 1);
    assert_eq!(walk(hypervisor.host_stage2_id(), 80), None);
    vm.start(&hypervisor);
    let guest = vm.load(&hypervisor).unwrap();
    assert_eq!(guest.share(guest_pages(GUEST_FIRST + 6, 1)), Ok(1));
    assert_eq!(walk(vm.stage2_id, GUEST_FIRST + 6).unwrap().level, 1);
    drop(guest);
    assert_eq!(vm.reclaim(&hypervisor, 6, 1), Ok(1));
    for page in 0..16 {
        let expected = (page != 6).then_some(80 + page);
        assert_eq!(reached(&hypervisor, vm.stage2_id, GUEST_FIRST + page), expected);
        assert_eq!(host_reaches(&hypervisor, 80 + page), page == 6);
    }
    no_violations(&hypervisor);
}

#[test]
fn the_guest_shares_in_place_and_takes_back_at_once() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    vm.populate(&hypervisor, 0, 70, 2).unwrap();
    vm.start(&hypervisor);
    hypervisor.machine().fill(Pfn(70), 0x77);
    let guest = vm.load(&hypervisor).unwrap();
    assert_eq!(guest.classify(Gfn(GUEST_FIRST)), GuestPage::Bound(ObjectPageState::Private));
    assert_eq!(guest.share(guest_pages(GUEST_FIRST, 1)), Ok(1));
    assert_eq!(guest.classify(Gfn(GUEST_FIRST)), GuestPage::Bound(ObjectPageState::Shared));
    assert!(host_reaches(&hypervisor, 70));
    assert!(!host_reaches(&hypervisor, 71));
    assert_eq!(guest.share(guest_pages(GUEST_FIRST, 1)), Err(ShareError::Denied));
    assert_eq!(guest.unshare(guest_pages(GUEST_FIRST, 1)), Ok(1));
    assert!(!host_reaches(&hypervisor, 70));
    assert_eq!(guest.unshare(guest_pages(GUEST_FIRST, 1)), Err(ShareError::Denied));
    assert_eq!(guest.share(guest_pages(GUEST_FIRST + 5, 1)), Err(ShareError::Absent));
    assert_eq!(guest.unshare(guest_pages(GUEST_FIRST + 5, 1)), Err(ShareError::Denied));
    assert_eq!(guest.share(guest_pages(GUEST_FIRST - 1, 1)), Err(ShareError::Denied));
    assert_eq!(guest.classify(Gfn(GUEST_FIRST - 1)), GuestPage::Unbound);
    assert_eq!(guest.classify(Gfn(u64::MAX)), GuestPage::Unbound);
    assert_eq!(hypervisor.machine().uniform_byte(Pfn(70)), Some(0x77));
    no_violations(&hypervisor);
}

#[test]
fn sharing_in_a_split_block_writes_one_entry_and_unsharing_pays_one_invalidation() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    vm.populate(&hypervisor, 0, 72, 4).unwrap();
    vm.start(&hypervisor);
    let guest = vm.load(&hypervisor).unwrap();
    // The first share in a block makes the host's table for the block.
    guest.share(guest_pages(GUEST_FIRST + 1, 1)).unwrap();
    hypervisor.machine().take_events();
    guest.share(guest_pages(GUEST_FIRST, 1)).unwrap();
    let events = hypervisor.machine().take_events();
    assert!(
        matches!(
            events[..],
            [Event::Write { .. }, Event::Barrier(Barrier::DsbIshst), Event::Barrier(Barrier::Isb),]
        ),
        "{events:?}"
    );
    guest.unshare(guest_pages(GUEST_FIRST, 1)).unwrap();
    let events = hypervisor.machine().take_events();
    let vmid = hypervisor.host_stage2_id().vmid;
    let maintenance = [
        Event::Barrier(Barrier::DsbIshst),
        Event::Tlbi { vmid, scope: Scope::Ipa(72) },
        Event::Barrier(Barrier::DsbIsh),
        Event::Tlbi { vmid, scope: Scope::Combined },
        Event::Barrier(Barrier::DsbIsh),
        Event::Barrier(Barrier::Isb),
    ];
    let Some((Event::Write { value: 0, .. }, rest)) = events.split_first() else {
        panic!("{events:?}");
    };
    assert_eq!(rest, maintenance);
}

#[test]
fn what_the_host_takes_by_force_is_wiped_and_poison() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    vm.populate(&hypervisor, 0, 70, 2).unwrap();
    vm.start(&hypervisor);
    hypervisor.machine().fill(Pfn(70), 0x77);
    let reclaim = |page| hypervisor.host_call(&HostCall::ForceReclaim { page: Pfn(page) });
    assert!(reclaim(70).is_ok());
    assert!(reclaim(70).is_err());
    assert!(host_reaches(&hypervisor, 70));
    assert_eq!(hypervisor.machine().uniform_byte(Pfn(70)), Some(0));
    assert_eq!(reached(&hypervisor, vm.stage2_id, GUEST_FIRST), None);
    assert_eq!(vm.query(&hypervisor, 0), (ObjectPageState::Poisoned, 1));
    assert!(vm.populate(&hypervisor, 0, 70, 1).is_err());
    let guest = vm.load(&hypervisor).unwrap();
    assert_eq!(guest.classify(Gfn(GUEST_FIRST)), GuestPage::Bound(ObjectPageState::Poisoned));
    assert_eq!(guest.share(guest_pages(GUEST_FIRST, 1)), Err(ShareError::Denied));
    // The host cannot force-reclaim a shared page: it reaches the page already.
    guest.share(guest_pages(GUEST_FIRST + 1, 1)).unwrap();
    assert!(reclaim(71).is_err());
    no_violations(&hypervisor);
}

#[test]
fn an_ordinary_vm_is_lent_pages_that_stay_the_hosts() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, false, 54, 10);
    vm.populate(&hypervisor, 0, 70, 2).unwrap();
    vm.start(&hypervisor);
    assert!(host_reaches(&hypervisor, 70));
    assert_eq!(reached(&hypervisor, vm.stage2_id, GUEST_FIRST), Some(70));
    assert_eq!(vm.query(&hypervisor, 0), (ObjectPageState::Shared, 2));
    hypervisor.machine().fill(Pfn(70), 0x11);
    assert_eq!(vm.reclaim(&hypervisor, 0, 1), Ok(1));
    assert_eq!(hypervisor.machine().uniform_byte(Pfn(70)), Some(0x11));
    assert_eq!(reached(&hypervisor, vm.stage2_id, GUEST_FIRST), None);
    // The page can be lent again, but not to two VMs.
    assert_eq!(vm.populate(&hypervisor, 0, 70, 1), Ok(1));
    assert!(vm.populate(&hypervisor, 2, 70, 1).is_err());
    no_violations(&hypervisor);
    // A destroy returns only the pool, because the host owned the other pages all along.
    assert_eq!(vm.destroy(&hypervisor), Ok(10));
    assert_eq!(hypervisor.machine().uniform_byte(Pfn(71)), Some(0));
    assert!(TestVm::new(&hypervisor, true, 70, 10).populate(&hypervisor, 0, 54, 1).is_ok());
}

#[test]
fn a_vm_gives_back_everything_wiped() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 12);
    vm.populate(&hypervisor, 0, 68, 8).unwrap();
    vm.populate(&hypervisor, 9, 77, 3).unwrap();
    vm.start(&hypervisor);
    for page in (68..76).chain(77..80) {
        hypervisor.machine().fill(Pfn(page), 0xcc);
    }
    {
        let guest = vm.load(&hypervisor).unwrap();
        guest.share(guest_pages(GUEST_FIRST + 2, 1)).unwrap();
        assert!(vm.destroy(&hypervisor).is_err(), "a vCPU is loaded");
    }
    assert_eq!(vm.destroy(&hypervisor), Ok(12 + 11));
    assert!(vm.destroy(&hypervisor).is_err());
    assert!(vm.load(&hypervisor).is_err());
    for page in HOST_FIRST..RAM.0 + RAM.1 {
        assert!(host_reaches(&hypervisor, page), "{page}");
        assert_eq!(hypervisor.machine().uniform_byte(Pfn(page)), Some(0), "{page}");
    }
    no_violations(&hypervisor);
}

/// Returns the events in order, by name: `g` and `h` mark entries and maintenance of guest and host.
fn story(hypervisor: &TinyHypervisor, guest: Stage2Id) -> String {
    let host = hypervisor.host_stage2_id();
    let in_host_tables = |table: Pfn| table.0 < RESERVED.0 + RESERVED.1;
    let mut story = String::new();
    let mut publishes = true;
    for event in hypervisor.machine().take_events() {
        if let Event::Barrier(Barrier::DsbIshst) | Event::Tlbi { .. } = event {
            publishes = matches!(event, Event::Barrier(_));
        }
        let word = match event {
            Event::Write { table, .. } if in_host_tables(table) => "h-entry",
            // Both object words and guest entries are in the pool's pages; both count as the guest's entry.
            Event::Write { .. } => "g-entry",
            Event::Tlbi { scope: Scope::Combined, .. } => continue,
            Event::Tlbi { vmid, scope: Scope::Ipa(_) } if vmid == host.vmid => "h-tlbi",
            Event::Tlbi { vmid, scope: Scope::Ipa(_) } if vmid == guest.vmid => "g-tlbi",
            Event::Tlbi { .. } => "tlbi",
            Event::Wipe(_) => "wipe",
            Event::Clean(_) => "clean",
            Event::Barrier(Barrier::Isb) if publishes => "publish",
            _ => continue,
        };
        if !story.ends_with(word) {
            story.push(' ');
            story.push_str(word);
        }
    }
    story.trim_start().into()
}

#[test]
fn a_page_changes_hands_only_after_its_old_owner_has_lost_it() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    vm.populate(&hypervisor, 0, 72, 2).unwrap();
    hypervisor.machine().take_events();
    vm.populate(&hypervisor, 2, 74, 1).unwrap();
    assert_eq!(story(&hypervisor, vm.stage2_id), "h-entry h-tlbi wipe g-entry publish");
    vm.reclaim(&hypervisor, 2, 1).unwrap();
    assert_eq!(story(&hypervisor, vm.stage2_id), "g-entry g-tlbi g-entry wipe h-entry publish");
    vm.populate_with(&hypervisor, 2, 74, 1, InitialContent::Keep).unwrap();
    assert_eq!(story(&hypervisor, vm.stage2_id), "h-entry h-tlbi clean g-entry publish");
}

#[test]
fn on_metal_a_block_is_donated_in_one_call_at_the_price_of_one_entry() {
    let hypervisor = make::<Granule4K>((0x40000, 0x4000), (0x40000, 0x400), (0, 1)).unwrap();
    let call = |call: HostCall| hypervisor.host_call(&call).unwrap()[0];
    let vm = shared_abi::host_call::VmHandle(
        call(HostCall::VmCreate { protected: true, first: Pfn(0x40400), pages: 16 }).try_into().unwrap(),
    );
    let object = shared_abi::host_call::ObjectHandle(
        call(HostCall::ObjectCreate { vm, pages: 0x1000 }).try_into().unwrap(),
    );
    call(HostCall::ObjectBind { object, offset: 0, gfn: Gfn(0x40000), pages: 0x1000 });
    let populate = |offset, first, pages| {
        hypervisor.host_call(&HostCall::ObjectPopulate {
            object,
            offset,
            first: Pfn(first),
            pages,
            content: InitialContent::Zero,
        })
    };
    // The first block makes the tables above it.
    populate(0x200, 0x41000, 0x200).unwrap();
    hypervisor.machine().take_events();
    populate(0x400, 0x41200, 0x200).unwrap();
    let writes = hypervisor
        .machine()
        .take_events()
        .iter()
        .filter(|event| matches!(event, Event::Write { .. }))
        .count();
    assert_eq!(writes, 3, "host entry, object word, guest entry");
    // A longer run stops at its bound and returns its progress.
    let failure = populate(0x600, 0x41400, 0x400).unwrap_err();
    assert_eq!(failure.error, shared_abi::error::CallError::Again);
    assert_eq!(failure.value, 0x200);
    let states = vec![0x200_u64, 0x400, 0x600, 0x800];
    let state = |offset| hypervisor.host_call(&HostCall::ObjectQuery { object, offset }).unwrap()[0];
    let states: Vec<u64> = states.into_iter().map(state).collect();
    assert_eq!(states, [1, 1, 1, 0]);
}
