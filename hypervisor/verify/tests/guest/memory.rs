//! Ranges of pages that a guest shares, unshares and relinquishes.

use hyp_core::machine::geometry::Geometry;
use hyp_core::vcpu::loaded::GuestPage;
use shared_abi::addr::Pfn;
use shared_abi::host_call::{InitialContent, ObjectHandle, ObjectPageState};
use shared_abi::kvm::function::*;

use super::*;
use crate::bench_machine::{OBJECT_PAGES, host_reaches, no_violations, reached};

const INVALID: [u64; 4] = [u64::MAX - 2, 0, 0, 0];
const NOT_SUPPORTED: [u64; 4] = [u64::MAX, 0, 0, 0];

fn share(offset: u64, granules: u64) -> [u64; 4] {
    [MEM_SHARE.into(), (GUEST_FIRST + offset) << 12, granules, 0]
}

fn unshare(offset: u64, granules: u64) -> [u64; 4] {
    let [_, ipa, granules, zero] = share(offset, granules);
    [MEM_UNSHARE.into(), ipa, granules, zero]
}

fn relinquish(offset: u64) -> [u64; 4] {
    let [_, ipa, zero, _] = share(offset, 0);
    [MEM_RELINQUISH.into(), ipa, zero, 0]
}

/// Success, with this number of pages done.
fn done(pages: u64) -> [u64; 4] {
    [0, pages, 0, 0]
}

fn state(vcpu: &Vcpu<'_>, offset: u64) -> GuestPage {
    vcpu.classify(Gfn(GUEST_FIRST + offset))
}

const SHARED: GuestPage = GuestPage::Bound(ObjectPageState::Shared);
const PRIVATE: GuestPage = GuestPage::Bound(ObjectPageState::Private);
const ABSENT: GuestPage = GuestPage::Bound(ObjectPageState::Absent);

#[test]
fn a_range_is_shared_and_taken_back_in_one_call() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    for (first, pages) in [(0, 4), (1, 2), (0, 3), (2, 2)] {
        assert_eq!(guest.call(&mut vcpu, share(first, pages)), done(pages));
        for offset in 0..4 {
            let inside = (first..first + pages).contains(&offset);
            assert_eq!(state(&vcpu, offset) == SHARED, inside);
            assert_eq!(host_reaches(&guest.hypervisor, 72 + offset), inside);
        }
        let shared = guest.hypervisor.vm_report(guest.vm.vm).unwrap().shared;
        assert_eq!(shared, pages);
        assert_eq!(guest.call(&mut vcpu, unshare(first, pages)), done(pages));
        assert!((0..4).all(|offset| state(&vcpu, offset) == PRIVATE));
    }
    assert_eq!(guest.hypervisor.vm_report(guest.vm.vm).unwrap().shared, 0);
    no_violations(&guest.hypervisor);
}

#[test]
fn a_range_ends_at_the_first_page_that_is_not_as_it_has_to_be() {
    let guest = Guest::new(true);
    // Page 4 is absent, page 5 is poisoned.
    guest.vm.populate(&guest.hypervisor, 5, 90, 1).unwrap();
    guest.vm.reclaim(&guest.hypervisor, 5, 1).unwrap();
    let mut vcpu = guest.load(0);
    assert_eq!(guest.call(&mut vcpu, share(2, 1)), done(1));
    assert_eq!(guest.call(&mut vcpu, share(0, 4)), done(2), "shared");
    assert_eq!(guest.call(&mut vcpu, share(2, 2)), INVALID, "shared");
    assert_eq!(guest.call(&mut vcpu, share(3, 4)), done(1), "absent");
    assert_eq!(guest.call(&mut vcpu, share(5, 1)), INVALID, "poison");
    // An absent page makes an unshare fail, not exit.
    assert_eq!(guest.call(&mut vcpu, unshare(4, 2)), INVALID, "absent");
    assert_eq!(guest.call(&mut vcpu, unshare(1, 1)), done(1));
    assert_eq!(guest.call(&mut vcpu, unshare(0, 16)), done(1), "private");
    assert_eq!(guest.call(&mut vcpu, unshare(2, 16)), done(2), "absent");
    // An absent first page: the host populates it, then the same call runs again and continues.
    let before = snapshot(&mut vcpu).registers.pc;
    let action = guest.call_raw(&mut vcpu, HVC, share(4, 2));
    let gfn = Gfn(GUEST_FIRST + 4);
    assert_eq!(action, GuestAction::Exit(Exit::MemoryFault { gfn }));
    assert_eq!(snapshot(&mut vcpu).registers.pc, before.wrapping_sub(4));
    guest.vm.populate(&guest.hypervisor, 4, 90, 1).unwrap();
    assert_eq!(guest.call(&mut vcpu, share(4, 2)), done(1), "then poison");
    no_violations(&guest.hypervisor);
}

#[test]
fn a_range_that_leaves_the_guests_space_does_nothing() {
    let guest = Guest::new(true);
    let mut vcpu = guest.load(0);
    let to_the_end = Tiny::IPA_PAGES - GUEST_FIRST;
    for pages in [to_the_end + 1, 1 << 52, u64::MAX] {
        assert_eq!(guest.call(&mut vcpu, share(0, pages)), INVALID, "{pages}");
        assert_eq!(state(&vcpu, 0), PRIVATE);
    }
    assert_eq!(guest.call(&mut vcpu, share(0, to_the_end)), done(4));
    let [function, ipa, pages, _] = unshare(0, 4);
    let with_x3 = [function, ipa, pages, 1];
    assert_eq!(guest.call(&mut vcpu, with_x3), INVALID);
}

