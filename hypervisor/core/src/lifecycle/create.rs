//! Creation of a VM, its pool and its vCPUs.

use bootimg::measure::LaunchMeasurement;
use heapless::Vec;
use shared_abi::addr::{PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{VcpuIndex, VmHandle};

use crate::hypervisor::Hypervisor;
use crate::limits::{MAX_CPUS, MAX_VCPUS, VmIndex};
use crate::machine::event::Event;
use crate::machine::geometry::Geometry;
use crate::machine::report::VmReport;
use crate::machine::{Frames, Machine, Vmid};
use crate::memory::pool::Pool;
use crate::memory::stage2::table::Stage2;
use crate::ownership::host::split;
use crate::ownership::page_state::PageState;
use crate::vm::mmio_guard::MmioGuard;
use crate::vm::{self, Vcpu, Vm, VmState};

/// Maximum number of pages that one call adds to a pool; the call wipes them all.
pub(crate) const MAX_POOL_PAGES_PER_CALL: u64 = 4096;

/// Checks the size and the bounds of a range for a VM's pool, but not the page states.
fn pool_range(first: Pfn, pages: u64, least: u64) -> Result<PageRange<Pfn>, CallError> {
    if pages < least || pages > MAX_POOL_PAGES_PER_CALL {
        return Err(CallError::InvalidParameter);
    }
    PageRange::<Pfn>::new(first, pages).ok_or(CallError::InvalidParameter)
}

impl<M: Machine> Hypervisor<'_, M> {
    /// Creates a VM. Its pool is the `pages` pages from `first`, of which the first two become the stage-2
    /// root.
    pub(crate) fn vm_create(&self, protected: bool, first: Pfn, pages: u64) -> Result<VmHandle, CallFailure> {
        let root_tables = M::Geometry::ROOT_TABLES;
        let range = pool_range(first, pages, root_tables.saturating_add(1))?;
        let (root, rest) = split(range, root_tables).ok_or(CallError::InvalidParameter)?;
        let misaligned = seeded!(first.0 & root_tables.saturating_sub(1) != 0, OddRoot => false);
        if misaligned {
            return Err(CallError::InvalidParameter.into());
        }
        for (slot, index) in self.slots.iter().zip(0_u8..) {
            let mut slot = slot.lock(&self.machine);
            if slot.vm.is_some() {
                continue;
            }
            let index = VmIndex(index);
            self.take_from_host(range, PageState::pool(index))?;
            self.machine.wipe(&Frames::new(range));
            let mut pool = Pool::default();
            pool.add(&self.machine, Frames::new(rest));
            // VMID 0 is the host's. This slot's VMID left all TLBs when its last VM was torn down.
            let tables = Stage2::new(&Frames::new(root), Vmid(index.0.saturating_add(1)));
            self.machine.event(|| Event::Stage2Id(tables.stage2_id()));
            slot.generation = vm::next_generation(slot.generation);
            slot.guard = MmioGuard::default();
            slot.vm = Some(Vm {
                index,
                protected,
                state: VmState::New,
                tables,
                pool,
                bindings: Vec::new(),
                vcpus: Vec::new(),
                measurement: LaunchMeasurement::new(),
                report: VmReport { protected, ..VmReport::default() },
                last_on_cpu: [None; MAX_CPUS],
            });
            return Ok(vm::vm_handle(index, slot.generation));
        }
        Err(CallError::Full.into())
    }

    /// Adds pages to a VM's pool.
    pub(crate) fn vm_top_up(&self, handle: VmHandle, first: Pfn, pages: u64) -> Result<(), CallFailure> {
        let range = pool_range(first, pages, 1)?;
        self.with_vm(handle, |vm, _| {
            vm.is_alive()?;
            self.take_from_host(range, PageState::pool(vm.index))?;
            let frames = Frames::new(range);
            self.machine.wipe(&frames);
            vm.pool.add(&self.machine, frames);
            Ok(())
        })
    }

    /// Creates the next vCPU; `index` must be the number of existing vCPUs.
    pub(crate) fn vcpu_create(&self, handle: VmHandle, index: VcpuIndex) -> Result<(), CallFailure> {
        self.with_vm(handle, |vm, _| {
            vm.is_new()?;
            let next = vm.vcpus.len();
            if usize::try_from(index.0) != Ok(next) {
                return Err(CallError::InvalidParameter.into());
            }
            if next >= MAX_VCPUS {
                return Err(CallError::Full.into());
            }
            let context = vm.pool.take(&self.machine).ok_or(CallFailure::no_memory(1))?;
            let vcpu = Vcpu { context: context.page(), on: false, start: None };
            // The push succeeds: `next` is below the capacity.
            if vm.vcpus.push(vcpu).is_ok()
                && let Some(ownership) = self.ownership(usize::from(vm.index.0), index)
            {
                ownership.reset_counts();
                vm.report.vcpus = vm.report.vcpus.saturating_add(1);
            }
            Ok(())
        })
    }
}
