//! What guests ask of memory and power, and what they meet where they touch memory: for each the reasons
//! to refuse it, in order, and then what it does. The guest is on a loaded vCPU.

use std::vec::Vec;

use shared_abi::addr::{Gfn, PAGE_SIZE};
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::vcpu::{AccessSize, Exit, StopReason};

use super::{Spec, SpecOwner, SpecPresence, SpecVmState, reasons, refuse, within};

reasons! {
    /// Why a guest's call is refused (SMCCC, DEN0028, section 7.1; PSCI, DEN0022, section 5.2.2).
    GuestRefusal: i64 {
        Ordinary       = -1, "An ordinary VM's memory is the host's: there is nothing to share.";
        NotZero        = -3, "An argument that must be 0 is not.";
        Unaligned      = -3, "The IPA is no page's first.";
        BeyondIpaSpace = -3, "The pages do not end within the IPA space.";
        Hole           = -3, "No memory of the guest's is there.";
        Poisoned       = -3, "The host took the page.";
        Shared         = -3, "The page is shared already, or is to be kept by whom it is shared with.";
        NotShared      = -3, "The page is not shared.";
        NoSuchVcpu     = -2, "There is no such vCPU.";
        AlreadyOn      = -4, "The vCPU is on.";
    }
}
use GuestRefusal::*;

/// What comes of a guest's call that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestEffect {
    /// x1 as the guest finds it, with x0 = 0; `None` if it is not answered: nothing was called, or the
    /// call is made again once the vCPU is entered again.
    pub answer: Option<u64>,
    /// What the host is told; `None` if the guest goes on.
    pub exit: Option<Exit>,
}

/// The first reason to refuse a call, or what comes of it. What is refused has changed nothing.
pub type GuestAnswer<T = GuestEffect> = Result<T, GuestRefusal>;

impl Spec {
    /// MEM_SHARE (`share`) or MEM_UNSHARE of x2 pages from the IPA x1 on: of as many as are private, or
    /// shared, from the first on. `done` is how many the core chose to do at a time, but not none.
    pub fn convert(&mut self, vm: VmHandle, [x1, x2, x3]: [u64; 3], share: bool, done: u64) -> GuestAnswer {
        let (from, to, is_so) = match share {
            true => (SpecOwner::Private(vm), SpecOwner::Shared(vm), Shared),
            false => (SpecOwner::Shared(vm), SpecOwner::Private(vm), NotShared),
        };
        let first = self.first_page(vm, x1, x2.max(1))?;
        refuse(NotZero, x3 != 0)?;
        match self.slot_at(vm, first).ok_or(Hole)? {
            SpecPresence::Poisoned => return Err(Poisoned),
            // The host is to bring it, and the call is made again.
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

    /// MEM_RELINQUISH of the page at the IPA x1. Unlike where the host takes a page by force, another may
    /// come to its place: the guest expects to find nothing there.
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

    /// The first of `pages` pages from an IPA on, where calls about memory are offered.
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

    /// PSCI SYSTEM_OFF.
    pub fn system_off(&mut self, vm: VmHandle) -> GuestAnswer {
        self.there(vm).state = SpecVmState::Stopped;
        exits(Exit::SystemOff)
    }

    /// A write of 0, eight bytes long, to the beginning of a page.
    pub fn touch(&mut self, vm: VmHandle, gfn: u64) -> GuestAnswer {
        match self.slot_at(vm, gfn) {
            Some(SpecPresence::Present(_)) => Ok(GuestEffect { answer: None, exit: None }),
            Some(SpecPresence::Absent) => exits(Exit::MemoryFault { gfn: Gfn(gfn) }),
            Some(SpecPresence::Poisoned) => {
                self.there(vm).state = SpecVmState::Stopped;
                exits(Exit::Stopped(StopReason::Poisoned(Gfn(gfn))))
            }
            // A device may be there: the host is told what a driver of it must be told.
            None => exits(Exit::MmioWrite { ipa: Gfn(gfn).base(), size: AccessSize::Double, value: 0 }),
        }
    }

    /// The vCPU has exited, or was interrupted, and is back in its VM.
    pub fn put(&mut self, vm: VmHandle, vcpu: VcpuIndex) {
        self.there(vm).loaded.remove(&vcpu);
    }
}

const fn exits(exit: Exit) -> GuestAnswer {
    Ok(GuestEffect { answer: None, exit: Some(exit) })
}
