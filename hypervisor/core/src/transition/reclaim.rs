//! Memory object to host: punching holes, and taking single pages by force.

pub(crate) mod run;

use shared_abi::addr::{PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::ObjectHandle;

use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::machine::geometry::Geometry;
use crate::memory::object::{Content, Run};
use crate::ownership::page_state::{ObjectPage, Owner, Record};
use crate::vm::object_in;

impl<M: Machine> Hypervisor<'_, M> {
    /// Takes what is present in a range of an object back for the host.
    ///
    /// | | host | guest |
    /// | --- | --- | --- |
    /// | before | nothing, or shared with | owns |
    /// | after | owns, alone; wiped | absent before the start, poisoned after it |
    /// | before, ordinary VM | owns, lent | reaches it |
    /// | after, ordinary VM | owns, alone | absent |
    #[inline(never)]
    pub(crate) fn punch(&self, handle: ObjectHandle, offset: u64, pages: u64) -> Result<u64, CallFailure> {
        self.with_object(handle, |vm, index, place| {
            let object = place.object.as_mut().ok_or(CallError::NotFound)?;
            if !object.has(offset, pages) {
                return Err(CallError::InvalidParameter.into());
            }
            let most = pages.min(M::Geometry::PAGES_PER_CALL);
            let mut done = 0_u64;
            while done < most {
                let offset = offset.wrapping_add(done);
                let page = ObjectPage::new(vm.index, index, offset);
                let run = object.run(&self.machine, offset, most.wrapping_sub(done));
                match self.take_run(vm, object, page, run, vm.hole()) {
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

    /// Takes one page of a protected VM's back, by its number. The table is that of [`Self::punch`],
    /// but a page that the guest shares is not taken: the host reaches it anyway.
    #[inline(never)]
    pub(crate) fn force_reclaim(&self, page: Pfn) -> Result<(), CallFailure> {
        let single = PageRange::<Pfn>::new(page, 1).ok_or(CallError::InvalidParameter)?;
        let claim = {
            let host = self.host.lock(&self.machine);
            if !host.records().is_ram(single) {
                return Err(CallError::InvalidParameter.into());
            }
            private_page(host.records().get(page))?
        };
        let mut place =
            self.places.get(usize::from(claim.vm().0)).ok_or(CallError::Denied)?.lock(&self.machine);
        let place = &mut *place;
        let vm = place.vm.as_mut().ok_or(CallError::Denied)?;
        vm.is_alive()?;
        // The locks were taken in order, so the record may have changed in between: it is read again.
        // From now on only this VM's lock, which is held, lets the page change hands.
        let found =
            seeded!(private_page(self.host.lock(&self.machine).records().get(page))?, StaleClaim => claim);
        if found != claim {
            return Err(CallError::Denied.into());
        }
        let object = object_in(&mut place.objects, found.object()).ok_or(CallError::Denied)?;
        let run = Run::new(Content::Present(page), 1);
        self.take_run(vm, object, found, run, vm.hole()).map(|_| ())
    }
}

/// The page of a protected VM's that a record says is its alone.
fn private_page(record: Option<Record>) -> Result<ObjectPage, CallError> {
    match record.map(Record::owner) {
        Some(Owner::Guest(page)) => Ok(page),
        _ => Err(CallError::Denied),
    }
}
