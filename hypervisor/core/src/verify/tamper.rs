//! Ways to falsify the state, so that a check can be seen to notice.

use shared_abi::addr::{PageRange, Pfn};

use crate::hypervisor::Hypervisor;
use crate::limits::{CpuIndex, VmIndex};
use crate::machine::Machine;
use crate::ownership::owner_map::block_state::BlockWord;
use crate::ownership::owner_map::block_word;
use crate::ownership::page_state::Record;
use crate::vm::{Life, Vm};

/// Overwrites the record of a page.
pub fn record<M: Machine>(hypervisor: &Hypervisor<'_, M>, page: Pfn, record: Record) {
    let records = &mut hypervisor.host.mutex.lock().records;
    if let (Some(range), Some(old)) = (PageRange::<Pfn>::new(page, 1), records.get(page)) {
        records.convert(range, old, record);
    }
}

/// Makes the split block that holds a page miscount.
pub fn miscount<M: Machine>(hypervisor: &Hypervisor<'_, M>, page: Pfn) {
    let records = &mut hypervisor.host.mutex.lock().records;
    let region = records.regions.iter().find(|region| region.pages.contains(page));
    let word = region.map(|region| block_word::<M::Geometry>(region, page.0));
    if let Some(word) = word.and_then(|word| records.words.get_mut(word)) {
        let block = BlockWord(*word);
        *word = BlockWord::split(block.base(), block.deviating() ^ 1).0;
    }
}

/// Makes a VM count a page more than it shares.
pub fn overcount_shared<M: Machine>(hypervisor: &Hypervisor<'_, M>, vm: VmIndex) {
    with_vm(hypervisor, vm, |vm| vm.report.shared = vm.report.shared.wrapping_add(1));
}

/// Loses a page of a VM's pool.
pub fn lose_pool_page<M: Machine>(hypervisor: &Hypervisor<'_, M>, vm: VmIndex) {
    with_vm(hypervisor, vm, |vm| vm.pool.take(hypervisor.machine()));
}

/// Puts the registers of a VM's first vCPU into another page.
pub fn move_context<M: Machine>(hypervisor: &Hypervisor<'_, M>, vm: VmIndex, page: Pfn) {
    with_vm(hypervisor, vm, |vm| {
        if let Some(vcpu) = vm.vcpus.first_mut() {
            vcpu.context = page;
        }
    });
}

/// Tears a VM down while a CPU runs its first vCPU.
pub fn die_while_running<M: Machine>(hypervisor: &Hypervisor<'_, M>, vm: VmIndex, cpu: CpuIndex) {
    with_vm(hypervisor, vm, |vm| vm.life = Life::Dying);
    if let Some(claim) = hypervisor.claims.get(usize::from(vm.0)).and_then(|claims| claims.first()) {
        claim.take(cpu);
    }
}

fn with_vm<M: Machine, R>(
    hypervisor: &Hypervisor<'_, M>,
    vm: VmIndex,
    change: impl FnOnce(&mut Vm) -> R,
) -> Option<R> {
    let place = hypervisor.places.get(usize::from(vm.0))?;
    place.mutex.lock().vm.as_mut().map(change)
}
