//! What tells two states of the core apart.

use std::hash::{Hash, Hasher};
use std::vec::Vec;

use shared_abi::addr::Pfn;

use super::TinyPair;
use crate::fake::Fake;
use crate::fake::lockstep::CPUS;
use crate::geometry::{Geometry, Level};
use crate::machine::{Machine, Space, TableRef};
use crate::spec::{Owner, Spec};
use crate::stage2::descriptor::{Kind, kind};

/// A hash of 128 bits: every word is mixed into all bits above it, and the upper half into the lower.
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

/// A hash of all that the core decides by.
pub(super) fn of<G: Geometry>(pair: &TinyPair<'_, '_, G>) -> u128 {
    let mut hasher = Fingerprint(1);
    spec(&pair.spec, &mut hasher);
    core(pair, &mut hasher);
    hasher.0
}

/// A handle without its generation.
const fn place(handle: u32) -> u32 {
    handle & 0xff
}

fn spec(spec: &Spec, hasher: &mut Fingerprint) {
    for (page, owner) in &spec.owners {
        match owner {
            Owner::Hypervisor | Owner::Host => continue,
            Owner::Pool(vm) => (page, 0, place(vm.0)).hash(hasher),
            Owner::Private(vm) => (page, 1, place(vm.0)).hash(hasher),
            Owner::Shared(vm) => (page, 2, place(vm.0)).hash(hasher),
            Owner::Lent(vm) => (page, 3, place(vm.0)).hash(hasher),
        }
    }
    // The maps are in the order of handles, whose generations are not to count.
    let mut vms: Vec<_> = spec.vms.iter().collect();
    vms.sort_unstable_by_key(|(vm, _)| place(vm.0));
    for (vm, found) in vms {
        (place(vm.0), found.protected, found.life, &found.on, &found.loaded).hash(hasher);
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
    let machine = pair.real.machine();
    {
        let host = pair.real.host.lock(machine);
        host.records().shape(hasher);
    }
    tables(machine, pair.real.host_space(), hasher);
    for (index, place) in pair.real.places.iter().enumerate() {
        let place = place.lock(machine);
        // Whether there ever was a VM: stale handles.
        (index, place.generation != 0).hash(hasher);
        let Some(vm) = &place.vm else { continue };
        (vm.life as u8, vm.pool.short_of(u64::MAX)).hash(hasher);
        for last in &vm.last_on_cpu[..CPUS] {
            last.map(|vcpu| vcpu.0).hash(hasher);
        }
        for (vcpu, claim) in vm.vcpus.iter().zip(&pair.real.claims[index]) {
            (vcpu.on, claim.is_running(), vcpu.start.is_some()).hash(hasher);
        }
        tables(machine, vm.tables.space(), hasher);
    }
}

/// Tables by what is in them, not by where they are.
fn tables<G: Geometry>(machine: &Fake<G>, space: Space, hasher: &mut Fingerprint) {
    fn table<G: Geometry>(machine: &Fake<G>, page: Pfn, level: Level, hasher: &mut Fingerprint) {
        for index in 0..G::ENTRIES {
            let entry = machine.read_entry(TableRef::new(page), index);
            match (kind(level, entry), level) {
                (Kind::Table(next), Level::One) => table(machine, next, Level::Two, hasher),
                (Kind::Table(next), _) => table(machine, next, Level::Three, hasher),
                (Kind::Leaf(_) | Kind::Invalid, _) => entry.hash(hasher),
            }
            (level as u8, index).hash(hasher);
        }
    }
    for root in 0..G::ROOT_TABLES {
        table(machine, Pfn(space.root.page().0 + root), Level::One, hasher);
    }
}
