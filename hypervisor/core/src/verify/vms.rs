//! A VM as the oracle reads it.

use shared_abi::addr::{Gfn, Pfn};

use super::{ObjectView, free};
use crate::limits::{MAX_OBJECTS, MAX_VCPUS, ObjectIndex, VmIndex};
use crate::ownership::page_state::ObjectPage;
use crate::vm::vcpu_ownership::VcpuOwnership;
use crate::vm::{ObjectSlot, Vm, VmState};

/// A VM, under all locks.
#[derive(Clone, Copy, Debug)]
pub struct VmView<'a> {
    pub(super) vm: &'a Vm,
    pub(super) objects: &'a [ObjectSlot; MAX_OBJECTS],
    pub(super) ownerships: &'a [VcpuOwnership; MAX_VCPUS],
}

impl<'a> VmView<'a> {
    /// Which one it is.
    #[must_use]
    pub const fn index(self) -> VmIndex {
        self.vm.index
    }

    /// Whether its memory is kept from the host.
    #[must_use]
    pub const fn is_protected(self) -> bool {
        self.vm.protected
    }

    /// Whether it is being torn down: nobody walks its tables then, and they are not kept up to date.
    #[must_use]
    pub fn is_dying(self) -> bool {
        self.vm.state == VmState::Dying
    }

    /// The first page of its root tables.
    #[must_use]
    pub const fn root(self) -> Pfn {
        self.vm.tables.root()
    }

    /// How many pages are left in its pool.
    #[must_use]
    pub fn pool_free(self) -> u64 {
        free(&self.vm.pool)
    }

    /// How many pages it shares, as it counts them.
    #[must_use]
    pub const fn shared(self) -> u64 {
        self.vm.report.shared
    }

    /// The pages that hold its vCPUs' registers, and whether each runs.
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

    /// The object at an index.
    #[must_use]
    pub fn object(self, index: ObjectIndex) -> Option<ObjectView<'a>> {
        self.objects.get(usize::from(index.0))?.object.as_ref().map(ObjectView)
    }

    /// Where the guest sees a page of an object.
    #[must_use]
    pub fn gfn(self, page: ObjectPage) -> Option<Gfn> {
        self.vm.gfn(page, 1)
    }

    /// Where the guest sees a page of an object, and how many of the `most` pages from there on follow in the same
    /// binding.
    #[must_use]
    pub fn bound_run(self, page: ObjectPage, most: u64) -> Option<(Gfn, u64)> {
        self.vm.bound_run(page, most)
    }
}
