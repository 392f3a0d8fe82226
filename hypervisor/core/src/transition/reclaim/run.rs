//! The common part of reclaim, forced reclaim, relinquish and teardown: a run of pages changes from a guest
//! to the host.

use shared_abi::addr::{PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};

use crate::hypervisor::Hypervisor;
use crate::machine::{Frames, Machine};
use crate::memory::object::{Object, PageRun, Presence};
use crate::memory::tlb::TlbGather;
use crate::ownership::host::HostMemory;
use crate::ownership::page_state::{ObjectPage, PageState};
use crate::vm::{Vm, VmState};

impl<M: Machine> Hypervisor<'_, M> {
    /// Removes a run, or its part within one binding, from the guest and returns it to the host. The pages'
    /// new presence in the object is `left`. Returns the number of pages.
    ///
    /// The order is fixed: the guest loses access, then the pages are wiped, then the host gains access.
    pub(crate) fn reclaim_run(
        &self,
        vm: &mut Vm,
        object: &mut Object,
        page: ObjectPage,
        run: PageRun,
        left: Presence,
    ) -> Result<u64, CallFailure> {
        let Presence::Present(first) = run.presence() else {
            return Ok(run.pages);
        };
        let Some((gfn, pages)) = vm.bound_run(page, run.pages) else {
            // A present page is always bound.
            return Err(CallError::Denied.into());
        };
        vm.has_tables::<M::Geometry>(page.offset(), gfn, pages)?;
        if vm.state == VmState::New {
            seeded!(vm.measurement.void(), MeasuredSwapped => ());
        }

        let mut gather = TlbGather::new(vm.tables.stage2_id());
        vm.tables.unmap(&self.machine, &mut vm.pool, gfn.0, pages, &mut gather);
        gather.finish(&self.machine);
        object.set(&self.machine, &mut vm.pool, page.offset(), pages, run.presence(), left);
        self.release_run(vm, page, first, pages);
        Ok(pages)
    }

    /// Returns a run that no guest reaches any more to the host. `page` is its first object page, `first` its
    /// first physical page. Pages of a protected VM are wiped, shared ones included; lent pages keep their
    /// content.
    pub(crate) fn release_run(&self, vm: &mut Vm, page: ObjectPage, first: Pfn, pages: u64) {
        let Some(range) = PageRange::<Pfn>::new(first, pages) else {
            return;
        };
        seeded!(LentWiped => self.machine.wipe(&Frames::new(range)));
        if vm.protected {
            self.machine.wipe(&Frames::new(range));
            vm.report.returned = vm.report.returned.wrapping_add(pages);
        }
        let mut host = self.host.lock(&self.machine);
        self.return_run(&mut host, vm, page, range);
    }

    /// Changes the state of a VM's pages, private or shared ones, to host-owned.
    fn return_run(
        &self,
        host: &mut HostMemory<'_, M::Geometry>,
        vm: &mut Vm,
        page: ObjectPage,
        range: PageRange<Pfn>,
    ) {
        let mut gather = host.gather();
        let mut done = 0_u64;
        while done < range.len() {
            let page = page.advance(done);
            let rest = (Pfn(range.first().0.wrapping_add(done)), range.len().wrapping_sub(done));
            let mut take = |from| host.convert(&self.machine, rest, from, PageState::HOST, &mut gather);
            let alone = take(vm.page_state(page));
            let shared = match alone {
                0 => take(PageState::guest_shared(page)),
                _ => 0,
            };
            vm.report.shared = vm.report.shared.saturating_sub(shared);
            match alone.saturating_add(shared) {
                // Unreachable: every page of the run is in one of the two states.
                0 => break,
                taken => done = done.saturating_add(taken),
            }
        }
        gather.finish(&self.machine);
    }
}
