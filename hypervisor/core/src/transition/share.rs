//! Guest and host reach the same pages, in place, for as long as the guest likes.

use shared_abi::addr::{Gfn, PageRange};

use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::machine::geometry::Geometry;
use crate::memory::object::Presence;
use crate::ownership::page_state::{ObjectPage, PageState};
use crate::transition::ShareError;
use crate::vm::{VmSlot, object_in};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// The host gets access.
    Share,
    /// It loses it.
    Unshare,
}

impl Sharing {
    /// The page state that a page of a guest's has to have, and the one that it gets.
    pub(super) const fn states(self, page: ObjectPage) -> (PageState, PageState) {
        let (private, shared) = (PageState::guest(page), PageState::guest_shared(page));
        match self {
            Self::Share => (private, shared),
            Self::Unshare => (shared, private),
        }
    }

    /// How many pages are shared when `pages` more were converted.
    pub(super) fn count(self, shared: u64, pages: u64) -> u64 {
        match self {
            Self::Share => shared.wrapping_add(pages),
            Self::Unshare => shared.wrapping_sub(pages),
        }
    }
}

impl<M: Machine> Hypervisor<'_, M> {
    /// Lets the host reach pages of a protected guest's, or takes them back: the host's next touch
    /// faults then, whatever it still does with them.
    ///
    /// | | host | guest |
    /// | --- | --- | --- |
    /// | private | nothing | owns, alone |
    /// | shared | reaches it | owns, shared |
    ///
    /// The content stays; the guest's tables are not touched. What is not as it has to be ends the call
    /// there: the answer is how many pages, at least one, were done.
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
