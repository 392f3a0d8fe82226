//! Memory objects as the host uses them: destruction, its effects, and queries.

use hyp_core::limits::MAX_OBJECTS;
use hyp_core::machine::geometry::Geometry;
use shared_abi::addr::{Gfn, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, ObjectPageState};

use super::bench_machine::*;

fn call(hypervisor: &TinyHypervisor, call: HostCall) -> Result<u64, CallError> {
    hypervisor.host_call(&call).map(|x| x[0]).map_err(|failure| failure.error)
}

/// Makes another object of 4 pages.
fn object(hypervisor: &TinyHypervisor, vm: &TestVm) -> ObjectHandle {
    let made = call(hypervisor, HostCall::ObjectCreate { vm: vm.vm, pages: 4 });
    ObjectHandle(made.unwrap().try_into().unwrap())
}

fn bind(hypervisor: &TinyHypervisor, object: ObjectHandle, gfn: u64) -> Result<u64, CallError> {
    call(hypervisor, HostCall::ObjectBind { object, offset: 0, gfn: Gfn(gfn), pages: 4 })
}

#[test]
fn an_empty_object_ends_with_its_own_binding() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 14);
    let [other, third] = [0; 2].map(|_| object(&hypervisor, &vm));
    assert_eq!(bind(&hypervisor, other, 64), Ok(0));
    let destroy = |object| call(&hypervisor, HostCall::ObjectDestroy { object });
    vm.populate(&hypervisor, 0, 72, 1).unwrap();
    assert_eq!(destroy(vm.object), Err(CallError::Denied), "a page is in it");
    vm.reclaim(&hypervisor, 0, 1).unwrap();
    assert_eq!(destroy(vm.object), Ok(0));
    assert_eq!(destroy(vm.object), Err(CallError::NotFound));
    assert_eq!(bind(&hypervisor, third, 64), Err(CallError::Denied), "the other's");
    assert_eq!(bind(&hypervisor, third, GUEST_FIRST), Ok(0));
}

#[test]
fn once_the_vm_has_started_what_is_bound_stays() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 14);
    let other = object(&hypervisor, &vm);
    vm.start(&hypervisor);
    let destroy = |object| call(&hypervisor, HostCall::ObjectDestroy { object });
    assert_eq!(destroy(vm.object), Err(CallError::Denied));
    assert_eq!(destroy(other), Ok(0), "it is not bound");
}

#[test]
fn an_object_ends_with_its_vm_and_leaves_its_place() {
    let hypervisor = tiny();
    for _ in 0..=MAX_OBJECTS {
        let vm = TestVm::new(&hypervisor, true, 54, 14);
        vm.populate(&hypervisor, 0, 72, 1).unwrap();
        vm.destroy(&hypervisor).unwrap();
    }
}

#[test]
fn a_query_answers_as_far_as_the_state_goes() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 14);
    vm.populate(&hypervisor, 0, 72, 4).unwrap();
    vm.start(&hypervisor);
    vm.load(&hypervisor).unwrap().share(guest_pages(GUEST_FIRST + 1, 2)).unwrap();
    assert_eq!(vm.query(&hypervisor, 0), (ObjectPageState::Private, 1));
    assert_eq!(vm.query(&hypervisor, 1), (ObjectPageState::Shared, 2));
    assert_eq!(vm.query(&hypervisor, 2), (ObjectPageState::Shared, 1));
    assert_eq!(vm.query(&hypervisor, 3), (ObjectPageState::Private, 1));
}

#[test]
fn a_page_of_an_object_is_bound_once() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 14);
    let object = vm.object;
    call(&hypervisor, HostCall::ObjectUnbind { object, offset: 0, pages: OBJECT_PAGES }).unwrap();
    let bind =
        |offset, pages, gfn| call(&hypervisor, HostCall::ObjectBind { object, offset, gfn: Gfn(gfn), pages });
    assert_eq!(bind(4, 4, 32), Ok(0));
    for (offset, pages) in [(4, 4), (3, 2), (0, 5), (7, 1), (7, 4), (5, 2), (0, OBJECT_PAGES)] {
        assert_eq!(bind(offset, pages, 64), Err(CallError::Denied), "{pages} pages from {offset} on");
    }
    // The pages right before and right after the binding are free.
    assert_eq!((bind(0, 4, 64), bind(8, 2, 72)), (Ok(0), Ok(0)));
}

#[test]
fn an_old_handle_names_nothing_where_the_short_way_would_do() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 14);
    let populate = |object, offset, first| {
        let (first, content) = (Pfn(first), InitialContent::Zero);
        call(&hypervisor, HostCall::ObjectPopulate { object, offset, first, pages: 1, content })
    };
    let old = object(&hypervisor, &vm);
    call(&hypervisor, HostCall::ObjectDestroy { object: old }).unwrap();
    let new = object(&hypervisor, &vm);
    bind(&hypervisor, new, 64).unwrap();
    assert_eq!(populate(new, 0, 81), Ok(1));
    assert_eq!(populate(old, 1, 82), Err(CallError::NotFound));
    assert_eq!(populate(new, 1, 82), Ok(1), "beside the first");
}

#[test]
fn an_object_has_a_directory_for_each_level_1_block_up_to_sixteen() {
    let hypervisor = tiny();
    let create = |vm, pages| hypervisor.host_call(&HostCall::ObjectCreate { vm, pages });
    let largest = 16 * Tiny::LEVEL1_BLOCK_PAGES;
    let vm = TestVm::new(&hypervisor, true, 54, 40);
    for pages in [0, largest + 1, u64::MAX] {
        let failure = create(vm.vm, pages).unwrap_err();
        assert_eq!(failure.error, CallError::InvalidParameter, "{pages}");
    }
    let object = ObjectHandle(create(vm.vm, largest).unwrap()[0].try_into().unwrap());
    let query = |offset| hypervisor.host_call(&HostCall::ObjectQuery { object, offset });
    let known: Vec<bool> = [0, largest - 1, largest].map(|offset| query(offset).is_ok()).into();
    assert_eq!(known, [true, true, false]);
}
