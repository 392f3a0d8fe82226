//! Relinquish: a guest returns a page to the host.

use shared_abi::addr::Gfn;
use shared_abi::error::{CallError, CallFailure};

use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::memory::object::Presence;
use crate::ownership::page_state::PageState;
use crate::vm::{VmSlot, object_in};

impl<M: Machine> Hypervisor<'_, M> {
    /// Returns a private page of a protected guest to the host. Returns whether a page was present.
    ///
    ///  | | host | guest |
    ///  | --- | --- | --- |
    ///  | before | nothing | owns, alone |
    ///  | after | owns, alone; wiped | absent; the next access makes the host populate a wiped page |
    pub(crate) fn relinquish(&self, slot: &mut VmSlot, gfn: Gfn) -> Result<bool, CallFailure> {
        let vm = slot.vm.as_mut().ok_or(CallError::Denied)?;
        let (page, _) = vm.object_run(gfn).ok_or(CallError::Denied)?;
        let object = object_in(&mut slot.objects, page.object()).ok_or(CallError::Denied)?;
        let run = object.run(&self.machine, page.offset(), 1);
        let first = match run.presence() {
            Presence::Present(first) => first,
            Presence::Absent => return Ok(false),
            Presence::Poisoned => return Err(CallError::Denied.into()),
        };
        // The page cannot change owner meanwhile, because that takes this VM's lock.
        let state = self.host.lock(&self.machine).owners().get(first);
        let wanted = seeded!(Some(PageState::guest(page)), RelinquishShared => state);
        if state != wanted {
            return Err(CallError::Denied.into());
        }
        self.reclaim_run(vm, object, page, run, Presence::Absent)?;
        Ok(true)
    }
}
