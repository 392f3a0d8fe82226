//! Host to hypervisor and back: pages that the host donates, and pages that go home.

use shared_abi::addr::{PageRange, Pfn};
use shared_abi::error::CallError;

use crate::hypervisor::Hypervisor;
use crate::machine::{Frames, Machine};
use crate::ownership::page_state::PageState;

impl<M: Machine> Hypervisor<'_, M> {
    /// Takes pages from the host, whole and unshared, for the owner that `to` says. When this returns,
    /// no host CPU reaches a page that changed hands (what is lent does not); what is in them is still the
    /// host's.
    ///
    /// | | host | new owner |
    /// | --- | --- | --- |
    /// | before | owns, alone | - |
    /// | after | nothing | owns, alone |
    pub(crate) fn take_from_host(&self, range: PageRange<Pfn>, to: PageState) -> Result<(), CallError> {
        let mut host = self.host.lock(&self.machine);
        let looked_at = seeded!(range, FirstPageChecked => crate::seeded::first_page(range));
        let hosts = seeded!(
            host.owners().all(looked_at, PageState::HOST),
            LentTwice => host.owners().get(range.first()).is_some_and(PageState::host_reaches)
        );
        if !hosts {
            let is_ram = host.owners().is_ram(range);
            return Err(if is_ram { CallError::Denied } else { CallError::InvalidParameter });
        }
        host.assign(&self.machine, range, PageState::HOST, to);
        Ok(())
    }

    /// Gives pages that nobody but `from` says reaches back to the host, wiped.
    pub(crate) fn return_to_host(&self, frames: Frames, from: PageState) {
        seeded!(self.machine.wipe(&frames), PoolUnwiped => ());
        self.host.lock(&self.machine).assign(&self.machine, frames.range(), from, PageState::HOST);
    }
}
