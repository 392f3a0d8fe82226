//! How a run of pages leaves a guest for the host, whoever wants that.

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
    /// Takes a run from the guest, or the part of it that lies in one binding, and gives it to the host.
    /// `left` is what the object has there from then on. Answers how many pages that was.
    ///
    /// First the guest can't reach the pages any more, then they are wiped, then the host reaches them.
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
            // Present pages are bound; a run without binding would be none of the guest's.
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

    /// Gives a run that no guest reaches any more back to the host: wiped, or as it is if it was only
    /// lent. `page` and `first` are where the run was and where it starts in memory. What of it the
    /// guest shares is wiped as well: its content need not survive the VM's interest in it.
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

    /// Gives pages of a VM's to the host, some of which the guest may share.
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
                // Nothing but these two can be: a page of another page state would be none of the VM's.
                0 => break,
                taken => done = done.saturating_add(taken),
            }
        }
        gather.finish(&self.machine);
    }
}
