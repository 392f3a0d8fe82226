//! The life cycle of VMs and vCPUs: when a vCPU may be entered, what the launch measurement covers, and what
//! destruction returns.

use std::thread;

use bootimg::measure::LaunchMeasurement;
use hyp_core::call::psci::ErrorCode;
use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::CpuIndex;
use hyp_core::machine::event::{Event, Scope};
use hyp_core::machine::geometry::Granule4K;
use hyp_core::transition::ShareError;
use hyp_core::vcpu::cache::VcpuCache;
use hyp_core::vcpu::loaded::LoadedVcpu;
use hyp_verify::fake::{Fake, on_cpu};
use shared_abi::addr::{Gfn, Ipa, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, ObjectPageState, VcpuIndex, VmHandle};
use shared_abi::record::Digest;

use super::bench_machine::*;

fn call(hypervisor: &TinyHypervisor, call: HostCall) -> Result<u64, CallError> {
    match hypervisor.host_call(&call) {
        Ok(x) => Ok(x[0]),
        Err(failure) => Err(failure.error),
    }
}

#[test]
fn a_vcpu_is_entered_by_one_cpu_and_only_while_its_vm_runs() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    let load = |cpu, index| {
        let loaded = hypervisor.vcpu_load(CpuIndex(cpu), vm.vm, VcpuIndex(index));
        loaded.map(|_| ())
    };
    assert_eq!(load(0, 0), Err(CallError::Denied), "not started");
    vm.start(&hypervisor);
    assert_eq!(load(2, 0), Err(CallError::InvalidParameter), "no such CPU");
    assert_eq!(load(0, 1), Err(CallError::NotFound), "no such vCPU");
    assert_eq!(load(0, u32::MAX), Err(CallError::NotFound));
    let guest = vm.load(&hypervisor).unwrap();
    assert_eq!(load(1, 0), Err(CallError::Busy), "loaded elsewhere");
    assert_eq!(vm.destroy(&hypervisor).unwrap_err().error, CallError::Busy);
    assert!(!guest.is_stopped());
    guest.stop();
    assert!(guest.is_stopped());
    drop(guest);
    assert_eq!(load(0, 0), Err(CallError::Denied), "stopped");
}

#[test]
fn a_cpu_goes_on_with_what_it_ran_last_unless_something_came_between() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    call(&hypervisor, HostCall::VcpuCreate { vm: vm.vm, index: VcpuIndex(1) }).unwrap();
    vm.start(&hypervisor);
    let on = |cpu| VcpuCache::new(&hypervisor, CpuIndex(cpu));
    let (mut here, mut there) = (on(0), on(1));
    // Returns true if the run took the VM's lock.
    let mut run = |cpu: usize, index, f: &dyn Fn(&LoadedVcpu<'_, '_, Fake<Tiny>>)| {
        hypervisor.machine().take_trace();
        let cache = if cpu == 0 { &mut here } else { &mut there };
        let enter = |vcpu: &mut LoadedVcpu<'_, '_, Fake<Tiny>>| {
            f(vcpu);
            Ok(())
        };
        on_cpu(cpu, || cache.run(vm.vm, VcpuIndex(index), enter))?;
        Ok(hypervisor.machine().take_trace().iter().any(|(_, event)| matches!(event, Event::Taken(_))))
    };
    assert_eq!(run(0, 0, &|_| ()), Ok(true), "for the first time");
    assert_eq!(run(0, 0, &|_| ()), Ok(false));
    assert_eq!(run(1, 0, &|_| ()), Ok(true), "another CPU takes it");
    assert_eq!(run(0, 0, &|_| ()), Ok(true), "and back");
    assert_eq!(run(0, 0, &|_| ()), Ok(false));
    let second_on = |vcpu: &LoadedVcpu<'_, '_, _>| vcpu.power_on(VcpuIndex(1), Ipa(0), 0).unwrap();
    assert_eq!(run(0, 0, &second_on), Ok(true));
    assert_eq!(run(0, 1, &|_| ()), Ok(true), "another vCPU");
    assert_eq!(run(0, 1, &|_| ()), Ok(false));
    assert_eq!(run(0, 1, &|vcpu| vcpu.power_off()), Ok(true));
    assert_eq!(run(0, 1, &|_| ()), Err(CallError::Denied), "it is off");
    assert_eq!(run(0, 0, &second_on), Ok(true));
    assert_eq!(run(1, 1, &|_| ()), Ok(true));
    assert_eq!(run(0, 0, &|vcpu| vcpu.stop()), Ok(true));
    for cpu in 0..2 {
        assert_eq!(run(cpu, cpu as u32, &|_| ()), Err(CallError::Denied), "the VM is stopped");
    }
}

