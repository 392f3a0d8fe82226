//! Share and unshare: a protected guest gives the host access to its pages in place, and removes it again.

use shared_abi::addr::{Gfn, PageRange};

use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::machine::geometry::Geometry;
use crate::memory::object::Presence;
use crate::ownership::page_state::{ObjectPage, PageState};
use crate::transition::ShareError;
use crate::vm::{VmSlot, object_in};

/// The direction of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// The host gains access.
    Share,
    /// The host loses access.
    Unshare,
}

impl Sharing {
    /// Returns the required state of a guest page, and its new state.
    pub(super) const fn states(self, page: ObjectPage) -> (PageState, PageState) {
        let (private, shared) = (PageState::guest(page), PageState::guest_shared(page));
        match self {
            Self::Share => (private, shared),
            Self::Unshare => (shared, private),
        }
    }

    /// Returns the number of shared pages after the conversion of `pages` pages.
    pub(super) fn count(self, shared: u64, pages: u64) -> u64 {
        match self {
            Self::Share => shared.wrapping_add(pages),
            Self::Unshare => shared.wrapping_sub(pages),
        }
    }
}

impl<M: Machine> Hypervisor<'_, M> {
    /// Shares pages of a protected guest with the host, or unshares them. After an unshare the host's next
    /// access faults.
    ///
    ///  | | host | guest |
    ///  | --- | --- | --- |
    ///  | private | nothing | owns, alone |
    ///  | shared | reaches it | owns, shared |
    ///
    /// The content and the guest's tables stay unchanged. The call stops at the first page that is absent or
    /// in the wrong state. Returns the number of converted pages, which is at least 1.
    ///
    /// # Errors
    ///
    /// [`ShareError`] if the first page cannot be converted. Nothing has changed then.
    pub(crate) fn convert(
        &self,
        slot: &mut VmSlot,
        range: PageRange<Gfn>,
        sharing: Sharing,
    ) -> Result<u64, ShareError> {
        let vm = slot.vm.as_mut().ok_or(ShareError::Denied)?;
        let wanted = range.len().min(M::Geometry::PAGES_PER_CALL);
        let mut done = 0_u64;
        let mut stopped_by = ShareError::Denied;
        let mut host = self.host.lock(&self.machine);
        let mut gather = host.gather();
        while done < wanted {
            let gfn = Gfn(range.first().0.wrapping_add(done));
            let Some((page, bound)) = vm.object_run(gfn) else {
                break;
            };
            let Some(object) = object_in(&mut slot.objects, page.object()) else {
                break;
            };
            let most = bound.min(wanted.wrapping_sub(done));
            let run = object.run(&self.machine, page.offset(), most);
            let Presence::Present(first) = run.presence() else {
                if run.presence() == Presence::Absent && sharing == Sharing::Share {
                    stopped_by = ShareError::Absent;
                }
                break;
            };
            let (from, to) = sharing.states(page);
            let converted = host.convert(&self.machine, (first, run.pages), from, to, &mut gather);
            done = done.wrapping_add(converted);
            if converted != run.pages {
                break;
            }
        }
        gather.finish(&self.machine);
        vm.report.shared = sharing.count(vm.report.shared, done);
        seeded!(SharedUncounted => vm.report.shared = vm.report.shared.wrapping_add(done));
        seeded!(OneTooMany => done = done.wrapping_add(done.min(1)));
        match done {
            0 => Err(stopped_by),
            _ => Ok(done),
        }
    }
}
