//! Teardown of a VM: all pages that the host donated return to it wiped, a bounded number per call.
//!
//! No CPU can load a vCPU of a dying VM, so no CPU walks the VM's tables or uses its VMID. The first call
//! removes its translations from the TLBs once. After that the tables need no TLB maintenance.

use shared_abi::addr::{PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::VmHandle;

use crate::hypervisor::Hypervisor;
use crate::limits::{MAX_OBJECTS, ObjectIndex};
use crate::machine::geometry::Geometry;
use crate::machine::report::{Milestone, VmReport};
use crate::machine::{Frames, Machine, TableRef};
use crate::memory::object::Presence;
use crate::ownership::page_state::{ObjectPage, PageState};
use crate::vm::vcpu_ownership::VcpuOwnership;
use crate::vm::{self, ObjectSlot, Vm, VmState};

/// The work that a call may still do.
struct Budget {
    left: u64,
    returned: u64,
}

impl Budget {
    const fn spend(&mut self, pages: u64) {
        self.left = self.left.saturating_sub(pages);
    }

    const fn returned(&mut self, pages: u64) {
        self.spend(pages);
        // No overflow: the sum exceeds the budget of a call only by the root.
        self.returned = self.returned.wrapping_add(pages);
    }
}

impl<M: Machine> Hypervisor<'_, M> {
    /// Tears a VM down as far as one call may. Returns the number of pages that this call returned to the
    /// host.
    ///
    /// # Errors
    ///
    /// [`CallError::Busy`] while a vCPU runs. [`CallError::Again`] with the number of returned pages while
    /// there is work left.
    pub(crate) fn vm_destroy(&self, handle: VmHandle) -> Result<u64, CallFailure> {
        let mut budget = Budget { left: M::Geometry::PAGES_PER_CALL, returned: 0 };
        self.with_vm(handle, |vm, objects| {
            self.revoke(vm);
            let runs =
                seeded!(self.ownerships_of(vm).any(VcpuOwnership::is_running), TornWhileLoaded => false);
            if runs {
                return Err(CallError::Busy.into());
            }
            if vm.state != VmState::Dying {
                vm.state = VmState::Dying;
                self.machine.invalidate_all(vm.tables.stage2_id());
            }
            self.return_objects(vm, objects, &mut budget);
            self.return_pool(vm, &mut budget);
            seeded!(LeftBehind => return Ok(()));
            if budget.left == 0 {
                return Err(CallFailure::again(budget.returned));
            }
            Ok(())
        })?;
        // Only the root table is left, and every other call fails on a dying VM. A concurrent `vm_destroy`
        // may also get here: `remove` finds the VM and takes it out of its slot under one lock, so one call
        // succeeds.
        let report = self.remove(handle, &mut budget)?;
        self.machine.report(Milestone::Ended, &report);
        Ok(budget.returned)
    }

    /// Returns the pages of all objects to the host, and the objects' tables to the pool.
    fn return_objects(&self, vm: &mut Vm, objects: &mut [ObjectSlot; MAX_OBJECTS], budget: &mut Budget) {
        for (slot, index) in objects.iter_mut().zip(0..) {
            let Some(object) = &mut slot.object else {
                continue;
            };
            while budget.left != 0
                && let Some((offset, run)) = object.take_next(&self.machine, budget.left)
            {
                let page = ObjectPage::new(vm.index, ObjectIndex(index), offset);
                match run.presence() {
                    Presence::Present(first) => {
                        self.release_run(vm, page, first, run.pages);
                        // A page that was lent to an ordinary VM stayed the host's, so it does not count as
                        // returned.
                        if vm.protected {
                            budget.returned(run.pages);
                        } else {
                            budget.spend(run.pages);
                        }
                    }
                    Presence::Absent | Presence::Poisoned => budget.spend(1),
                }
            }
            if budget.left == 0 {
                return;
            }
            budget.spend(object.dismantle(&self.machine, &mut vm.pool, budget.left));
            if budget.left == 0 {
                return;
            }
            slot.object = None;
        }
    }

    /// Returns tables and register pages to the pool, and the pool's pages to the host.
    fn return_pool(&self, vm: &mut Vm, budget: &mut Budget) {
        if budget.left == 0 {
            return;
        }
        budget.spend(vm.tables.dismantle(&self.machine, &mut vm.pool, budget.left));
        while let Some(vcpu) = vm.vcpus.pop() {
            vm.pool.put(&self.machine, TableRef::new(vcpu.context));
        }
        while budget.left != 0
            && let Some(range) = vm.pool.take_run(&self.machine, budget.left)
        {
            self.return_pool_pages(vm, range, budget);
        }
    }

    fn return_pool_pages(&self, vm: &mut Vm, range: PageRange<Pfn>, budget: &mut Budget) {
        self.return_to_host(Frames::new(range), PageState::pool(vm.index));
        vm.report.returned = vm.report.returned.saturating_add(range.len());
        budget.returned(range.len());
    }

    /// Returns the root to the host and frees the VM's slot. Returns the report on the VM.
    fn remove(&self, handle: VmHandle, budget: &mut Budget) -> Result<VmReport, CallFailure> {
        let (index, generation) = vm::vm_slot(handle);
        let slot = self.slots.get(index).ok_or(CallError::NotFound)?;
        let mut slot = slot.lock(&self.machine);
        if slot.generation != generation {
            return Err(CallError::NotFound.into());
        }
        let mut vm = slot.vm.take().ok_or(CallError::NotFound)?;
        // The root is empty now. No vCPU has run under the VMID since the first invalidation. But that
        // invalidation had the VMID in VTTBR_EL2 together with tables that were not empty, so a speculative
        // walk may have filled a TLB again. The next VM in this slot gets the same VMID.
        self.machine.invalidate_all(vm.tables.stage2_id());
        let root = PageRange::<Pfn>::new(vm.tables.root(), M::Geometry::ROOT_TABLES);
        self.return_pool_pages(&mut vm, root.ok_or(CallError::NotFound)?, budget);
        Ok(self.report(&vm))
    }
}
