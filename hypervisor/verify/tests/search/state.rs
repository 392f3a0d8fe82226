//! Hashes the state of the core.

use std::hash::{Hash, Hasher};

use hyp_core::machine::geometry::Geometry;
use hyp_core::verify;
use hyp_verify::lockstep::CPUS;
use hyp_verify::spec::{Spec, SpecOwner};

use super::TinyPair;

/// A 128-bit hash: every word affects all bits above it, and the upper half affects the lower half.
struct Fingerprint(u128);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0 as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        const ODD: u128 = 0x2d35_8dcc_aa6c_78a5_8bb8_4b93_962e_acc9;
        let mixed = (self.0 ^ u128::from(word)).wrapping_mul(ODD);
        self.0 = mixed ^ (mixed >> 64);
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

/// Hashes all state that the core's decisions depend on.
pub(super) fn of<G: Geometry>(pair: &TinyPair<'_, '_, G>) -> u128 {
    let mut hasher = Fingerprint(1);
    spec(&pair.spec, &mut hasher);
    core(pair, &mut hasher);
    hasher.0
}

/// Returns a handle without its generation.
const fn place(handle: u32) -> u32 {
    handle & 0xff
}

fn spec(spec: &Spec, hasher: &mut Fingerprint) {
    for (page, owner) in &spec.owners {
        match owner {
            SpecOwner::Hypervisor | SpecOwner::Host => continue,
            SpecOwner::Pool(vm) => (page, 0, place(vm.0)).hash(hasher),
            SpecOwner::Private(vm) => (page, 1, place(vm.0)).hash(hasher),
            SpecOwner::Shared(vm) => (page, 2, place(vm.0)).hash(hasher),
            SpecOwner::Lent(vm) => (page, 3, place(vm.0)).hash(hasher),
        }
    }
    // The maps are ordered by handle. The order must not depend on generations.
    let mut vms: Vec<_> = spec.vms.iter().collect();
    vms.sort_unstable_by_key(|(vm, _)| place(vm.0));
    for (vm, found) in vms {
        (place(vm.0), found.protected, found.state, &found.on, &found.loaded).hash(hasher);
        let mut bindings = found.bindings.clone();
        bindings.sort_unstable();
        for binding in bindings {
            let object = place(binding.object.0);
            (binding.gfn, object, binding.offset, binding.pages).hash(hasher);
        }
    }
    let mut objects: Vec<_> = spec.vms.values().flat_map(|vm| &vm.objects).collect();
    objects.sort_unstable_by_key(|(object, _)| place(object.0));
    for (object, slots) in objects {
        (place(object.0), slots).hash(hasher);
    }
}

fn core<G: Geometry>(pair: &TinyPair<'_, '_, G>, hasher: &mut Fingerprint) {
    for cpu in 0..CPUS {
        if let Some((vm, vcpu, exited)) = pair.on_cpu(cpu) {
            (cpu, place(vm.0), vcpu, exited).hash(hasher);
        }
    }
    verify::hash(pair.real, CPUS, hasher);
}
