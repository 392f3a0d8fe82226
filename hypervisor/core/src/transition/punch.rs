//! Memory object to host: punching holes, and taking single pages by force.

use shared_abi::addr::{PageRange, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::ObjectHandle;

use crate::hypervisor::{CallFailure, Hypervisor};
use crate::machine::{Frames, Machine};
use crate::object::{Content, Object, Run};
use crate::record::{ObjectPage, Owner, Record};
use crate::stage2::batch::Batch;
use crate::vm::{Life, Vm};

/// The most pages that one call populates, takes back or looks at.
pub(crate) const MAX_PAGES_PER_CALL: u64 = 512;

impl<M: Machine> Hypervisor<'_, M> {
    /// Takes what is present in a range of an object back for the host.
    ///
    /// | | host | guest |
    /// | --- | --- | --- |
    /// | before | nothing, or shared with | owns |
    /// | after | owns, alone; wiped | absent before the start, poisoned after it |
    /// | before, ordinary VM | owns, lent | reaches it |
    /// | after, ordinary VM | owns, alone | absent |
    pub(crate) fn punch(
        &self,
        handle: ObjectHandle,
        offset: u64,
        pages: u64,
    ) -> Result<u64, CallFailure> {
        self.with_object(handle, |vm, index, place| {
            let object = place.object.as_mut().ok_or(CallError::NotFound)?;
            if !object.has(offset, pages) {
                return Err(CallError::InvalidParameter.into());
            }
            let most = pages.min(MAX_PAGES_PER_CALL);
            let mut done = 0_u64;
            while done < most {
                let offset = offset.wrapping_add(done);
                let page = ObjectPage {
                    vm: vm.index,
                    object: index,
                    offset,
                };
                let run = object.run(&self.machine, offset, most.wrapping_sub(done));
                match self.take_run(vm, object, page, run) {
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
    pub(crate) fn force_reclaim(&self, page: Pfn) -> Result<(), CallFailure> {
        let single = PageRange::<Pfn>::new(page, 1).ok_or(CallError::InvalidParameter)?;
        let claim = {
            let host = self.host.lock(&self.machine);
            if !host.records().is_ram(single) {
                return Err(CallError::InvalidParameter.into());
            }
            private_page(host.records().get(page))?
        };
        let mut place = self
            .places
            .get(usize::from(claim.vm.0))
            .ok_or(CallError::Denied)?
            .lock(&self.machine);
        let place = &mut *place;
        let vm = place.vm.as_mut().ok_or(CallError::Denied)?;
        vm.is_alive()?;
        // The locks were taken in order, so the record may have changed in between: it is read again.
        // From now on only this VM's lock, which is held, lets the page change hands.
        let found = private_page(self.host.lock(&self.machine).records().get(page))?;
        if found != claim {
            return Err(CallError::Denied.into());
        }
        let object = place
            .objects
            .get_mut(usize::from(found.object.0))
            .and_then(|place| place.object.as_mut())
            .ok_or(CallError::Denied)?;
        let run = Run {
            content: Content::Present(page),
            pages: 1,
        };
        self.take_run(vm, object, found, run).map(|_| ())
    }

    /// Takes a run back, or the part of it that lies in one binding. Answers how many pages that was.
    fn take_run(
        &self,
        vm: &mut Vm,
        object: &mut Object,
        page: ObjectPage,
        run: Run,
    ) -> Result<u64, CallFailure> {
        let Content::Present(first) = run.content else {
            return Ok(run.pages);
        };
        let Some((gfn, pages)) = vm.bound_run(page.object, page.offset, run.pages) else {
            // Present pages are bound; a run without binding would be none of the guest's.
            return Err(CallError::Denied.into());
        };
        let tables = object
            .tables_to_set(&self.machine, page.offset, pages)
            .saturating_add(vm.tables.tables_to_unmap(&self.machine, gfn.0, pages));
        if let Some(missing) = vm.pool.short_of(tables) {
            return Err(CallFailure::no_memory(missing));
        }

        let mut batch = Batch::new(vm.tables.space());
        vm.tables
            .unmap(&self.machine, &mut vm.pool, gfn.0, pages, &mut batch);
        batch.finish(&self.machine);
        let left = if vm.protected && vm.life != Life::New {
            Content::Poisoned
        } else {
            Content::Absent
        };
        object.set(
            &self.machine,
            &mut vm.pool,
            page.offset,
            pages,
            run.content,
            left,
        );
        self.release_run(vm, page, first, pages);
        Ok(pages)
    }

    /// Gives a run that no guest reaches any more back to the host: wiped, or as it is if it was only
    /// lent. `page` and `first` are where the run was and where it starts in memory.
    pub(crate) fn release_run(&self, vm: &mut Vm, page: ObjectPage, first: Pfn, pages: u64) {
        let Some(range) = PageRange::<Pfn>::new(first, pages) else {
            return;
        };
        let whole = vm.record(page);
        if vm.protected {
            self.machine.wipe(&Frames::new(range));
            vm.report.returned = vm.report.returned.saturating_add(pages);
        }
        let mut host = self.host.lock(&self.machine);
        if host.records().all(range, whole) {
            host.assign(&self.machine, range, whole, Record::HOST);
            return;
        }
        // Some of it is shared: page by page.
        for next in range.iter() {
            let (Some(record), Some(single)) =
                (host.records().get(next), PageRange::<Pfn>::new(next, 1))
            else {
                continue;
            };
            if matches!(record.owner(), Owner::GuestShared(_)) {
                vm.report.shared = vm.report.shared.saturating_sub(1);
            }
            host.assign(&self.machine, single, record, Record::HOST);
        }
    }
}

/// The page of a protected VM's that a record says is its alone.
fn private_page(record: Option<Record>) -> Result<ObjectPage, CallError> {
    match record.map(Record::owner) {
        Some(Owner::Guest(page)) => Ok(page),
        _ => Err(CallError::Denied),
    }
}
