//! vCPUs, what guests may ask of memory and power, and what they meet where they touch memory.

use std::vec::Vec;

use shared_abi::addr::{Gfn, PAGE_SIZE};
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::vcpu::{AccessSize, Exit, StopReason};

use super::refusals::{Refusal, within};
use super::{Life, Owner, Slot, Spec, Vcpu};

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestCall {
    /// MEM_SHARE of x2 pages from the IPA x1 on; x3.
    Share([u64; 3]),
    /// MEM_UNSHARE, likewise.
    Unshare([u64; 3]),
    /// MEM_RELINQUISH of the page at the IPA x1; x2 and x3.
    Relinquish([u64; 3]),
    /// PSCI CPU_ON of the vCPU of that index.
    CpuOn(u32),
    /// PSCI CPU_OFF of itself.
    CpuOff,
    /// PSCI SYSTEM_OFF.
    SystemOff,
    /// A write of 0, eight bytes long, to the beginning of a page.
    Touch(u64),
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// x0 and x1 as the guest finds them; `None` if it is not answered: nothing was called, or the
    /// call is made again once the vCPU is entered again.
    pub answer: Option<(u64, u64)>,
    /// What the host is told; `None` if the guest goes on.
    pub exit: Option<Exit>,
}

/// Rules by which a guest's call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestRefusal {
    /// An ordinary VM's memory is the host's: there is nothing to share.
    Ordinary,
    /// An argument that must be 0 is not.
    NotZero,
    /// The IPA is no page's first.
    Unaligned,
    /// The pages do not end within the IPA space.
    BeyondIpaSpace,
    /// No memory of the guest's is there.
    Hole,
    /// The host took the page.
    Poisoned,
    /// The page is shared already, or is to be kept by whom it is shared with.
    Shared,
    /// The page is not shared.
    NotShared,
    /// There is no such vCPU.
    NoSuchVcpu,
    /// The vCPU is on.
    AlreadyOn,
}

impl GuestRefusal {
    /// x0 (SMCCC, DEN0028, section 7.1; PSCI, DEN0022, section 5.2.2).
    #[must_use]
    pub const fn code(self) -> u64 {
        let code: i64 = match self {
            Self::Ordinary => -1,
            Self::NoSuchVcpu => -2,
            Self::AlreadyOn => -4,
            _ => -3,
        };
        code.cast_unsigned()
    }
}

impl Outcome {
    const fn answer(x0: u64, x1: u64) -> Self {
        Self { answer: Some((x0, x1)), exit: None }
    }

    const fn exit(exit: Exit) -> Self {
        Self { answer: None, exit: Some(exit) }
    }

    const GOES_ON: Self = Self { answer: None, exit: None };
}

impl Spec {
    /// Enters a vCPU, or says why not.
    ///
    /// # Errors
    ///
    /// The first reason that holds.
    pub fn load(&mut self, vm: VmHandle, vcpu: VcpuIndex) -> Result<(), Refusal> {
        let found = self.vm(vm)?;
        match found.life {
            Life::New | Life::Stopped => return Err(Refusal::NotRunning),
            Life::Dying => return Err(Refusal::Dying),
            Life::Started => {}
        }
        match found.vcpus.get(vcpu.0 as usize).ok_or(Refusal::NoVcpu)? {
            Vcpu { loaded: true, .. } => return Err(Refusal::Loaded),
            Vcpu { on: false, .. } => return Err(Refusal::Off),
            Vcpu { .. } => {}
        }
        self.change_vcpu(vm, vcpu.0, |vcpu| vcpu.loaded = true);
        Ok(())
    }

    /// The vCPU is back in its VM.
    pub fn put(&mut self, vm: VmHandle, vcpu: VcpuIndex) {
        self.change_vcpu(vm, vcpu.0, |vcpu| vcpu.loaded = false);
    }

    /// What a guest does on a loaded vCPU, and what comes of it. `done` is how many pages a call for
    /// many has done: as many as it could, or fewer, but at least one.
    ///
    /// # Errors
    ///
    /// Why the guest's call is refused; then nothing happened.
    pub fn guest(
        &mut self,
        vm: VmHandle,
        vcpu: VcpuIndex,
        call: GuestCall,
        done: u64,
    ) -> Result<Outcome, GuestRefusal> {
        match call {
            GuestCall::Share(x) => self.convert(vm, x, done, true),
            GuestCall::Unshare(x) => self.convert(vm, x, done, false),
            GuestCall::Relinquish([ipa, x2, x3]) => {
                let gfn = self.pages_from(vm, ipa, 1)?;
                refuse(GuestRefusal::NotZero, (x2, x3) != (0, 0))?;
                self.relinquish(vm, gfn)
            }
            GuestCall::CpuOn(target) => {
                let vcpus = self.vms.get(&vm).map_or(&[][..], |vm| &vm.vcpus);
                let found = vcpus.get(target as usize).ok_or(GuestRefusal::NoSuchVcpu)?;
                refuse(GuestRefusal::AlreadyOn, found.on)?;
                self.change_vcpu(vm, target, |vcpu| vcpu.on = true);
                let exit = Exit::CpuOn { vcpu: VcpuIndex(target) };
                Ok(Outcome { answer: Some((0, 0)), exit: Some(exit) })
            }
            GuestCall::CpuOff => {
                self.change_vcpu(vm, vcpu.0, |vcpu| vcpu.on = false);
                Ok(Outcome::exit(Exit::CpuOff))
            }
            GuestCall::SystemOff => {
                self.change_vm(vm, |vm| vm.life = Life::Stopped);
                Ok(Outcome::exit(Exit::SystemOff))
            }
            GuestCall::Touch(gfn) => Ok(match self.slot_at(vm, gfn) {
                Some(Slot::Present(_)) => Outcome::GOES_ON,
                // A device may be there: the host is told what a driver of it must be told.
                None => Outcome::exit(Exit::MmioWrite {
                    ipa: Gfn(gfn).base(),
                    size: AccessSize::Double,
                    value: 0,
                }),
                Some(Slot::Absent) => Outcome::exit(Exit::MemoryFault { gfn: Gfn(gfn) }),
                Some(Slot::Poisoned) => {
                    self.change_vm(vm, |vm| vm.life = Life::Stopped);
                    Outcome::exit(Exit::Stopped(StopReason::Poisoned(Gfn(gfn))))
                }
            }),
        }
    }