#[test]
fn what_a_cpu_ran_last_keeps_no_vm_alive() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    vm.start(&hypervisor);
    let mut cache = VcpuCache::new(&hypervisor, CpuIndex(0));
    let mut run = |vm| cache.run(vm, VcpuIndex(0), |_| Ok(()));
    assert_eq!(run(vm.vm), Ok(()));
    vm.destroy(&hypervisor).unwrap();
    assert_eq!(run(vm.vm), Err(CallError::NotFound));
    let next = TestVm::new(&hypervisor, true, 54, 10);
    assert_eq!(run(next.vm), Err(CallError::Denied), "not started");
    next.start(&hypervisor);
    assert_eq!(run(vm.vm), Err(CallError::NotFound), "the same place, another VM");
    assert_eq!(run(next.vm), Ok(()));
}

#[test]
fn a_vcpu_is_started_by_exactly_one_of_those_who_try() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    call(&hypervisor, HostCall::VcpuCreate { vm: vm.vm, index: VcpuIndex(1) }).unwrap();
    vm.start(&hypervisor);
    let second = || on_cpu(1, || hypervisor.vcpu_load(CpuIndex(1), vm.vm, VcpuIndex(1)));
    assert_eq!(second().map(|_| ()), Err(CallError::Denied), "off");
    let first = vm.load(&hypervisor).unwrap();
    let on = |index| first.power_on(VcpuIndex(index), Ipa(0x2_0000), 7);
    assert_eq!(first.is_on(VcpuIndex(0)), Some(true));
    assert_eq!(first.is_on(VcpuIndex(1)), Some(false));
    assert_eq!(first.is_on(VcpuIndex(2)), None);
    assert_eq!(on(2), Err(ErrorCode::InvalidParameters));
    assert_eq!(on(0), Err(ErrorCode::AlreadyOn));
    assert_eq!(on(1), Ok(()));
    assert_eq!(on(1), Err(ErrorCode::AlreadyOn));
    let mut started = second().unwrap();
    started.with_context(|_| ());
    // The vCPU turns itself off. Another may start it before its CPU has put it back.
    started.power_off();
    assert_eq!(on(1), Ok(()));
    assert_eq!(second().map(|_| ()), Err(CallError::Busy));
    drop(started);
    assert!(second().is_ok());
}

#[test]
fn another_vcpu_of_the_vm_on_the_same_cpu_finds_no_stale_translations() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    call(&hypervisor, HostCall::VcpuCreate { vm: vm.vm, index: VcpuIndex(1) }).unwrap();
    vm.start(&hypervisor);
    vm.load(&hypervisor).unwrap().power_on(VcpuIndex(1), Ipa(0), 0).unwrap();
    let flushes = |cpu, vcpu| {
        hypervisor.machine().take_events();
        on_cpu(cpu, || {
            let loaded = hypervisor.vcpu_load(CpuIndex(cpu), vm.vm, VcpuIndex(vcpu));
            drop(loaded.unwrap());
        });
        let events = hypervisor.machine().take_events();
        events.contains(&Event::Tlbi { vmid: vm.stage2_id.vmid, scope: Scope::CombinedHere })
    };
    assert!(!flushes(0, 0));
    assert!(!flushes(1, 1));
    assert!(flushes(0, 1));
    assert!(!flushes(0, 1));
    assert!(flushes(0, 0));
    assert!(!flushes(1, 1));
}

