//! Lives of VMs on the fake machine.

use shared_abi::addr::{Gfn, Ipa};
use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, InitialContent};

use super::*;
use crate::layout::{GuestConfig, PageContent};
use crate::machine::VirtioKind;
use crate::testing::{Fake, FakeMachine, PAGES};

pub(crate) const CONFIG: GuestConfig<'static> = GuestConfig {
    vcpus: 2,
    memory_bytes: 10 << 20,
    devices: &[VirtioKind::Console, VirtioKind::Block],
    bootargs: "",
    payload: &[0xd5; 3 * 4096],
    initrd: &[0x11; 150 * 4096],
};

fn launch(machine: &FakeMachine, protected: bool) -> (GuestVm, Resources<Fake>) {
    let mut resources = machine.resources();
    let layout = GuestLayout::new(&CONFIG).unwrap();
    let (vm, _) = GuestVm::launch(&mut resources, &layout, protected).unwrap();
    (vm, resources)
}

/// The launch image as the hypervisor saw it populated: guest pages in order.
fn populated(machine: &FakeMachine) -> Vec<(u64, InitialContent)> {
    let mut pages = Vec::new();
    for call in &machine.0.borrow().calls {
        if let HostCall::ObjectPopulate { offset, pages: count, content, .. } = call {
            pages.extend((*offset..offset + count).map(|page| (page, *content)));
        }
    }
    pages.dedup();
    pages
}

#[test]
fn the_launch_image_is_populated_in_order() {
    let machine = FakeMachine::new();
    let (vm, resources) = launch(&machine, true);
    let layout = GuestLayout::new(&CONFIG).unwrap();
    let mut seen: Vec<u64> = populated(&machine).iter().map(|(page, _)| *page).collect();
    assert!(populated(&machine).iter().all(|(_, content)| *content == InitialContent::Keep));
    seen.dedup();
    // A call that did not finish is repeated from where it came to, so that pages show up twice.
    let mut unique = seen.clone();
    unique.sort_unstable();
    unique.dedup();
    let expected: Vec<u64> = layout.pages().map(|gfn| gfn.0 - 0x4_0000).collect();
    assert_eq!(unique, expected);

    for gfn in layout.pages() {
        let pfn = vm.pages().lookup(gfn).unwrap();
        let mut content: PageContent = [0; 4096];
        assert!(resources.memory.read(pfn.base(), &mut content).is_err());
        machine.share(pfn);
        resources.memory.read(pfn.base(), &mut content).unwrap();
        assert_eq!(content, layout.content(gfn));
    }
    let start =
        HostCall::VmStart { vm: vm.handle(), entry: Ipa(0x4020_0000), argument: layout.device_tree.0 };
    assert_eq!(machine.0.borrow().calls.last(), Some(&start));
}

#[test]
fn a_fault_brings_a_block_or_what_is_absent_of_it() {
    let machine = FakeMachine::new();
    let (mut vm, mut resources) = launch(&machine, true);
    let before = vm.pages_donated();
    vm.populate(&mut resources, Gfn(0x4_0123)).unwrap();
    assert!(vm.pages_donated() - before >= BLOCK_PAGES);
    let first = vm.pages().lookup(Gfn(0x4_0000)).unwrap();
    assert_eq!(first.0 % BLOCK_PAGES, 0);
    assert_eq!(vm.pages().lookup(Gfn(0x4_01ff)), Some(Pfn(first.0 + 0x1ff)));

    let pages = vm.pages().pages();
    vm.populate(&mut resources, Gfn(0x4_0203)).unwrap();
    assert_eq!(vm.pages().pages(), pages + FAULT_PAGES);
    // A second vCPU's fault on the same page changes nothing.
    vm.populate(&mut resources, Gfn(0x4_0203)).unwrap();
    assert_eq!(vm.pages().pages(), pages + FAULT_PAGES);
    for outside in [0x3_ffff, 0x4_0a00, u64::MAX] {
        assert_eq!(vm.populate(&mut resources, Gfn(outside)), Err(VmError::NoMemoryThere(Gfn(outside))));
    }
}

#[test]
fn everything_comes_back_and_is_looked_at() {
    for leak in [false, true] {
        let machine = FakeMachine::new();
        let (mut vm, mut resources) = launch(&machine, true);
        vm.populate(&mut resources, Gfn(0x4_0000)).unwrap();
        let donated = vm.pages_donated();
        machine.0.borrow_mut().leak = leak;
        let seen = vm.destroy(&mut resources).unwrap();
        assert_eq!(seen.pages_returned, donated);
        // The payload's and the initrd's pages, and the device tree's.
        assert_eq!(seen.pages_nonzero, if leak { 154 } else { 0 });
        assert_eq!(machine.free_pages(), PAGES);
    }
}

#[test]
fn lent_pages_do_not_count_as_returned() {
    let machine = FakeMachine::new();
    let (vm, mut resources) = launch(&machine, false);
    let pool: u64 = vm.pages_donated() - vm.pages().pages();
    let seen = vm.destroy(&mut resources).unwrap();
    assert_eq!(seen.pages_returned, pool);
    assert_eq!(machine.free_pages(), PAGES);
}

#[test]
fn a_refusal_anywhere_loses_no_page() {
    let calls = {
        let machine = FakeMachine::new();
        let _vm = launch(&machine, true);
        machine.0.borrow().calls.len()
    };
    let layout = GuestLayout::new(&CONFIG).unwrap();
    for refuse in 0..calls {
        let machine = FakeMachine::new();
        machine.0.borrow_mut().refuse = Some(refuse);
        let result = GuestVm::launch(&mut machine.resources(), &layout, true);
        let refusal = Refusal { error: CallError::Denied, detail: 0 };
        assert_eq!(result.unwrap_err(), VmError::Refused(refusal), "call {refuse}");
        assert_eq!(machine.free_pages(), PAGES, "call {refuse}");
    }
}

#[test]
fn a_host_without_memory_says_so() {
    let machine = FakeMachine::new();
    let mut resources = machine.resources();
    while resources.frames.allocate(1, 1).is_some() {}
    let layout = GuestLayout::new(&CONFIG).unwrap();
    let result = GuestVm::launch(&mut resources, &layout, true);
    assert_eq!(result.unwrap_err(), VmError::OutOfFrames);
}
