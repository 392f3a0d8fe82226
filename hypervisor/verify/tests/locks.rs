//! The lock order (`docs/locking.md`), in the events of the fake machine.

use hyp_core::machine::event::Event;
use hyp_core::machine::lock::LockId;
use hyp_core::ownership::host::HostAccess;
use shared_abi::addr::{Gfn, Ipa, Pfn};
use shared_abi::host_call::{HostCall, VcpuIndex};

use super::bench_machine::*;

/// Checks that a CPU's lock events keep the order. Returns the number of locks taken.
fn check(hypervisor: &TinyHypervisor) -> usize {
    let mut held: Vec<LockId> = Vec::new();
    let mut taken = 0;
    for (_, event) in hypervisor.machine().take_trace() {
        match event {
            Event::Taken(lock) => {
                let in_order = match held.as_slice() {
                    [] => true,
                    [held] => *held != LockId::HOST && lock == LockId::HOST,
                    _ => false,
                };
                assert!(in_order, "{lock:?} was taken under {held:?}");
                held.push(lock);
                taken += 1;
            }
            Event::Released(lock) => assert_eq!(held.pop(), Some(lock)),
            _ => {}
        }
    }
    assert_eq!(held, [], "held when nobody calls");
    taken
}

#[test]
fn a_place_is_taken_before_the_hosts_memory_and_nothing_is_kept() {
    let hypervisor = tiny();
    check(&hypervisor);
    let vm = TestVm::new(&hypervisor, true, 54, 14);
    let other = TestVm::new(&hypervisor, false, 68, 10);
    vm.populate(&hypervisor, 0, 80, 8).unwrap();
    other.populate(&hypervisor, 0, 90, 2).unwrap();
    vm.start(&hypervisor);
    let guest = vm.load(&hypervisor).unwrap();
    guest.share(guest_pages(GUEST_FIRST, 6)).unwrap();
    guest.unshare(guest_pages(GUEST_FIRST + 1, 2)).unwrap();
    guest.relinquish(Gfn(GUEST_FIRST + 1)).unwrap();
    let _ = guest.classify(Gfn(GUEST_FIRST));
    let _ = guest.power_on(VcpuIndex(0), Ipa(0), 0);
    drop(guest);
    let call = |call| hypervisor.host_call(&call);
    call(HostCall::ForceReclaim { page: Pfn(82) }).unwrap();
    vm.query(&hypervisor, 0);
    call(HostCall::VmCounters { vm: vm.vm }).unwrap();
    vm.reclaim(&hypervisor, 0, 16).unwrap();
    hypervisor.host_abort(Ipa(80 << 12), HostAccess::Read);
    assert!(check(&hypervisor) > 30);
    // A refused call releases its locks too.
    vm.populate(&hypervisor, 0, 90, 1).unwrap_err();
    call(HostCall::ForceReclaim { page: Pfn(90) }).unwrap_err();
    assert!(vm.load(&hypervisor).unwrap().share(guest_pages(0, 1)).is_err());
    check(&hypervisor);
    vm.destroy(&hypervisor).unwrap();
    other.destroy(&hypervisor).unwrap();
    check(&hypervisor);
}