#[test]
fn the_start_measures_what_was_kept_in_order() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 14);
    let machine = hypervisor.machine();
    for (page, byte) in [(70, 1), (71, 2), (72, 3)] {
        machine.fill(Pfn(page), byte);
    }
    vm.populate_with(&hypervisor, 4, 70, 2, InitialContent::Keep).unwrap();
    vm.populate_with(&hypervisor, 0, 72, 1, InitialContent::Keep).unwrap();
    vm.populate(&hypervisor, 8, 80, 1).unwrap();
    // A second populate adds to the count.
    vm.populate(&hypervisor, 9, 81, 1).unwrap();
    let mut expected = LaunchMeasurement::new();
    for (offset, byte) in [(4, 1), (5, 2), (0, 3)] {
        expected.page(Gfn(GUEST_FIRST + offset), &[byte; 4096]);
    }
    let expected = expected.finish(Ipa(0x2_0000), 9);
    let x =
        hypervisor.host_call(&HostCall::VmStart { vm: vm.vm, entry: Ipa(0x2_0000), argument: 9 }).unwrap();
    assert_eq!(x[0], 0, "the manifest names none");
    let bytes: Vec<u8> = x[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(bytes, expected.0);
    let report = hypervisor.vm_report(vm.vm).unwrap();
    assert_eq!(report.measurement, Some(expected));
    assert_eq!((report.protected, report.vcpus, report.populated), (true, 1, 5));
}

/// A machine with metal's geometry, and a VM of 16 MiB whose launch measurement should be `expected`.
fn metal(expected: Option<Digest>) -> (Hypervisor<'static, Fake<Granule4K>>, VmHandle, ObjectHandle) {
    let hypervisor = make_expecting((0x40000, 0x4000), (0x40000, 0x400), (0, 1), expected).unwrap();
    let call = |call: HostCall| u32::try_from(hypervisor.host_call(&call).unwrap()[0]).unwrap();
    let vm = VmHandle(call(HostCall::VmCreate { protected: true, first: Pfn(0x40400), pages: 32 }));
    let object = ObjectHandle(call(HostCall::ObjectCreate { vm, pages: 0x1000 }));
    call(HostCall::ObjectBind { object, offset: 0, gfn: Gfn(0x40000), pages: 0x1000 });
    call(HostCall::VcpuCreate { vm, index: VcpuIndex(0) });
    (hypervisor, vm, object)
}

/// The launch measurement covers only pages that are present at the start: a reclaimed page voids it.
#[test]
fn a_page_that_is_taken_back_before_the_start_makes_another_measurement() {
    let taken_by = [
        |object, _| HostCall::ObjectReclaim { object, offset: 0, pages: 1 },
        |_, page| HostCall::ForceReclaim { page },
    ];
    for call in taken_by {
        let mut expected = LaunchMeasurement::new();
        expected.page(Gfn(0x40000), &[0xaa; 4096]);
        let expected = expected.finish(Ipa(0x4000_0000), 0);
        let start = |take: bool| {
            let (hypervisor, vm, object) = metal(Some(expected));
            let page = Pfn(0x41000);
            hypervisor.machine().fill(page, 0xaa);
            let populate =
                |content| HostCall::ObjectPopulate { object, offset: 0, first: page, pages: 1, content };
            hypervisor.host_call(&populate(InitialContent::Keep)).unwrap();
            if take {
                hypervisor.host_call(&call(object, page)).unwrap();
                hypervisor.host_call(&populate(InitialContent::Zero)).unwrap();
            }
            let start = HostCall::VmStart { vm, entry: Ipa(0x4000_0000), argument: 0 };
            hypervisor.host_call(&start).unwrap()[0]
        };
        assert_eq!((start(false), start(true)), (1, 0));
    }
}

#[test]
fn long_calls_stop_at_a_bound_and_go_on_where_they_stopped() {
    let mut expected = LaunchMeasurement::new();
    for gfn in 0x40000..0x40000 + 100 {
        expected.page(Gfn(gfn), &[0; 4096]);
    }
    let expected = expected.finish(Ipa(0), 0);
    let (hypervisor, vm, object) = metal(Some(expected));
    let populate = |offset, first, pages, content| {
        hypervisor.host_call(&HostCall::ObjectPopulate { object, offset, first: Pfn(first), pages, content })
    };
    let failure = populate(0, 0x41000, 100, InitialContent::Keep).unwrap_err();
    assert_eq!((failure.error, failure.value), (CallError::Again, 64));
    assert_eq!(populate(64, 0x41040, 36, InitialContent::Keep).unwrap()[0], 36);
    for block in 1..4 {
        populate(0x200 * block, 0x41000 + 0x200 * block, 0x200, InitialContent::Zero).unwrap();
    }
    let start = hypervisor.host_call(&HostCall::VmStart { vm, entry: Ipa(0), argument: 0 });
    assert_eq!(start.unwrap()[0], 1, "as the manifest says");

    let mut returned = 0;
    let mut calls = 0;
    loop {
        calls += 1;
        match hypervisor.host_call(&HostCall::VmDestroy { vm }) {
            Ok(x) => {
                returned += x[0];
                break;
            }
            Err(failure) => {
                assert_eq!(failure.error, CallError::Again);
                assert!(failure.value <= 512);
                returned += failure.value;
            }
        }
        let query = hypervisor.host_call(&HostCall::ObjectQuery { object, offset: 0 });
        assert_eq!(query.unwrap_err().error, if calls < 5 { CallError::Busy } else { CallError::NotFound });
    }
    assert_eq!(returned, 100 + 3 * 512 + 32);
    assert!(calls > 3, "{calls}");
    let counters = hypervisor.host_call(&HostCall::VmCounters { vm });
    assert_eq!(counters.unwrap_err().error, CallError::NotFound);
}

