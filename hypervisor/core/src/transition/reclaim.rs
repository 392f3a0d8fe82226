//! Reclaim of object pages by the host: ranges of an object, and single pages by force.

pub(crate) mod run;

use shared_abi::addr::{PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::ObjectHandle;

use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::machine::geometry::Geometry;
use crate::memory::object::{PageRun, Presence};
use crate::ownership::page_state::{ObjectPage, Owner, PageState};
use crate::vm::object_in;

impl<M: Machine> Hypervisor<'_, M> {
    /// Returns the present pages of an object's range to the host. Returns the number of pages covered.
    ///
    ///  | | host | guest |
    ///  | --- | --- | --- |
    ///  | before | nothing, or shared with | owns |
    ///  | after | owns, alone; wiped | absent before the start, poisoned after it |
    ///  | before, ordinary VM | owns, lent | reaches it |
    ///  | after, ordinary VM | owns, alone | absent |
    ///
    /// If pages are left, the call returns [`CallError::Again`] with the number of pages covered.
    pub(crate) fn reclaim(&self, handle: ObjectHandle, offset: u64, pages: u64) -> Result<u64, CallFailure> {
        self.with_object(handle, |vm, index, slot| {
            let object = slot.object.as_mut().ok_or(CallError::NotFound)?;
            if !object.has(offset, pages) {
                return Err(CallError::InvalidParameter.into());
            }
            let most = pages.min(M::Geometry::PAGES_PER_CALL);
            let mut done = 0_u64;
            while done < most {
                let offset = offset.wrapping_add(done);
                let page = ObjectPage::new(vm.index, index, offset);
                let run = object.run(&self.machine, offset, most.wrapping_sub(done));
                match self.reclaim_run(vm, object, page, run, vm.hole()) {
                    Ok(taken) => done = done.saturating_add(taken),
                    Err(_) if done != 0 => break,
                    Err(failure) => return Err(failure),
                }
            }
            if done < pages {
                return Err(CallFailure::again(done));
            }
            Ok(done)
        })
    }

    /// Reclaims one page of a protected VM by its page number. The page states change as in
    /// [`Self::reclaim`]. A shared page is refused with [`CallError::Denied`], because the host reaches it
    /// anyway.
    pub(crate) fn force_reclaim(&self, page: Pfn) -> Result<(), CallFailure> {
        let single = PageRange::<Pfn>::new(page, 1).ok_or(CallError::InvalidParameter)?;
        let recorded = {
            let host = self.host.lock(&self.machine);
            if !host.owners().is_ram(single) {
                return Err(CallError::InvalidParameter.into());
            }
            private_page(host.owners().get(page))?
        };
        let mut slot =
            self.slots.get(usize::from(recorded.vm().0)).ok_or(CallError::Denied)?.lock(&self.machine);
        let slot = &mut *slot;
        let vm = slot.vm.as_mut().ok_or(CallError::Denied)?;
        vm.is_alive()?;
        // The lock order requires the VM's lock first, so the page state may have changed since the first
        // read and is read again. From now on the page cannot change owner, because that takes this VM's
        // lock.
        let found =
            seeded!(private_page(self.host.lock(&self.machine).owners().get(page))?, StaleOwner => recorded);
        if found != recorded {
            return Err(CallError::Denied.into());
        }
        let object = object_in(&mut slot.objects, found.object()).ok_or(CallError::Denied)?;
        let run = PageRun::new(Presence::Present(page), 1);
        self.reclaim_run(vm, object, found, run, vm.hole()).map(|_| ())
    }
}

/// Returns the object page of a page that a protected VM alone reaches.
fn private_page(state: Option<PageState>) -> Result<ObjectPage, CallError> {
    match state.map(PageState::owner) {
        Some(Owner::Guest(page)) => Ok(page),
        _ => Err(CallError::Denied),
    }
}
