//! The core's private state for the checks of `hyp-verify` (feature `verify`): saved copies, a hash,
//! read-only views, and ways to corrupt it. The shipped build lacks this module.
//!
//! Copies, hashes and views take all locks, so they see the state between calls.

mod hash;
mod objects;
mod owners;
mod saved;
pub mod tamper;
mod vms;

use shared_abi::addr::{Gfn, PageRange, Pfn};
use shared_abi::host_call::{VcpuIndex, VmHandle};
use spin::mutex::TicketMutexGuard;

use crate::hypervisor::Hypervisor;
use crate::limits::{MAX_VCPUS, MAX_VMS, VmIndex};
use crate::machine::report::VmReport;
use crate::machine::{Machine, TableRef};
use crate::memory::pool::Pool;
use crate::ownership::host::HostMemory;
use crate::ownership::owner_map::OwnerMap;
use crate::transition::ShareError;
use crate::transition::share::Sharing;
use crate::vcpu::loaded::{GuestPage, LoadedVcpu};
use crate::vm::vcpu_ownership::VcpuOwnership;
use crate::vm::{VmSlot, VmState};

pub use hash::hash;
pub use objects::{ObjectFault, ObjectSurvey, ObjectView};
pub use owners::OwnerRun;
pub use saved::{SavedState, load_again, release_vcpus, restore, save};
pub use vms::VmView;

/// Returns the right to read a page as a table, and in tests to write it. The caller knows that the page is a
/// table.
#[must_use]
pub const fn table(page: Pfn) -> TableRef {
    TableRef::new(page)
}

/// A view of all state, under all locks.
#[derive(Debug)]
pub struct View<'a, 'm, M: Machine> {
    machine: &'a M,
    host: &'a HostMemory<'m, M::Geometry>,
    slots: &'a [TicketMutexGuard<'a, VmSlot>; MAX_VMS],
    ownerships: &'a [[VcpuOwnership; MAX_VCPUS]; MAX_VMS],
}

/// Calls `look` with a view of all state, under all locks: those of the slots in ascending order, then the
/// host's.
///
/// This is the one place that holds two slots at once. It cannot deadlock, because every other path holds at
/// most one. It does not report these locks to the machine, so it leaves no trace events.
pub fn look<'m, M: Machine, R>(
    hypervisor: &Hypervisor<'m, M>,
    look: impl FnOnce(&View<'_, 'm, M>) -> R,
) -> R {
    // `map` goes by ascending index, which is the lock order.
    let slots = hypervisor.slots.each_ref().map(|slot| slot.mutex.lock());
    let host = hypervisor.host.mutex.lock();
    look(&View {
        machine: &hypervisor.machine,
        host: &host,
        slots: &slots,
        ownerships: &hypervisor.ownerships,
    })
}

impl<'a, 'm, M: Machine> View<'a, 'm, M> {
    /// The machine that the core runs on.
    #[must_use]
    pub const fn machine(&self) -> &'a M {
        self.machine
    }

    /// The owner map of all RAM.
    #[must_use]
    pub const fn owners(&self) -> &'a OwnerMap<'m, M::Geometry> {
        &self.host.owners
    }

    /// The first page of the host's root tables.
    #[must_use]
    pub const fn host_root(&self) -> Pfn {
        self.host.tables.root()
    }

    /// Number of free pages for the host's tables.
    #[must_use]
    pub fn host_tables_free(&self) -> u64 {
        free(&self.host.pool)
    }

    /// Device pages that the host must not reach.
    #[must_use]
    pub fn denied(&self) -> &'a [PageRange<Pfn>] {
        &self.host.denied
    }

    /// The VM at `index`, if there is one.
    #[must_use]
    pub fn vm(&self, index: VmIndex) -> Option<VmView<'_>> {
        let index = usize::from(index.0);
        let slot = self.slots.get(index)?;
        let vm = slot.vm.as_ref()?;
        Some(VmView { vm, objects: &slot.objects, ownerships: self.ownerships.get(index)? })
    }
}

/// Returns the number of free pages in a pool: the maximum less the number of missing pages.
fn free(pool: &Pool) -> u64 {
    u64::MAX.saturating_sub(pool.short_of(u64::MAX).unwrap_or(0))
}

impl<M: Machine> Hypervisor<'_, M> {
    /// Returns the report on a VM, or `None` if the handle does not resolve.
    pub fn vm_report(&self, vm: VmHandle) -> Option<VmReport> {
        self.with_vm(vm, |vm, _| Ok(self.report(vm))).ok()
    }
}

/// Resumes a vCPU that this CPU has parked, as the vCPU cache does. Returns whether that succeeded.
pub fn resume<M: Machine>(loaded: &mut LoadedVcpu<'_, '_, M>, vm: VmHandle, vcpu: VcpuIndex) -> bool {
    loaded.resume(vm, vcpu)
}

/// Parks a vCPU, as the vCPU cache does.
pub fn park<M: Machine>(loaded: &mut LoadedVcpu<'_, '_, M>) {
    loaded.park();
}

/// Returns the state of guest page `gfn` and whether a device may be there, as a guest access does: by the
/// CPU's cached device page if it is still valid.
pub fn classify_or_device<M: Machine>(loaded: &mut LoadedVcpu<'_, '_, M>, gfn: Gfn) -> (GuestPage, bool) {
    loaded.classify_or_device(gfn)
}

/// Adds to the counters of a vCPU.
pub fn count<M: Machine>(loaded: &LoadedVcpu<'_, '_, M>, hypercalls: u64, exits: u64) {
    (0..hypercalls).for_each(|_| loaded.ownership.count_hypercall());
    (0..exits).for_each(|_| loaded.ownership.count_exit());
}

impl<M: Machine> LoadedVcpu<'_, '_, M> {
    /// The VM.
    pub const fn vm(&self) -> VmHandle {
        self.vm
    }

    /// The vCPU, within the VM.
    pub const fn vcpu(&self) -> VcpuIndex {
        self.vcpu
    }

    /// Returns the present state of guest page `gfn`.
    pub fn classify(&self, gfn: Gfn) -> GuestPage {
        self.classify_and_ask(gfn).0
    }

    /// Returns whether the VM has stopped for good.
    pub fn is_stopped(&self) -> bool {
        let slot = self.slot.lock(self.machine());
        slot.vm.as_ref().is_none_or(|vm| vm.state != VmState::Started)
    }
    /// Whether the VM is protected: it is offered MEM_SHARE.
    pub const fn is_protected(&self) -> bool {
        self.features() & shared_abi::kvm::feature::MEM_SHARE != 0
    }

    /// MEM_SHARE, as a guest calls it.
    ///
    /// # Errors
    ///
    /// [`ShareError`]. Nothing has changed then.
    pub fn share(&self, pages: PageRange<Gfn>) -> Result<u64, ShareError> {
        self.convert(pages, Sharing::Share)
    }

    /// MEM_UNSHARE, as a guest calls it.
    ///
    /// # Errors
    ///
    /// [`ShareError::Denied`]. Nothing has changed then.
    pub fn unshare(&self, pages: PageRange<Gfn>) -> Result<u64, ShareError> {
        self.convert(pages, Sharing::Unshare)
    }
}