#[test]
fn a_range_goes_on_in_the_next_binding() {
    let guest = with_two_objects();
    let last = OBJECT_PAGES - 1;
    guest.vm.populate(&guest.hypervisor, last, 90, 1).unwrap();
    let mut vcpu = guest.load(0);
    assert_eq!(guest.call(&mut vcpu, share(last, 8)), done(3));
    for page in [90, 92, 93] {
        assert!(host_reaches(&guest.hypervisor, page));
    }
    assert_eq!(guest.call(&mut vcpu, unshare(last, 3)), done(3));
    no_violations(&guest.hypervisor);
}

/// A guest whose memory has two more pages after its object, from a second object.
fn with_two_objects() -> Guest {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 14);
    let call = |call| hypervisor.host_call(&call).unwrap()[0];
    let pages = HostCall::ObjectCreate { vm: vm.vm, pages: 2 };
    let object = ObjectHandle(u32::try_from(call(pages)).unwrap());
    call(HostCall::ObjectBind { object, offset: 0, gfn: Gfn(GUEST_FIRST + OBJECT_PAGES), pages: 2 });
    call(HostCall::ObjectPopulate {
        object,
        offset: 0,
        first: Pfn(92),
        pages: 2,
        content: InitialContent::Zero,
    });
    vm.start(&hypervisor);
    Guest { hypervisor, vm, trng: Trng::new(&[1; 32]) }
}

#[test]
fn a_page_is_given_up_and_filled_again() {
    let guest = Guest::new(true);
    guest.hypervisor.machine().fill(Pfn(73), 0x77);
    let mut vcpu = guest.load(0);
    let pc = snapshot(&mut vcpu).registers.pc;
    let gfn = Gfn(GUEST_FIRST + 1);
    let action = guest.call_raw(&mut vcpu, HVC, relinquish(1));
    assert_eq!(action, GuestAction::Exit(Exit::Relinquished { gfn }));
    // The host gets an exit, and the guest gets its result.
    assert_eq!(result(&mut vcpu), [0; 4]);
    assert_eq!(snapshot(&mut vcpu).registers.pc, pc);
    assert_eq!(state(&vcpu, 1), ABSENT);
    assert_eq!(reached(&guest.hypervisor, guest.vm.stage2_id, gfn.0), None);
    assert!(host_reaches(&guest.hypervisor, 73));
    assert_eq!(guest.hypervisor.machine().uniform_byte(Pfn(73)), Some(0));
    for offset in [0, 2, 3] {
        assert_eq!(state(&vcpu, offset), PRIVATE, "its neighbours stay");
    }
    // A second relinquish, and one of a page that was never present: no effect, and no exit.
    assert_eq!(guest.call(&mut vcpu, relinquish(1)), [0; 4]);
    assert_eq!(guest.call(&mut vcpu, relinquish(9)), [0; 4]);
    // The host may populate the page again, with any page of its own.
    guest.vm.populate(&guest.hypervisor, 1, 90, 1).unwrap();
    assert_eq!(state(&vcpu, 1), PRIVATE);
    assert_eq!(guest.call(&mut vcpu, share(1, 1)), done(1));
    no_violations(&guest.hypervisor);
}

#[test]
fn what_cannot_be_given_up() {
    let guest = Guest::new(true);
    guest.vm.reclaim(&guest.hypervisor, 2, 1).unwrap();
    let mut vcpu = guest.load(0);
    assert_eq!(guest.call(&mut vcpu, share(1, 1)), done(1));
    let [function, ipa, ..] = relinquish(0);
    for call in [
        relinquish(1),                  // shared
        relinquish(2),                  // poison
        [function, DEVICE << 12, 0, 0], // no memory
        [function, u64::MAX << 12, 0, 0],
        [function, ipa + 8, 0, 0],
        [function, ipa, 1, 0],
        [function, ipa, 0, 1],
    ] {
        assert_eq!(guest.call(&mut vcpu, call), INVALID, "{call:#x?}");
    }
    assert_eq!(state(&vcpu, 0), PRIVATE);
    assert_eq!(state(&vcpu, 1), SHARED);

    let ordinary = Guest::new(false);
    let mut vcpu = ordinary.load(0);
    assert_eq!(ordinary.call(&mut vcpu, relinquish(0)), NOT_SUPPORTED);
}

#[test]
fn giving_up_a_page_of_a_block_waits_for_the_tables_that_it_takes() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 7);
    vm.populate(&hypervisor, 0, 72, 4).unwrap();
    vm.start(&hypervisor);
    let guest = Guest { hypervisor, vm, trng: Trng::new(&[1; 32]) };
    let mut vcpu = guest.load(0);
    let pc = snapshot(&mut vcpu).registers.pc;
    let action = guest.call_raw(&mut vcpu, HVC, relinquish(1));
    let GuestAction::Exit(Exit::NeedPages { pages }) = action else {
        panic!("{action:?}");
    };
    assert_eq!(snapshot(&mut vcpu).registers.pc, pc.wrapping_sub(4), "it runs again");
    assert_eq!(state(&vcpu, 1), PRIVATE);
    let more = HostCall::VmTopUp { vm: guest.vm.vm, first: Pfn(102), pages };
    guest.hypervisor.host_call(&more).unwrap();
    let gfn = Gfn(GUEST_FIRST + 1);
    let action = guest.call_raw(&mut vcpu, HVC, relinquish(1));
    assert_eq!(action, GuestAction::Exit(Exit::Relinquished { gfn }));
    no_violations(&guest.hypervisor);
}
