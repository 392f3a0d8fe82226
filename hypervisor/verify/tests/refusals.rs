//! Refused calls: their errors, and that they change nothing. The random sequences cover combinations. These tests
//! cover the corner cases by name.

use hyp_core::call::host::{HostAction, host_call};
use hyp_core::cpu::registers::Registers;
use hyp_core::machine::event::Event;
use hyp_core::ownership::setup::SetupError;
use shared_abi::addr::{Gfn, Ipa, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{
    HostCall, InitialContent, ObjectHandle, ObjectPageState, VERSION, VcpuIndex, VmHandle,
};

use super::bench_machine::*;

/// Makes a call that must be refused. Checks that it wrote no entry and touched no page.
fn refused(hypervisor: &TinyHypervisor, call: HostCall) -> CallError {
    hypervisor.machine().take_events();
    let failure = hypervisor.host_call(&call).unwrap_err();
    assert_eq!(hypervisor.machine().take_events(), Vec::<Event>::new(), "{call:?}");
    failure.error
}

#[test]
fn immediates_and_upper_bits_are_refused() {
    let hypervisor = tiny();
    let version = u64::from(HostCall::Version.emit().0);
    for (x0, imm, result) in [
        (version, 0, 0),
        (version, 1, CallError::NotSupported.code()),
        (1 << 32 | version, 0, CallError::NotSupported.code()),
    ] {
        let mut registers = Registers { x: [7; 31], ..Registers::default() };
        registers.x[0] = x0;
        assert_eq!(host_call(&hypervisor, &mut registers, imm), HostAction::Resume);
        let x1 = if result == 0 { VERSION } else { 0 };
        assert_eq!(registers.x[..2], [result, x1], "{x0:#x}, immediate {imm}");
        assert_eq!(registers.x[6..], [7; 25]);
    }
}

#[test]
fn a_pool_is_the_hosts_own_ram_and_its_root_aligned() {
    let hypervisor = tiny();
    let create =
        |first, pages| refused(&hypervisor, HostCall::VmCreate { protected: true, first: Pfn(first), pages });
    assert_eq!(create(54, 0), CallError::InvalidParameter);
    assert_eq!(create(54, 2), CallError::InvalidParameter);
    assert_eq!(create(55, 4), CallError::InvalidParameter, "odd");
    assert_eq!(create(54, u64::MAX), CallError::InvalidParameter);
    assert_eq!(create(u64::MAX - 1, 4), CallError::InvalidParameter);
    assert_eq!(create((1 << 52) - 2, 4), CallError::InvalidParameter);
    assert_eq!(create(116, 4), CallError::InvalidParameter, "ends beyond RAM");
    assert_eq!(create(4, 4), CallError::InvalidParameter, "begins before RAM");
    assert_eq!(create(10, 4), CallError::Denied, "the hypervisor's");
    assert_eq!(create(52, 4), CallError::Denied, "begins in the hypervisor's");
    let vm = TestVm::new(&hypervisor, true, 60, 8);
    assert_eq!(create(58, 4), CallError::Denied, "ends in another pool");
    vm.populate(&hypervisor, 0, 70, 1).unwrap();
    assert_eq!(create(70, 4), CallError::Denied, "begins with a guest's page");
    assert_eq!(create(68, 4), CallError::Denied, "a guest's page in the middle");
}

#[test]
fn no_page_has_two_roles() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    let other = TestVm::new(&hypervisor, true, 64, 10);
    vm.populate(&hypervisor, 0, 80, 2).unwrap();
    vm.start(&hypervisor);
    vm.load(&hypervisor).unwrap().share(guest_pages(GUEST_FIRST + 1, 1)).unwrap();
    let populate = |first, pages| {
        let (object, content) = (other.object, InitialContent::Zero);
        refused(
            &hypervisor,
            HostCall::ObjectPopulate { object, offset: 0, first: Pfn(first), pages, content },
        )
    };
    let refuses = || {
        assert_eq!(populate(80, 1), CallError::Denied, "another guest's, private");
        assert_eq!(populate(81, 1), CallError::Denied, "another guest's, shared");
        assert_eq!(populate(79, 2), CallError::Denied, "the last page is bad");
        assert_eq!(populate(81, 2), CallError::Denied, "the first page is bad");
        assert_eq!(populate(56, 1), CallError::Denied, "another VM's pool");
        assert_eq!(populate(66, 1), CallError::Denied, "its own pool");
        assert_eq!(populate(12, 1), CallError::Denied, "the hypervisor's");
        assert_eq!(populate(0, 1), CallError::InvalidParameter, "no RAM");
        assert_eq!(populate(118, 2), CallError::InvalidParameter, "half of it no RAM");
        assert_eq!(populate(1 << 40, 1), CallError::InvalidParameter);
        assert_eq!(populate(u64::MAX, 1), CallError::InvalidParameter);
        assert_eq!(populate(82, 0), CallError::InvalidParameter);
        assert_eq!(populate(82, OBJECT_PAGES + 1), CallError::InvalidParameter);
    };
    refuses();
    // The refusals are the same if the object's chunk is split.
    other.populate(&hypervisor, 2, 90, 1).unwrap();
    refuses();
}

