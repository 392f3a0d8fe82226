//! Saved states: the search restores one to try the next action from it.

use core::mem;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use hyp_core::limits::CpuIndex;
use hyp_core::machine::Stage2Id;
use hyp_core::machine::geometry::Geometry;
use hyp_core::verify;
use shared_abi::host_call::{VcpuIndex, VmHandle};

use super::{CPUS, OnCpu, Pair};
use crate::fake::State;
use crate::spec::{Spec, SpecOwner};

/// A copy of a [`Pair`].
#[derive(Debug)]
pub struct SavedPair {
    spec: Spec,
    vms: usize,
    objects: usize,
    stage2_ids: BTreeMap<VmHandle, Stage2Id>,
    owners: Vec<Option<SpecOwner>>,
    loads: [Option<(VmHandle, VcpuIndex, bool)>; CPUS],
    core: Box<verify::SavedState>,
    words: Vec<u64>,
    machine: State,
}

impl<G: Geometry> Pair<'_, '_, G> {
    /// Copies the state.
    #[must_use]
    pub fn save(&self) -> SavedPair {
        let machine = self.real.machine();
        machine.take_trace();
        let mut words = vec![0; verify::look(self.real, |view| view.owners().words())];
        SavedPair {
            spec: self.spec.clone(),
            vms: self.vms.len(),
            objects: self.objects.len(),
            stage2_ids: self.stage2_ids.clone(),
            owners: self.owners.clone(),
            loads: core::array::from_fn(|cpu| self.on_cpu(cpu)),
            core: Box::new(verify::save(self.real, &mut words)),
            words,
            machine: machine.state().clone(),
        }
    }

    /// Restores a state of this pair.
    ///
    /// # Panics
    ///
    /// If the state is not one of this pair.
    pub fn restore(&mut self, saved: &SavedPair) {
        self.spec.clone_from(&saved.spec);
        self.vms.truncate(saved.vms);
        self.objects.truncate(saved.objects);
        self.stage2_ids.clone_from(&saved.stage2_ids);
        self.owners.clone_from(&saved.owners);
        for on in self.cpus.iter_mut().filter_map(Option::take) {
            // Dropping it would change its VM, which belongs to the state that is discarded.
            mem::forget(on.loaded);
        }
        self.parked.iter_mut().filter_map(Option::take).for_each(mem::forget);
        verify::release_vcpus(self.real);
        self.restore_core(saved);
        for (cpu, load) in saved.loads.iter().enumerate() {
            let Some((vm, vcpu, exited)) = *load else {
                continue;
            };
            let loaded = verify::load_again(self.real, CpuIndex(cpu), vm, vcpu).expect("it was loaded");
            self.cpus[cpu] = Some(OnCpu { loaded, exited });
        }
        if saved.loads.iter().any(Option::is_some) {
            self.restore_core(saved);
        }
    }

    fn restore_core(&self, saved: &SavedPair) {
        verify::restore(self.real, &saved.core, &saved.words);
        *self.real.machine().state() = saved.machine.clone();
    }
}
