//! Save and restore of the core's state, so that the search can try several calls from one state.

use shared_abi::error::CallError;
use shared_abi::host_call::{VcpuIndex, VmHandle};

use super::look;
use crate::hypervisor::Hypervisor;
use crate::limits::{CpuIndex, MAX_VMS};
use crate::machine::Machine;
use crate::memory::pool::Pool;
use crate::vcpu::loaded::LoadedVcpu;
use crate::vm::{self, VmSlot, VmState};

/// A copy of the mutable state. It lacks the page states, which the caller keeps, and the ownership of vCPUs.
#[derive(Clone, Debug)]
pub struct SavedState {
    host_pool: Pool,
    slots: [VmSlot; MAX_VMS],
}

/// Saves the state, and copies the page states to `owners`, which has [`OwnerMap::words`] words.
///
/// [`OwnerMap::words`]: crate::ownership::owner_map::OwnerMap::words
pub fn save<M: Machine>(hypervisor: &Hypervisor<'_, M>, owners: &mut [u64]) -> SavedState {
    look(hypervisor, |view| {
        view.owners().copy_to(owners);
        SavedState {
            host_pool: view.host.pool.clone(),
            slots: core::array::from_fn(|index| {
                view.slots.get(index).map(|slot| VmSlot::clone(slot)).unwrap_or_default()
            }),
        }
    })
}

/// Restores a state that was saved from this hypervisor.
pub fn restore<M: Machine>(hypervisor: &Hypervisor<'_, M>, saved: &SavedState, owners: &[u64]) {
    for (slot, saved) in hypervisor.slots.iter().zip(&saved.slots) {
        let mut slot = slot.mutex.lock();
        if slot.vm.is_some() || saved.vm.is_some() || slot.generation != saved.generation {
            *slot = saved.clone();
        }
    }
    let mut host = hypervisor.host.mutex.lock();
    for (to, from) in host.owners.words.iter_mut().zip(owners) {
        *to = *from;
    }
    host.pool = saved.host_pool.clone();
}

/// Frees every vCPU, whichever CPU has it.
pub fn release_vcpus<M: Machine>(hypervisor: &Hypervisor<'_, M>) {
    for ownership in hypervisor.ownerships.iter().flatten() {
        ownership.revoke();
        // After a revocation, parking frees the vCPU for any CPU.
        ownership.park(CpuIndex(0));
    }
}

/// Loads a vCPU that was loaded in the saved state, even if its VM has stopped since. This changes the state,
/// so the caller calls [`restore`] again afterwards.
///
/// # Errors
///
/// [`CallError`] if the vCPU was not loaded in the saved state.
pub fn load_again<'h, 'm, M: Machine>(
    hypervisor: &'h Hypervisor<'m, M>,
    cpu: CpuIndex,
    vm: VmHandle,
    vcpu: VcpuIndex,
) -> Result<LoadedVcpu<'h, 'm, M>, CallError> {
    let (slot, _) = vm::vm_slot(vm);
    if let Some(slot) = hypervisor.slots.get(slot)
        && let Some(vm) = &mut slot.mutex.lock().vm
    {
        vm.state = VmState::Started;
        if let Some(vcpu) = vm.vcpu(vcpu) {
            vcpu.on = true;
        }
    }
    hypervisor.vcpu_load(cpu, vm, vcpu)
}
