//! A state of the core to go back to: what the search tries from there starts where it was.

use shared_abi::error::CallError;
use shared_abi::host_call::{VcpuIndex, VmHandle};

use super::look;
use crate::hypervisor::Hypervisor;
use crate::limits::{CpuIndex, MAX_VMS};
use crate::machine::Machine;
use crate::memory::pool::Pool;
use crate::vcpu::loaded::Loaded;
use crate::vm::{self, Life, VmPlace};

/// A copy of all that changes, but for the records, which the caller keeps, and who has claimed which vCPU.
#[derive(Clone, Debug)]
pub struct Saved {
    host_pool: Pool,
    places: [VmPlace; MAX_VMS],
}

/// Copies the state, and the records into `records`: as many words as [`Records::words`] says.
///
/// [`Records::words`]: crate::ownership::owner_map::Records::words
pub fn save<M: Machine>(hypervisor: &Hypervisor<'_, M>, records: &mut [u64]) -> Saved {
    look(hypervisor, |view| {
        view.records().copy_to(records);
        Saved {
            host_pool: view.host.pool.clone(),
            places: core::array::from_fn(|index| {
                view.places.get(index).map(|place| VmPlace::clone(place)).unwrap_or_default()
            }),
        }
    })
}

/// Goes back to a state that this hypervisor was in.
pub fn restore<M: Machine>(hypervisor: &Hypervisor<'_, M>, saved: &Saved, records: &[u64]) {
    for (place, saved) in hypervisor.places.iter().zip(&saved.places) {
        let mut place = place.mutex.lock();
        if place.vm.is_some() || saved.vm.is_some() || place.generation != saved.generation {
            *place = saved.clone();
        }
    }
    let mut host = hypervisor.host.mutex.lock();
    for (to, from) in host.records.words.iter_mut().zip(records) {
        *to = *from;
    }
    host.pool = saved.host_pool.clone();
}

/// Takes every vCPU from whoever has it.
pub fn free_claims<M: Machine>(hypervisor: &Hypervisor<'_, M>) {
    for claim in hypervisor.claims.iter().flatten() {
        claim.revoke();
        // Whoever has it parks what can't be parked.
        claim.park(CpuIndex(0));
    }
}

/// Loads a vCPU that was loaded in the state which [`restore`] goes back to, whatever became of its VM meanwhile.
/// The state has to be restored once more afterwards.
///
/// # Errors
///
/// [`CallError`] if it was not.
pub fn load_again<'h, 'm, M: Machine>(
    hypervisor: &'h Hypervisor<'m, M>,
    cpu: CpuIndex,
    vm: VmHandle,
    vcpu: VcpuIndex,
) -> Result<Loaded<'h, 'm, M>, CallError> {
    let (place, _) = vm::vm_place(vm);
    if let Some(place) = hypervisor.places.get(place)
        && let Some(vm) = &mut place.mutex.lock().vm
    {
        vm.life = Life::Started;
        if let Some(vcpu) = vm.vcpu(vcpu) {
            vcpu.on = true;
        }
    }
    hypervisor.vcpu_load(cpu, vm, vcpu)
}