#[test]
fn populating_needs_a_bound_absent_offset_and_content_is_kept_before_the_start_only() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    let populate = |offset, content| {
        let call = HostCall::ObjectPopulate { object: vm.object, offset, first: Pfn(80), pages: 2, content };
        refused(&hypervisor, call)
    };
    vm.populate(&hypervisor, 4, 70, 1).unwrap();
    assert_eq!(populate(4, InitialContent::Zero), CallError::Denied);
    assert_eq!(populate(3, InitialContent::Zero), CallError::Denied);
    assert_eq!(populate(OBJECT_PAGES - 1, InitialContent::Zero), CallError::InvalidParameter);
    assert_eq!(populate(u64::MAX, InitialContent::Zero), CallError::InvalidParameter);
    vm.start(&hypervisor);
    assert_eq!(populate(0, InitialContent::Keep), CallError::Denied);
    let unbound = TestVm::new(&hypervisor, true, 100, 8);
    let unbind = HostCall::ObjectUnbind { object: unbound.object, offset: 0, pages: OBJECT_PAGES };
    hypervisor.host_call(&unbind).unwrap();
    let failure = unbound.populate(&hypervisor, 0, 80, 1).unwrap_err();
    assert_eq!(failure.error, CallError::Denied);
}

#[test]
fn an_empty_pool_says_how_many_pages_would_do() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 4);
    let failure = vm.populate(&hypervisor, 1, 80, 1).unwrap_err();
    assert_eq!(failure.error, CallError::NoMemory);
    assert_eq!(vm.query(&hypervisor, 1).0, ObjectPageState::Absent);
    assert!(host_reaches(&hypervisor, 80));
    let top_up = HostCall::VmTopUp { vm: vm.vm, first: Pfn(90), pages: failure.value };
    hypervisor.host_call(&top_up).unwrap();
    assert_eq!(vm.populate(&hypervisor, 1, 80, 1), Ok(1));
    no_violations(&hypervisor);
}

#[test]
fn an_object_that_the_pool_has_no_tables_for_is_not_made() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 4);
    let create = HostCall::ObjectCreate { vm: vm.vm, pages: OBJECT_PAGES };
    let failure = hypervisor.host_call(&create).unwrap_err();
    assert_eq!((failure.error, failure.value), (CallError::NoMemory, 1));
    assert_eq!(refused(&hypervisor, create), CallError::NoMemory);
}

#[test]
fn a_range_has_a_page() {
    let hypervisor = tiny();
    let TestVm { vm, object, .. } = TestVm::new(&hypervisor, true, 54, 10);
    let first = Pfn(80);
    for call in [
        HostCall::VmTopUp { vm, first, pages: 0 },
        HostCall::ObjectCreate { vm, pages: 0 },
        HostCall::ObjectBind { object, offset: 0, gfn: Gfn(64), pages: 0 },
        HostCall::ObjectUnbind { object, offset: 0, pages: 0 },
        HostCall::ObjectPopulate { object, offset: 0, first, pages: 0, content: InitialContent::Zero },
        HostCall::ObjectReclaim { object, offset: 0, pages: 0 },
    ] {
        assert_eq!(refused(&hypervisor, call), CallError::InvalidParameter, "{call:?}");
    }
}