    /// MEM_SHARE (`share`) and MEM_UNSHARE: as many pages as are private, or shared, from the first on.
    fn convert(
        &mut self,
        vm: VmHandle,
        [ipa, granules, x3]: [u64; 3],
        done: u64,
        share: bool,
    ) -> Result<Outcome, GuestRefusal> {
        let first = self.pages_from(vm, ipa, granules.max(1))?;
        refuse(GuestRefusal::NotZero, x3 != 0)?;
        let (from, to) = (Owner::Memory { vm, host: !share }, Owner::Memory { vm, host: share });
        let pages: Vec<u64> = (first..first + granules.clamp(1, self.layout.pages_per_call))
            .map_while(|gfn| self.guest_reach(vm, gfn))
            .take_while(|page| self.owners.get(page) == Some(&from))
            .collect();
        if pages.is_empty() {
            return match self.slot_at(vm, first) {
                // The host is to bring it, and the call is made again.
                Some(Slot::Absent) if share => Ok(Outcome::exit(Exit::MemoryFault { gfn: Gfn(first) })),
                Some(Slot::Absent) => Err(GuestRefusal::NotShared),
                Some(Slot::Poisoned) => Err(GuestRefusal::Poisoned),
                Some(Slot::Present(_)) if share => Err(GuestRefusal::Shared),
                Some(Slot::Present(_)) => Err(GuestRefusal::NotShared),
                None => Err(GuestRefusal::Hole),
            };
        }
        let done = done.clamp(1, pages.len() as u64);
        self.owners.extend(pages.into_iter().zip(0..done).map(|(page, _)| (page, to)));
        Ok(Outcome::answer(0, done))
    }

    /// MEM_RELINQUISH: the page goes back to the host, wiped, and its place is absent: unlike what the
    /// host takes by force, it may be populated again, as the guest expects to find nothing there.
    fn relinquish(&mut self, vm: VmHandle, gfn: u64) -> Result<Outcome, GuestRefusal> {
        let (object, offset) = self.place_of(vm, gfn).ok_or(GuestRefusal::Hole)?;
        match self.slot(object, offset) {
            Some(Slot::Present(page)) => {
                let private = self.owners.get(&page) == Some(&Owner::Memory { vm, host: false });
                refuse(GuestRefusal::Shared, !private)?;
                self.set_slot(object, offset, Slot::Absent);
                self.owners.insert(page, Owner::Host);
                let exit = Exit::Relinquished { gfn: Gfn(gfn) };
                Ok(Outcome { answer: Some((0, 0)), exit: Some(exit) })
            }
            Some(Slot::Absent) => Ok(Outcome::answer(0, 0)),
            Some(Slot::Poisoned) | None => Err(GuestRefusal::Poisoned),
        }
    }

    /// The first of `pages` pages from an IPA on.
    fn pages_from(&self, vm: VmHandle, ipa: u64, pages: u64) -> Result<u64, GuestRefusal> {
        refuse(GuestRefusal::Ordinary, !self.vms.get(&vm).is_some_and(|vm| vm.protected))?;
        refuse(GuestRefusal::Unaligned, !ipa.is_multiple_of(PAGE_SIZE))?;
        let first = ipa / PAGE_SIZE;
        refuse(GuestRefusal::BeyondIpaSpace, !within(first, pages, self.layout.ipa_pages))?;
        Ok(first)
    }

    fn change_vcpu(&mut self, vm: VmHandle, vcpu: u32, f: impl FnOnce(&mut Vcpu)) {
        self.change_vm(vm, |vm| {
            if let Some(vcpu) = vm.vcpus.get_mut(vcpu as usize) {
                f(vcpu);
            }
        });
    }
}

/// Fails for a reason, if it holds.
const fn refuse(reason: GuestRefusal, holds: bool) -> Result<(), GuestRefusal> {
    if holds { Err(reason) } else { Ok(()) }
}
