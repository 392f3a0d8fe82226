//! A hash of the core's state, for the search. Two states with split and with whole blocks differ, even if
//! every page has the same state. Table addresses and handle generations make no difference.

use core::hash::{Hash, Hasher};

use shared_abi::addr::Pfn;

use super::{free, look};
use crate::hypervisor::Hypervisor;
use crate::machine::geometry::{Geometry, Level, pieces};
use crate::machine::{Machine, TableRef};
use crate::memory::stage2::descriptor::{Kind, kind};
use crate::ownership::owner_map::OwnerMap;

/// Hashes all state that the core's decisions depend on, for a machine of `cpus` CPUs.
pub fn hash<M: Machine>(hypervisor: &Hypervisor<'_, M>, cpus: usize, hasher: &mut impl Hasher) {
    look(hypervisor, |view| {
        owners(view.owners(), hasher);
        tables(view.machine, view.host_root(), hasher);
        for (index, (slot, ownerships)) in view.slots.iter().zip(view.ownerships).enumerate() {
            // Whether the slot ever held a VM: a stale handle exists only then.
            (index, slot.generation != 0).hash(hasher);
            let Some(vm) = &slot.vm else { continue };
            (vm.state as u8, free(&vm.pool)).hash(hasher);
            for last in vm.last_on_cpu.iter().take(cpus) {
                last.map(|vcpu| vcpu.0).hash(hasher);
            }
            for (vcpu, ownership) in vm.vcpus.iter().zip(ownerships) {
                (vcpu.on, ownership.is_running(), vcpu.start.is_some()).hash(hasher);
            }
            tables(view.machine, vm.tables.root(), hasher);
        }
    });
}

/// Hashes all words that have a meaning.
fn owners<G: Geometry>(owners: &OwnerMap<'_, G>, hasher: &mut impl Hasher) {
    for region in &owners.regions {
        for piece in pieces::<G>(region.pages.first().0, region.pages.len()) {
            let Some(block) = owners.block(region, piece.first) else {
                continue;
            };
            block.0.hash(hasher);
            if block.is_split() {
                owners.page_words(region, piece).hash(hasher);
            }
        }
    }
}

/// Hashes tables by content, not by address.
fn tables<M: Machine>(machine: &M, root: Pfn, hasher: &mut impl Hasher) {
    fn table<M: Machine>(machine: &M, page: Pfn, level: Level, hasher: &mut impl Hasher) {
        for index in 0..M::Geometry::ENTRIES {
            let entry = machine.read_entry(TableRef::new(page), index);
            match (kind(level, entry), level) {
                (Kind::Table(next), Level::One) => table(machine, next, Level::Two, hasher),
                (Kind::Table(next), _) => table(machine, next, Level::Three, hasher),
                (Kind::Leaf(_) | Kind::Invalid, _) => entry.hash(hasher),
            }
            (level as u8, index).hash(hasher);
        }
    }
    for which in 0..M::Geometry::ROOT_TABLES {
        table(machine, Pfn(root.0.saturating_add(which)), Level::One, hasher);
    }
}