#[test]
fn binding_is_one_to_one_inside_the_guests_space_and_over_when_the_vm_starts() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 12);
    let second = ObjectHandle(
        hypervisor.host_call(&HostCall::ObjectCreate { vm: vm.vm, pages: 8 }).unwrap()[0].try_into().unwrap(),
    );
    let bind = |object, offset, gfn, pages| HostCall::ObjectBind { object, offset, gfn: Gfn(gfn), pages };
    let refuse = |call| refused(&hypervisor, call);
    assert_eq!(refuse(bind(second, 0, GUEST_FIRST + 15, 1)), CallError::Denied, "taken");
    assert_eq!(refuse(bind(vm.object, 3, 64, 1)), CallError::Denied, "bound twice");
    assert_eq!(refuse(bind(second, 0, 127, 2)), CallError::InvalidParameter);
    assert_eq!(refuse(bind(second, 0, u64::MAX, 1)), CallError::InvalidParameter);
    assert_eq!(refuse(bind(second, 7, 64, 2)), CallError::InvalidParameter);
    assert_eq!(refuse(bind(second, 0, 64, 0)), CallError::InvalidParameter);
    hypervisor.host_call(&bind(second, 0, 64, 2)).unwrap();
    let unbind = |offset, pages| HostCall::ObjectUnbind { object: second, offset, pages };
    assert_eq!(refuse(unbind(0, 1)), CallError::Denied, "another range");
    vm.start(&hypervisor);
    assert_eq!(refuse(unbind(0, 2)), CallError::Denied);
    assert_eq!(refuse(bind(second, 4, 70, 1)), CallError::Denied);
    let destroy = HostCall::ObjectDestroy { object: second };
    assert_eq!(refuse(destroy), CallError::Denied, "still bound");
    let create = HostCall::ObjectCreate { vm: vm.vm, pages: 8 };
    assert_eq!(refuse(create), CallError::Denied);
    let vcpu = HostCall::VcpuCreate { vm: vm.vm, index: VcpuIndex(1) };
    assert_eq!(refuse(vcpu), CallError::Denied);
    let start = HostCall::VmStart { vm: vm.vm, entry: Ipa(0), argument: 0 };
    assert_eq!(refuse(start), CallError::Denied);
}

#[test]
fn unbinding_undoes_that_binding_and_no_other() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 12);
    let create = HostCall::ObjectCreate { vm: vm.vm, pages: OBJECT_PAGES };
    let second = ObjectHandle(hypervisor.host_call(&create).unwrap()[0].try_into().unwrap());
    let unbind = |object, offset, pages| HostCall::ObjectUnbind { object, offset, pages };
    // The offsets equal those of the first object.
    assert_eq!(refused(&hypervisor, unbind(second, 0, OBJECT_PAGES)), CallError::Denied);
    for (offset, pages) in [(0, OBJECT_PAGES - 1), (1, OBJECT_PAGES - 1)] {
        let call = unbind(vm.object, offset, pages);
        assert_eq!(refused(&hypervisor, call), CallError::Denied);
    }
    vm.populate(&hypervisor, 0, 80, 1).unwrap();
    let call = unbind(vm.object, 0, OBJECT_PAGES);
    assert_eq!(refused(&hypervisor, call), CallError::Denied, "a page is there");
}

#[test]
fn handles_and_indices_have_bounds() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    for handle in [0, 1, vm.vm.0 + 1, vm.vm.0 + 0x100, vm.vm.0 | 0xff, u32::MAX] {
        let call = HostCall::VmDestroy { vm: VmHandle(handle) };
        assert_eq!(refused(&hypervisor, call), CallError::NotFound, "{handle:#x}");
    }
    for handle in [0, vm.object.0 + 1, vm.object.0 + 0x100, vm.object.0 | 0xf, u32::MAX] {
        let object = ObjectHandle(handle);
        let call = HostCall::ObjectDestroy { object };
        assert_eq!(refused(&hypervisor, call), CallError::NotFound, "{handle:#x}");
    }
    for index in [0, 2, 16, u32::MAX] {
        let index = VcpuIndex(index);
        let call = HostCall::VcpuCreate { vm: vm.vm, index };
        assert_eq!(refused(&hypervisor, call), CallError::InvalidParameter);
    }
    for page in [70, 54, 10] {
        let call = HostCall::ForceReclaim { page: Pfn(page) };
        assert_eq!(refused(&hypervisor, call), CallError::Denied, "no guest's page");
    }
    for page in [0, 119, u64::MAX] {
        let call = HostCall::ForceReclaim { page: Pfn(page) };
        assert_eq!(refused(&hypervisor, call), CallError::InvalidParameter);
    }
}

#[test]
fn a_machine_that_contradicts_itself_is_refused() {
    let refuse = |ram, reserved| make::<Tiny>(ram, reserved, DENIED).err();
    assert_eq!(refuse((9, 120), RESERVED), Some(SetupError::Ram), "beyond 2^40");
    assert_eq!(refuse(RAM, (8, 44)), Some(SetupError::Reserved), "not RAM");
    assert_eq!(refuse(RAM, (11, 44)), Some(SetupError::Reserved), "an odd root");
    assert_eq!(refuse(RAM, (10, 4)), Some(SetupError::Reserved), "tables beyond it");
}
