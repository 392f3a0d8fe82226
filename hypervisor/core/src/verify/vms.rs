//! A read-only view of a VM for the oracle.

use shared_abi::addr::{Gfn, Pfn};

use super::{ObjectView, free};
use crate::limits::{MAX_OBJECTS, MAX_VCPUS, ObjectIndex, VmIndex};
use crate::ownership::page_state::ObjectPage;
use crate::vm::vcpu_ownership::VcpuOwnership;
use crate::vm::{ObjectSlot, Vm, VmState};

/// A VM, viewed under all locks.
#[derive(Clone, Copy, Debug)]
pub struct VmView<'a> {
    pub(super) vm: &'a Vm,
    pub(super) objects: &'a [ObjectSlot; MAX_OBJECTS],
    pub(super) ownerships: &'a [VcpuOwnership; MAX_VCPUS],
}

impl<'a> VmView<'a> {
    /// The VM's index.
    #[must_use]
    pub const fn index(self) -> VmIndex {
        self.vm.index
    }

    /// Whether the VM is protected.
    #[must_use]
    pub const fn is_protected(self) -> bool {
        self.vm.protected
    }

    /// Whether the VM is dying: no CPU walks its tables any more, and they may be stale.
    #[must_use]
    pub fn is_dying(self) -> bool {
        self.vm.state == VmState::Dying
    }

    /// The first page of its root tables.
    #[must_use]
    pub const fn root(self) -> Pfn {
        self.vm.tables.root()
    }

    /// Number of free pages in its pool.
    #[must_use]
    pub fn pool_free(self) -> u64 {
        free(&self.vm.pool)
    }

    /// Number of shared pages, by the VM's own count.
    #[must_use]
    pub const fn shared(self) -> u64 {
        self.vm.report.shared
    }

    /// The pages that hold its vCPUs' registers, and whether each vCPU runs.
    pub fn vcpus(self) -> impl Iterator<Item = (Pfn, bool)> + use<'a> {
        self.vm
            .vcpus
            .iter()
            .zip(self.ownerships)
            .map(|(vcpu, ownership)| (vcpu.context, ownership.is_running()))
    }

    /// Its objects.
    pub fn objects(self) -> impl Iterator<Item = ObjectView<'a>> + use<'a> {
        self.objects.iter().filter_map(|slot| slot.object.as_ref()).map(ObjectView)
    }

    /// The object at `index`, if there is one.
    #[must_use]
    pub fn object(self, index: ObjectIndex) -> Option<ObjectView<'a>> {
        self.objects.get(usize::from(index.0))?.object.as_ref().map(ObjectView)
    }

    /// Returns the guest page of an object page, if it is bound.
    #[must_use]
    pub fn gfn(self, page: ObjectPage) -> Option<Gfn> {
        self.vm.gfn(page, 1)
    }

    /// Returns the guest page of an object page, and how many of the `most` pages from there on belong to the
    /// same binding.
    #[must_use]
    pub fn bound_run(self, page: ObjectPage, most: u64) -> Option<(Gfn, u64)> {
        self.vm.bound_run(page, most)
    }
}