#[test]
fn a_vmid_leaves_all_tlbs_before_it_is_used_again() {
    let hypervisor = tiny();
    let vm = TestVm::new(&hypervisor, true, 54, 10);
    vm.populate(&hypervisor, 0, 70, 1).unwrap();
    assert_eq!(reached(&hypervisor, vm.stage2_id, GUEST_FIRST), Some(70));
    vm.destroy(&hypervisor).unwrap();
    assert_eq!(hypervisor.machine().remembered(vm.stage2_id, GUEST_FIRST), None);
    let next = TestVm::new(&hypervisor, true, 54, 10);
    assert_eq!(next.stage2_id, vm.stage2_id);
    assert_ne!(next.vm, vm.vm);
    assert_eq!(reached(&hypervisor, next.stage2_id, GUEST_FIRST), None);
    // The old handles must name nothing.
    assert!(vm.populate(&hypervisor, 0, 70, 1).is_err());
    assert_eq!(vm.load(&hypervisor).map(|_| ()), Err(CallError::NotFound));
}

#[test]
fn host_and_guests_call_at_once_and_nothing_is_lost() {
    let hypervisor = tiny();
    let vms = [TestVm::new(&hypervisor, true, 54, 14), TestVm::new(&hypervisor, true, 68, 8)];
    for (vm, first) in vms.iter().zip([76, 80]) {
        vm.populate(&hypervisor, 0, first, 4).unwrap();
        vm.start(&hypervisor);
    }
    thread::scope(|scope| {
        for (cpu, vm) in vms.iter().enumerate() {
            let hypervisor = &hypervisor;
            let run = move || {
                for turn in 0..200_u64 {
                    let gfn = Gfn(GUEST_FIRST + turn % 4);
                    let guest = hypervisor.vcpu_load(CpuIndex(cpu), vm.vm, VcpuIndex(0)).unwrap();
                    match guest.share(guest_pages(gfn.0, 1)) {
                        Ok(done) => assert_eq!(guest.unshare(guest_pages(gfn.0, 1)), Ok(done)),
                        Err(error) => assert_eq!(error, ShareError::Denied, "reclaimed"),
                    }
                }
            };
            scope.spawn(move || on_cpu(cpu, run));
        }
        // Meanwhile the host force-reclaims pages, populates and reclaims others, and queries.
        let hypervisor = &hypervisor;
        let first = &vms[0];
        let host = move || {
            for turn in 0..200_u64 {
                let _ = call(hypervisor, HostCall::ForceReclaim { page: Pfn(76) });
                assert_eq!(first.populate(hypervisor, 4 + turn % 8, 90, 1), Ok(1));
                assert_eq!(first.query(hypervisor, 4 + turn % 8).0, ObjectPageState::Private);
                // The first two turns must not poison these offsets, because each offset is reclaimed once.
                if turn == 7 {
                    break;
                }
                assert_eq!(first.reclaim(hypervisor, 4 + turn % 8, 1), Ok(1));
            }
        };
        scope.spawn(move || on_cpu(2, host));
    });
    for page in 77..84 {
        assert!(!host_reaches(&hypervisor, page), "{page}");
    }
    let shared = hypervisor.vm_report(vms[1].vm).unwrap().shared;
    assert_eq!(shared, 0);
    no_violations(&hypervisor);
}
