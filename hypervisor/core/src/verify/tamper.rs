//! Ways to corrupt the state, to show that a check notices.

use shared_abi::addr::{PageRange, Pfn};

use crate::hypervisor::Hypervisor;
use crate::limits::{CpuIndex, VmIndex};
use crate::machine::Machine;
use crate::ownership::owner_map::block_state::BlockState;
use crate::ownership::owner_map::block_word;
use crate::ownership::page_state::PageState;
use crate::vm::{Vm, VmState};

/// Overwrites the page state of a page.
pub fn page_state<M: Machine>(hypervisor: &Hypervisor<'_, M>, page: Pfn, state: PageState) {
    let owners = &mut hypervisor.host.mutex.lock().owners;
    if let (Some(range), Some(old)) = (PageRange::<Pfn>::new(page, 1), owners.get(page)) {
        owners.convert(range.first(), range.len(), old, state);
    }
}

/// Makes the count of the split block around `page` wrong.
pub fn miscount<M: Machine>(hypervisor: &Hypervisor<'_, M>, page: Pfn) {
    let owners = &mut hypervisor.host.mutex.lock().owners;
    let region = owners.regions.iter().find(|region| region.pages.contains(page));
    let word = region.map(|region| block_word::<M::Geometry>(region, page.0));
    if let Some(word) = word.and_then(|word| owners.words.get_mut(word)) {
        let block = BlockState(*word);
        *word = BlockState::split(block.base(), block.deviating() ^ 1).0;
    }
}

/// Adds one to a VM's count of shared pages.
pub fn overcount_shared<M: Machine>(hypervisor: &Hypervisor<'_, M>, vm: VmIndex) {
    with_vm(hypervisor, vm, |vm| vm.report.shared = vm.report.shared.wrapping_add(1));
}

/// Removes a page from a VM's pool and drops it.
pub fn lose_pool_page<M: Machine>(hypervisor: &Hypervisor<'_, M>, vm: VmIndex) {
    with_vm(hypervisor, vm, |vm| vm.pool.take(hypervisor.machine()));
}

/// Moves the registers of a VM's first vCPU to another page.
pub fn move_context<M: Machine>(hypervisor: &Hypervisor<'_, M>, vm: VmIndex, page: Pfn) {
    with_vm(hypervisor, vm, |vm| {
        if let Some(vcpu) = vm.vcpus.first_mut() {
            vcpu.context = page;
        }
    });
}

/// Marks a VM as dying while a CPU runs its first vCPU.
pub fn die_while_running<M: Machine>(hypervisor: &Hypervisor<'_, M>, vm: VmIndex, cpu: CpuIndex) {
    with_vm(hypervisor, vm, |vm| vm.state = VmState::Dying);
    if let Some(ownership) =
        hypervisor.ownerships.get(usize::from(vm.0)).and_then(|ownerships| ownerships.first())
    {
        ownership.take(cpu);
    }
}

fn with_vm<M: Machine, R>(
    hypervisor: &Hypervisor<'_, M>,
    vm: VmIndex,
    change: impl FnOnce(&mut Vm) -> R,
) -> Option<R> {
    let slot = hypervisor.slots.get(usize::from(vm.0))?;
    slot.mutex.lock().vm.as_mut().map(change)
}
