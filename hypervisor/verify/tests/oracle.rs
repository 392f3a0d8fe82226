//! The oracle accepts the core's own states, and names the rule that a tampered state breaks.

mod cases;
mod scene;

use std::collections::BTreeSet;

use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::{ObjectIndex, VmIndex};
use hyp_core::machine::Machine;
use hyp_core::machine::geometry::Granule4K;
use hyp_core::ownership::host::HostAccess;
use hyp_core::ownership::page_state::{ObjectPage, PageState};
use hyp_verify::oracle::changes::Calls;
use hyp_verify::oracle::{Difference, Oracle, OracleRule, Party, check, words_needed};
use shared_abi::addr::{Gfn, Pfn};
use shared_abi::host_call::{HostCall, InitialContent, VcpuIndex};

use super::bench_machine::*;
use cases::CASES;
use scene::{HOST, LENT, OFFSET, OTHER, PRIVATE, Scene, share};

#[test]
fn what_was_tampered_with_is_named() {
    for (what, tamper, rule, party, page) in CASES {
        let scene = Scene::new();
        assert_eq!(check(&scene.hypervisor), Ok(()), "before: {what}");
        tamper(&scene);
        let found = check(&scene.hypervisor).expect_err(what);
        // The pool chooses the page of a vCPU's context.
        let page = if *page == 0 { found.page } else { *page };
        let expected = Difference { rule: *rule, party: *party, page };
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn every_rule_has_been_broken() {
    let mut broken: BTreeSet<OracleRule> = CASES.iter().map(|(_, _, rule, ..)| *rule).collect();
    // The tests below break these two.
    broken.extend([OracleRule::Transition, OracleRule::Wiped]);
    assert_eq!(broken, BTreeSet::from(OracleRule::ALL));
}

fn words<M: Machine>(hypervisor: &Hypervisor<'_, M>) -> Vec<u64> {
    vec![0; words_needed(hypervisor)]
}

#[test]
fn a_page_that_changes_hands_without_a_call_is_named() {
    let scene = Scene::new();
    let hypervisor = &scene.hypervisor;
    let mut words = words(hypervisor);
    let mut oracle = Oracle::new(hypervisor, &mut words).unwrap();
    assert_eq!(oracle.check(hypervisor, || Calls::NONE), Ok(()));
    scene.vms[1].populate(hypervisor, 1, OTHER + 1, 1).unwrap();
    let found = oracle.check(hypervisor, || Calls::RECLAIM).unwrap_err();
    let expected = Difference { rule: OracleRule::Transition, party: Party::Vm(VmIndex(1)), page: OTHER + 1 };
    assert_eq!(found, expected);
    assert_eq!(oracle.check(hypervisor, || Calls::POPULATE), Ok(()));
    assert_eq!(oracle.check(hypervisor, || Calls::NONE), Ok(()), "known");
}

#[test]
fn a_page_that_comes_back_unwiped_is_named() {
    let scene = Scene::new();
    let hypervisor = &scene.hypervisor;
    let mut words = words(hypervisor);
    let mut oracle = Oracle::new(hypervisor, &mut words).unwrap();
    // The host can write to a lent page all along, so a reclaim does not wipe it.
    scene.machine().fill(Pfn(LENT), 0x5a);
    scene.vms[2].reclaim(hypervisor, 0, 1).unwrap();
    assert_eq!(oracle.check(hypervisor, || Calls::RECLAIM), Ok(()));
    scene.vms[0].reclaim(hypervisor, OFFSET + 1, 1).unwrap();
    scene.machine().fill(Pfn(PRIVATE), 0x5a);
    let found = oracle.check(hypervisor, || Calls::RECLAIM).unwrap_err();
    let expected = Difference { rule: OracleRule::Wiped, party: Party::Host, page: PRIVATE };
    assert_eq!(found, expected);
}

#[test]
fn a_whole_life_is_as_it_should_be() {
    let scene = Scene::new();
    let hypervisor = &scene.hypervisor;
    let mut words = words(hypervisor);
    let mut oracle = Oracle::new(hypervisor, &mut words).unwrap();
    let mut agrees = |calls| oracle.check(hypervisor, || calls).unwrap();
    let [protected, other, _] = &scene.vms;
    hypervisor.host_abort(Gfn(2).base(), HostAccess::Read);
    agrees(Calls::NONE);
    share(hypervisor, protected, OFFSET + 1);
    agrees(Calls::GUEST);
    let top_up = HostCall::VmTopUp { vm: protected.vm, first: Pfn(HOST), pages: 4 };
    hypervisor.host_call(&top_up).unwrap();
    agrees(Calls::of(&top_up));
    let populate = protected.populate(hypervisor, 0, 104, 4);
    assert_eq!(populate, Ok(4));
    agrees(Calls::POPULATE);
    let reclaim = HostCall::ForceReclaim { page: Pfn(OTHER) };
    hypervisor.host_call(&reclaim).unwrap();
    agrees(Calls::of(&reclaim));
    assert_eq!(other.reclaim(hypervisor, 0, OBJECT_PAGES), Ok(OBJECT_PAGES));
    agrees(Calls::RECLAIM);
    for vm in &scene.vms {
        vm.destroy(hypervisor).unwrap();
        agrees(Calls::DESTROY);
    }
}

#[test]
fn a_long_teardown_is_as_it_should_be_after_each_part() {
    let hypervisor = make::<Granule4K>((0x1000, 0x3000), (0x1000, 0x100), (0x900, 1)).unwrap();
    let mut words = words(&hypervisor);
    let mut oracle = Oracle::new(&hypervisor, &mut words).unwrap();
    let mut agrees = |calls| oracle.check(&hypervisor, || calls).unwrap();
    let call = |call| hypervisor.host_call(&call).map(|values| values[0]);
    let vm = call(HostCall::VmCreate { protected: true, first: Pfn(0x1200), pages: 64 });
    let vm = shared_abi::host_call::VmHandle(u32::try_from(vm.unwrap()).unwrap());
    let object = call(HostCall::ObjectCreate { vm, pages: 0x2000 });
    let object = shared_abi::host_call::ObjectHandle(u32::try_from(object.unwrap()).unwrap());
    call(HostCall::ObjectBind { object, offset: 0, gfn: Gfn(0x4_0000), pages: 0x2000 }).unwrap();
    let index = VcpuIndex(0);
    call(HostCall::VcpuCreate { vm, index }).unwrap();
    agrees(Calls::DONATE);
    for (offset, first, pages) in [(0, 0x1400, 0x200), (0x200, 0x1800, 3), (0x801, 0x1a05, 70)] {
        call(HostCall::ObjectPopulate {
            object,
            offset,
            first: Pfn(first),
            pages,
            content: InitialContent::Zero,
        })
        .unwrap();
        agrees(Calls::POPULATE);
    }
    let mut parts = 1;
    while call(HostCall::VmDestroy { vm }).is_err() {
        agrees(Calls::DESTROY);
        parts += 1;
    }
    agrees(Calls::DESTROY);
    assert!(parts > 1, "the VM was too small for this test");
}

/// A failed test prints page states.
#[test]
fn a_record_prints_as_whose_page_it_is() {
    let page = ObjectPage::new(VmIndex(3), ObjectIndex(1), 0x21);
    let printed = format!("{:?} {:?}", PageState::HOST, PageState::guest(page));
    assert_eq!(printed, "Host Guest(VmIndex(3) ObjectIndex(1) page 0x21)");
}
