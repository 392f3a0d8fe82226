//! A guest's calls for memory and power, and its memory accesses: for each the reasons to refuse it, in order, and
//! then its effect. The guest runs on a loaded vCPU.

use std::vec::Vec;

use shared_abi::addr::{Gfn, PAGE_SIZE};
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::vcpu::{AccessSize, Exit, StopReason};

use super::{Spec, SpecOwner, SpecPresence, SpecVmState, reasons, refuse, within};

reasons! {
    /// The reason to refuse a guest's call (SMCCC, DEN0028, section 7.1; PSCI, DEN0022, section 5.2.2).
    GuestRefusal: i64 {
        Ordinary       = -1, "The VM is ordinary: its memory is the host's already.";
        NotZero        = -3, "An argument that must be 0 is not.";
        Unaligned      = -3, "The IPA is not page aligned.";
        BeyondIpaSpace = -3, "The pages do not end within the IPA space.";
        Hole           = -3, "No memory object is bound there.";
        Poisoned       = -3, "The host took the page by force.";
        Shared         = -3, "The page is shared.";
        NotShared      = -3, "The page is not shared.";
        NoSuchVcpu     = -2, "There is no such vCPU.";
        AlreadyOn      = -4, "The vCPU is on.";
    }
}
use GuestRefusal::*;

/// The effect of a guest's call that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestEffect {
    /// x1 as the guest finds it, with x0 = 0. `None` if the guest made no call, or makes the call again when its vCPU
    /// is entered again.
    pub answer: Option<u64>,
    /// The exit that the host gets; `None` if the guest continues.
    pub exit: Option<Exit>,
}

/// The effect of a call, or the first reason to refuse it. A refused call changes nothing.
pub type GuestAnswer<T = GuestEffect> = Result<T, GuestRefusal>;

impl Spec {
    /// MEM_SHARE (`share`) or MEM_UNSHARE of x2 pages from the IPA x1 on. It converts pages from the first on until
    /// one is not in the right state. `done` is the number of pages that the core converted; it is at least 1.
    pub fn convert(&mut self, vm: VmHandle, [x1, x2, x3]: [u64; 3], share: bool, done: u64) -> GuestAnswer {
        let (from, to, is_so) = match share {
            true => (SpecOwner::Private(vm), SpecOwner::Shared(vm), Shared),
            false => (SpecOwner::Shared(vm), SpecOwner::Private(vm), NotShared),
        };
        let first = self.first_page(vm, x1, x2.max(1))?;
        refuse(NotZero, x3 != 0)?;
        match self.slot_at(vm, first).ok_or(Hole)? {
            SpecPresence::Poisoned => return Err(Poisoned),
            // The host must populate the page; then the guest makes the call again.
            SpecPresence::Absent if share => return exits(Exit::MemoryFault { gfn: Gfn(first) }),
            SpecPresence::Absent => return Err(NotShared),
            SpecPresence::Present(page) => refuse(is_so, self.owners[&page] != from)?,
        }

        let most = x2.clamp(1, self.layout.pages_per_call);
        let reached = (first..first + most).map_while(|gfn| self.guest_reach(vm, gfn));
        let pages: Vec<u64> = reached.take_while(|page| self.owners[page] == from).collect();
        let done = done.clamp(1, pages.len() as u64);
        self.owners.extend(pages.into_iter().take(done as usize).map(|page| (page, to)));
        Ok(GuestEffect { answer: Some(done), exit: None })
    }

    /// MEM_RELINQUISH of the page at the IPA in x1. The page becomes absent, not poisoned: the guest gave it
    /// up, so the host may populate that IPA again.
    pub fn relinquish(&mut self, vm: VmHandle, [x1, x2, x3]: [u64; 3]) -> GuestAnswer {
        let gfn = self.first_page(vm, x1, 1)?;
        refuse(NotZero, (x2, x3) != (0, 0))?;
        let page = match self.slot_at(vm, gfn).ok_or(Hole)? {
            SpecPresence::Poisoned => return Err(Poisoned),
            SpecPresence::Absent => return Ok(GuestEffect { answer: Some(0), exit: None }),
            SpecPresence::Present(page) => page,
        };
        refuse(Shared, self.owners[&page] != SpecOwner::Private(vm))?;

        self.give_back(page, SpecPresence::Absent);
        Ok(GuestEffect { answer: Some(0), exit: Some(Exit::Relinquished { gfn: Gfn(gfn) }) })
    }

    /// Returns the first of `pages` pages from an IPA on, if this VM has the calls about memory.
    fn first_page(&self, vm: VmHandle, ipa: u64, pages: u64) -> GuestAnswer<u64> {
        refuse(Ordinary, !self.vms[&vm].protected)?;
        refuse(Unaligned, !ipa.is_multiple_of(PAGE_SIZE))?;
        let first = ipa / PAGE_SIZE;
        refuse(BeyondIpaSpace, !within(first, pages, self.layout.ipa_pages))?;
        Ok(first)
    }

    /// PSCI CPU_ON of another vCPU.
    pub fn cpu_on(&mut self, vm: VmHandle, vcpu: VcpuIndex) -> GuestAnswer {
        let on = self.there(vm).on.get_mut(vcpu.0 as usize).ok_or(NoSuchVcpu)?;
        refuse(AlreadyOn, *on)?;

        *on = true;
        Ok(GuestEffect { answer: Some(0), exit: Some(Exit::CpuOn { vcpu }) })
    }

    /// PSCI CPU_OFF of its own vCPU.
    pub fn cpu_off(&mut self, vm: VmHandle, vcpu: VcpuIndex) -> GuestAnswer {
        self.there(vm).on[vcpu.0 as usize] = false;
        exits(Exit::CpuOff)
    }

    /// PSCI SYSTEM_OFF: the VM stops.
    pub fn system_off(&mut self, vm: VmHandle) -> GuestAnswer {
        self.there(vm).state = SpecVmState::Stopped;
        exits(Exit::SystemOff)
    }

    /// An 8-byte write of 0 to the start of a page.
    pub fn touch(&mut self, vm: VmHandle, gfn: u64) -> GuestAnswer {
        match self.slot_at(vm, gfn) {
            Some(SpecPresence::Present(_)) => Ok(GuestEffect { answer: None, exit: None }),
            Some(SpecPresence::Absent) => exits(Exit::MemoryFault { gfn: Gfn(gfn) }),
            Some(SpecPresence::Poisoned) => {
                self.there(vm).state = SpecVmState::Stopped;
                exits(Exit::Stopped(StopReason::Poisoned(Gfn(gfn))))
            }
            // No memory is bound there, so it may be a device: the host gets the access to emulate.
            None => exits(Exit::MmioWrite { ipa: Gfn(gfn).base(), size: AccessSize::Double, value: 0 }),
        }
    }

    /// Returns the vCPU to its VM, after an exit or an interrupt.
    pub fn put(&mut self, vm: VmHandle, vcpu: VcpuIndex) {
        self.there(vm).loaded.remove(&vcpu);
    }
}

const fn exits(exit: Exit) -> GuestAnswer {
    Ok(GuestEffect { answer: None, exit: Some(exit) })
}
