//! A state to go back to: what the search tries from there starts where it was.

use core::mem;
use std::collections::BTreeMap;
use std::vec::Vec;

use shared_abi::host_call::{VcpuIndex, VmHandle};

use super::{CPUS, OnCpu, Pair};
use crate::fake::State;
use crate::geometry::Geometry;
use crate::host_memory::saved::SavedHost;
use crate::hypervisor::CpuIndex;
use crate::machine::Space;
use crate::spec::{Owner, Spec};
use crate::vm::{Life, VmPlace};

/// A copy of a [`Pair`].
pub(crate) struct Saved {
    spec: Spec,
    vms: usize,
    objects: usize,
    spaces: BTreeMap<VmHandle, Space>,
    owners: Vec<Option<Owner>>,
    loads: [Option<(VmHandle, VcpuIndex, bool)>; CPUS],
    host: SavedHost,
    places: Vec<VmPlace>,
    machine: State,
}

impl<G: Geometry> Pair<'_, '_, G> {
    /// Copies the state.
    pub(crate) fn save(&self) -> Saved {
        let machine = self.real.machine();
        machine.take_trace();
        let places: Vec<VmPlace> = self.real.places.iter().map(|place| place.lock(machine).clone()).collect();
        Saved {
            spec: self.spec.clone(),
            vms: self.vms.len(),
            objects: self.objects.len(),
            spaces: self.spaces.clone(),
            owners: self.owners.clone(),
            loads: core::array::from_fn(|cpu| self.on_cpu(cpu)),
            host: self.real.host.lock(machine).save(),
            places,
            machine: machine.state().clone(),
        }
    }

    /// Goes back to a state that this pair was in.
    pub(crate) fn restore(&mut self, saved: &Saved) {
        self.spec.clone_from(&saved.spec);
        self.vms.truncate(saved.vms);
        self.objects.truncate(saved.objects);
        self.spaces.clone_from(&saved.spaces);
        self.owners.clone_from(&saved.owners);
        for on in self.cpus.iter_mut().filter_map(Option::take) {
            // What it would do to its VM when it is dropped belongs to a state that is gone.
            mem::forget(on.loaded);
        }
        self.parked.iter_mut().filter_map(Option::take).for_each(mem::forget);
        self.free_claims();
        self.restore_core(saved);
        for (cpu, load) in saved.loads.iter().enumerate() {
            let Some((vm, vcpu, exited)) = *load else {
                continue;
            };
            self.make_loadable(vm, vcpu);
            let loaded = self.real.vcpu_load(CpuIndex(cpu), vm, vcpu).expect("it was loaded");
            self.cpus[cpu] = Some(OnCpu { loaded, exited });
        }
        if saved.loads.iter().any(Option::is_some) {
            self.restore_core(saved);
        }
    }

    fn restore_core(&self, saved: &Saved) {
        let machine = self.real.machine();
        for (place, saved) in self.real.places.iter().zip(&saved.places) {
            let mut place = place.lock(machine);
            if place.vm.is_some() || saved.vm.is_some() || place.generation != saved.generation {
                *place = saved.clone();
            }
        }
        self.real.host.lock(machine).restore(&saved.host);
        *machine.state() = saved.machine.clone();
    }

    /// Nobody has a vCPU.
    fn free_claims(&self) {
        for claim in self.real.claims.iter().flatten() {
            claim.revoke();
            // Whoever has it parks what can't be parked.
            claim.park(CpuIndex(0));
        }
    }

    /// A claim is made by loading alone, whatever became of the VM meanwhile.
    fn make_loadable(&self, vm: VmHandle, vcpu: VcpuIndex) {
        let machine = self.real.machine();
        let (place, _) = crate::vm::vm_place(vm);
        let mut place = self.real.places[place].lock(machine);
        let vm = place.vm.as_mut().expect("its VM is there");
        vm.life = Life::Started;
        let vcpu = vm.vcpu(vcpu).expect("it is there");
        vcpu.on = true;
    }
}
