//! Limits of tables, bounds of the work in one call, and counters.

use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::{CpuIndex, MAX_VCPUS};
use hyp_core::machine::geometry::{Geometry, Granule4K};
use hyp_core::ownership::host::{HostAbort, HostAccess};
use hyp_core::verify;
use hyp_verify::fake::Fake;
use shared_abi::addr::{Gfn, Ipa, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, ObjectPageState, VcpuIndex, VmHandle};

use super::bench_machine::*;

fn create<G: Geometry>(
    hypervisor: &Hypervisor<'_, Fake<G>>,
    first: u64,
    pages: u64,
) -> Result<VmHandle, CallError> {
    let call = HostCall::VmCreate { protected: true, first: Pfn(first), pages };
    let x = hypervisor.host_call(&call).map_err(|failure| failure.error)?;
    Ok(VmHandle(x[0].try_into().unwrap()))
}

#[test]
fn a_pool_grows_by_4096_pages_a_call_at_most() {
    let hypervisor = make::<Granule4K>((0x40000, 0x8000), (0x40000, 0x400), (0, 1)).unwrap();
    let too_many = Err(CallError::InvalidParameter);
    assert_eq!(create(&hypervisor, 0x41000, 4097), too_many);
    assert_eq!(create(&hypervisor, 0x41000, 2), too_many, "no page but the root");
    let vm = create(&hypervisor, 0x41000, 4096).unwrap();
    assert!(create(&hypervisor, 0x42000, 3).is_ok());
    let top_up = |pages| {
        let first = Pfn(0x44000);
        hypervisor.host_call(&HostCall::VmTopUp { vm, first, pages })
    };
    assert_eq!(top_up(4097).unwrap_err().error, CallError::InvalidParameter);
    assert!(top_up(4096).is_ok());
}

#[test]
fn a_vm_has_sixteen_vcpus_at_most() {
    let hypervisor = tiny();
    let vm = create(&hypervisor, 54, 30).unwrap();
    let add = |index: usize| {
        let index = VcpuIndex(index as u32);
        let added = hypervisor.host_call(&HostCall::VcpuCreate { vm, index });
        added.map(|_| ()).map_err(|failure| failure.error)
    };
    for index in 0..MAX_VCPUS {
        assert_eq!(add(index), Ok(()));
    }
    assert_eq!(add(MAX_VCPUS), Err(CallError::Full));
    let report = hypervisor.vm_report(vm).unwrap();
    assert_eq!(report.vcpus, MAX_VCPUS as u64);
}

#[test]
fn what_was_lent_goes_back_a_bounded_part_at_a_time_too() {
    let hypervisor = make::<Short>(RAM, RESERVED, DENIED).unwrap();
    let call = |call: HostCall| hypervisor.host_call(&call).unwrap()[0];
    let vm = VmHandle(call(HostCall::VmCreate { protected: false, first: Pfn(54), pages: 12 }) as u32);
    let object = ObjectHandle(call(HostCall::ObjectCreate { vm, pages: 16 }) as u32);
    call(HostCall::ObjectBind { object, offset: 0, gfn: Gfn(GUEST_FIRST), pages: 16 });
    for offset in (0..16).step_by(4) {
        call(HostCall::ObjectPopulate {
            object,
            offset,
            first: Pfn(72 + offset),
            pages: 4,
            content: InitialContent::Zero,
        });
    }
    let mut again = 0;
    while let Err(CallFailure { error, value }) = hypervisor.host_call(&HostCall::VmDestroy { vm }) {
        assert_eq!(error, CallError::Again);
        assert!(value <= Short::PAGES_PER_CALL);
        again += 1;
    }
    assert!(again >= 4 + 2, "four blocks, and a pool of 12 pages: {again}");
}

#[test]
fn an_object_in_which_nothing_is_costs_a_teardown_nothing() {
    let hypervisor = make::<Short>(RAM, RESERVED, DENIED).unwrap();
    let vm = create(&hypervisor, 54, 3).unwrap();
    let calls = |vm| {
        let destroy = || hypervisor.host_call(&HostCall::VmDestroy { vm });
        1 + core::iter::repeat_with(destroy).take_while(Result::is_err).count()
    };
    let without = calls(vm);
    let vm = create(&hypervisor, 54, 3).unwrap();
    hypervisor.host_call(&HostCall::ObjectCreate { vm, pages: 16 }).unwrap();
    assert!(calls(vm) <= without + 1);
}

