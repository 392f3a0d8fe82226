//! What tells two states of the core apart.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use shared_abi::addr::Pfn;

use super::TinyPair;
use crate::fake::Fake;
use crate::fake::lockstep::CPUS;
use crate::geometry::{Geometry, Level};
use crate::machine::{Machine, Space, TableRef};
use crate::spec::{Owner, Slot, Spec};
use crate::stage2::descriptor::{Kind, kind};

/// Two hashes of 64 bits: of all that the core decides by.
pub(super) fn of<G: Geometry>(pair: &TinyPair<'_, '_, G>) -> (u64, u64) {
    let mut hashes = [1_u64, 2].map(|seed| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        hasher
    });
    for hasher in &mut hashes {
        spec(&pair.spec, hasher);
        core(pair, hasher);
    }
    (hashes[0].finish(), hashes[1].finish())
}

/// A handle without its generation.
const fn place(handle: u32) -> u32 {
    handle & 0xff
}

fn spec(spec: &Spec, hasher: &mut DefaultHasher) {
    for (page, owner) in &spec.owners {
        match owner {
            Owner::Hypervisor | Owner::Host => continue,
            Owner::Pool(vm) => (page, 0, place(vm.0)).hash(hasher),
            Owner::Memory { vm, host } => (page, 1 + u32::from(*host), place(vm.0)).hash(hasher),
        }
    }
    // BTreeMaps are in the order of handles, whose generations are not to count.
    for wanted in 0..16 {
        for (vm, found) in spec.vms.iter().filter(|(vm, _)| place(vm.0) == wanted) {
            (place(vm.0), found.protected, found.life, &found.vcpus).hash(hasher);
            let mut bindings = found.bindings.clone();
            bindings.sort_unstable();
            for binding in bindings {
                let object = place(binding.object.0);
                (binding.gfn, object, binding.offset, binding.pages).hash(hasher);
            }
        }
    }
    for wanted in 0..256 {
        for (object, found) in spec
            .objects
            .iter()
            .filter(|(object, _)| place(object.0) == wanted)
        {
            (place(object.0), &found.slots).hash(hasher);
            debug_assert!(
                found
                    .slots
                    .iter()
                    .all(|slot| !matches!(slot, Slot::Present(0)))
            );
        }
    }
}

fn core<G: Geometry>(pair: &TinyPair<'_, '_, G>, hasher: &mut DefaultHasher) {
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
        for vcpu in &vm.vcpus {
            (vcpu.on, vcpu.loaded.map(|cpu| cpu.0), vcpu.start.is_some()).hash(hasher);
        }
        tables(machine, vm.tables.space(), hasher);
    }
}

/// Tables by what is in them, not by where they are.
fn tables<G: Geometry>(machine: &Fake<G>, space: Space, hasher: &mut DefaultHasher) {
    fn table<G: Geometry>(machine: &Fake<G>, page: Pfn, level: Level, hasher: &mut DefaultHasher) {
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
