//! Guest and host reach the same page, in place, for as long as the guest likes.

use shared_abi::addr::{Gfn, PageRange, Pfn};

use crate::hypervisor::Hypervisor;
use crate::loaded::ShareError;
use crate::machine::Machine;
use crate::object::Content;
use crate::record::{ObjectPage, Record};
use crate::vm::VmPlace;

impl<M: Machine> Hypervisor<'_, M> {
    /// Lets the host reach a page of a protected guest's.
    ///
    /// | | host | guest |
    /// | --- | --- | --- |
    /// | before | nothing | owns, alone |
    /// | after | reaches it | owns, shared |
    ///
    /// The content stays; the guest's tables are not touched.
    #[inline]
    pub(crate) fn share(&self, place: &mut VmPlace, gfn: Gfn) -> Result<(), ShareError> {
        let (page, first) = self.find(place, gfn)?;
        let (private, shared) = (Record::guest(page), Record::guest_shared(page));
        self.convert(first, private, shared)?;
        if let Some(vm) = &mut place.vm {
            vm.report.shared = vm.report.shared.saturating_add(1);
        }
        Ok(())
    }

    /// Takes it back: the host's next touch faults, whatever the host still does with it.
    ///
    /// The table is that of [`Self::share`], read upwards.
    #[inline]
    pub(crate) fn unshare(&self, place: &mut VmPlace, gfn: Gfn) -> Result<(), ShareError> {
        let (page, first) = self.find(place, gfn).map_err(|_| ShareError::Denied)?;
        let (private, shared) = (Record::guest(page), Record::guest_shared(page));
        self.convert(first, shared, private)?;
        if let Some(vm) = &mut place.vm {
            vm.report.shared = vm.report.shared.saturating_sub(1);
        }
        Ok(())
    }

    /// Which page the guest means, and where it is.
    #[inline]
    fn find(&self, place: &VmPlace, gfn: Gfn) -> Result<(ObjectPage, Pfn), ShareError> {
        let page = place
            .vm
            .as_ref()
            .and_then(|vm| vm.object_page(gfn))
            .ok_or(ShareError::Denied)?;
        let object = place
            .objects
            .get(usize::from(page.object.0))
            .and_then(|place| place.object.as_ref())
            .ok_or(ShareError::Denied)?;
        match object.get(&self.machine, page.offset) {
            Content::Present(first) => Ok((page, first)),
            Content::Absent => Err(ShareError::Absent),
            Content::Poisoned => Err(ShareError::Denied),
        }
    }

    /// Checks the host's side and commits.
    #[inline]
    fn convert(&self, page: Pfn, from: Record, to: Record) -> Result<(), ShareError> {
        let single = PageRange::<Pfn>::new(page, 1).ok_or(ShareError::Denied)?;
        let mut host = self.host.lock(&self.machine);
        if host.records().get(page) != Some(from) {
            return Err(ShareError::Denied);
        }
        host.assign(&self.machine, single, from, to);
        Ok(())
    }
}