#[test]
fn what_vcpus_have_counted_is_there_to_the_end() {
    let hypervisor = make::<Short>(RAM, RESERVED, DENIED).unwrap();
    let new = || {
        let vm = create(&hypervisor, 54, 20).unwrap();
        hypervisor.host_call(&HostCall::VcpuCreate { vm, index: VcpuIndex(0) }).unwrap();
        vm
    };
    let vm = new();
    hypervisor.host_call(&HostCall::VmStart { vm, entry: Ipa(0), argument: 0 }).unwrap();
    let vcpu = hypervisor.vcpu_load(CpuIndex(0), vm, VcpuIndex(0)).unwrap();
    verify::count(&vcpu, 1, 2);
    let counts = |vm| hypervisor.vm_report(vm).map(|report| [report.hypercalls, report.exits]);
    assert_eq!(counts(vm), Some([1, 2]), "at once");
    drop(vcpu);
    assert_eq!(counts(vm), Some([1, 2]));
    let mut again = 0;
    while let Err(failure) = hypervisor.host_call(&HostCall::VmDestroy { vm }) {
        assert_eq!(failure.error, CallError::Again);
        assert_eq!(counts(vm), Some([1, 2]), "after {again} parts of its end");
        again += 1;
    }
    assert!(again > 2, "{again}");
    assert_eq!(counts(vm), None);
    assert_eq!(counts(new()), Some([0, 0]), "the next in the place");
}

#[test]
fn the_report_counts_pages_that_come_and_go() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 12);
    vm.populate(&hypervisor, 0, 72, 6).unwrap();
    vm.start(&hypervisor);
    let counts = || {
        let report = hypervisor.vm_report(vm.vm).unwrap();
        [report.populated, report.returned, report.shared]
    };
    assert_eq!(counts(), [6, 0, 0]);
    let guest = vm.load(&hypervisor).unwrap();
    guest.share(guest_pages(GUEST_FIRST, 3)).unwrap();
    assert_eq!(counts(), [6, 0, 3]);
    guest.unshare(guest_pages(GUEST_FIRST, 1)).unwrap();
    guest.relinquish(Gfn(GUEST_FIRST)).unwrap();
    assert_eq!(counts(), [6, 1, 2]);
    drop(guest);
    vm.reclaim(&hypervisor, 1, 3).unwrap();
    assert_eq!(counts(), [6, 4, 0]);
    let reclaim = HostCall::ForceReclaim { page: Pfn(76) };
    hypervisor.host_call(&reclaim).unwrap();
    assert_eq!(counts(), [6, 5, 0]);
    vm.populate(&hypervisor, 0, 72, 1).unwrap();
    assert_eq!(counts(), [7, 5, 0]);
}

#[test]
fn a_reclaim_that_runs_out_of_tables_says_how_far_it_came() {
    let hypervisor = tiny();
    // The pool has root, directory, vCPU and a table for two blocks. The rest is enough for a split, but not enough
    // for the check before another split.
    let vm = TestVm::new(&hypervisor, true, 54, 8);
    vm.populate(&hypervisor, 0, 72, 4).unwrap();
    vm.populate(&hypervisor, 4, 76, 4).unwrap();
    let failure = vm.reclaim(&hypervisor, 2, 6).unwrap_err();
    assert_eq!((failure.error, failure.value), (CallError::Again, 2));
    let failure = vm.reclaim(&hypervisor, 4, 4).unwrap_err();
    assert_eq!((failure.error, failure.value), (CallError::NoMemory, 2));
    let states: Vec<_> = [1, 2, 3, 4].map(|offset| vm.query(&hypervisor, offset).0).into();
    let (here, gone) = (ObjectPageState::Private, ObjectPageState::Absent);
    assert_eq!(states, [here, gone, gone, here]);
}

#[test]
fn what_is_dying_gets_no_page_where_the_short_way_would_do() {
    let hypervisor = make::<Short>(RAM, RESERVED, DENIED).unwrap();
    let call = |call| hypervisor.host_call(&call).map(|x| x[0]).map_err(|failure| failure.error);
    let vm = create(&hypervisor, 54, 14).unwrap();
    let object = call(HostCall::ObjectCreate { vm, pages: 16 }).unwrap();
    let object = ObjectHandle(object.try_into().unwrap());
    call(HostCall::ObjectBind { object, offset: 0, gfn: Gfn(GUEST_FIRST), pages: 16 }).unwrap();
    call(HostCall::VcpuCreate { vm, index: VcpuIndex(0) }).unwrap();
    let populate = |offset, first| {
        let (first, content) = (Pfn(first), InitialContent::Zero);
        call(HostCall::ObjectPopulate { object, offset, first, pages: 1, content })
    };
    for (offset, page) in [(0, 80), (1, 81), (4, 84), (5, 85), (8, 88), (9, 89)] {
        populate(offset, page).unwrap();
    }
    assert_eq!(call(HostCall::VmDestroy { vm }), Err(CallError::Again));
    assert_eq!(populate(2, 90), Err(CallError::Busy));
    while call(HostCall::VmDestroy { vm }) == Err(CallError::Again) {}
    assert_eq!(hypervisor.host_abort(Ipa(90 << 12), HostAccess::Read), HostAbort::Retry, "the host's");
}
