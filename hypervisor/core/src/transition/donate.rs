//! Donation of host pages to the hypervisor, and their return.

use shared_abi::addr::{PageRange, Pfn};
use shared_abi::error::CallError;

use crate::hypervisor::Hypervisor;
use crate::machine::{Frames, Machine};
use crate::ownership::page_state::PageState;

impl<M: Machine> Hypervisor<'_, M> {
    /// Changes pages from host-owned to state `to`. The host must own all of them and share none. Afterwards
    /// no host CPU reaches a page, except one that is lent. The content is still the host's.
    ///
    ///  | | host | new owner |
    ///  | --- | --- | --- |
    ///  | before | owns, alone | - |
    ///  | after | nothing | owns, alone |
    ///
    /// # Errors
    ///
    /// [`CallError::InvalidParameter`] if a page is not RAM, [`CallError::Denied`] if a page is not the
    /// host's alone. Nothing has changed then.
    pub(crate) fn take_from_host(&self, range: PageRange<Pfn>, to: PageState) -> Result<(), CallError> {
        let mut host = self.host.lock(&self.machine);
        let hosts = seeded!(
            host.owners().all(range, PageState::HOST),
            LentTwice => host.owners().get(range.first()).is_some_and(PageState::host_reaches)
        );
        if !hosts {
            let is_ram = host.owners().is_ram(range);
            return Err(if is_ram { CallError::Denied } else { CallError::InvalidParameter });
        }
        host.assign(&self.machine, range, PageState::HOST, to);
        Ok(())
    }

    /// Wipes pages in state `from`, which only the hypervisor reaches, and returns them to the host.
    pub(crate) fn return_to_host(&self, frames: Frames, from: PageState) {
        self.machine.wipe(&frames);
        self.host.lock(&self.machine).assign(&self.machine, frames.range(), from, PageState::HOST);
    }
}
