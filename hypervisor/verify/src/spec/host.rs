//! The host's calls: for each call the reasons to refuse it, in order, and then what it does.

use std::vec;
use std::vec::Vec;

use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, ObjectPageState, VERSION, VmHandle};

use super::{
    HostReach, Spec, SpecBinding, SpecOwner, SpecPresence, SpecVm, SpecVmState, reasons, refuse, within,
};

/// Most VMs; most memory objects, bindings and vCPUs of each.
const VMS: usize = 16;
const OBJECTS: usize = 4;
const BINDINGS: usize = 8;
const VCPUS: usize = 16;
/// Fewest pages that a pool begins with, and most that one call donates.
const POOL_AT_FIRST: u64 = 3;
const POOL_AT_ONCE: u64 = 4096;
/// Pages that 64 bits can address.
const ALL_PAGES: u64 = 1 << 52;

reasons! {
    /// Why a call of the host's is refused.
    Refusal: CallError {
        BadLength      = CallError::InvalidParameter, "No pages, too few, or more than one call takes.";
        BeyondMemory   = CallError::InvalidParameter, "The pages do not end within the address space.";
        OddRoot        = CallError::InvalidParameter, "The first page of a pool has an odd number.";
        BeyondIpaSpace = CallError::InvalidParameter, "The guest pages do not end within the IPA space.";
        OutsideObject  = CallError::InvalidParameter, "The offset and length are not within the object.";
        WrongIndex     = CallError::InvalidParameter, "Not the next vCPU.";
        NotRam         = CallError::InvalidParameter, "Some page is no RAM.";
        NoVm           = CallError::NotFound, "The handle names no VM.";
        NoObject       = CallError::NotFound, "The handle names no object.";
        NoVcpu         = CallError::NotFound, "The VM has no such vCPU.";
        Dying          = CallError::Busy, "The VM's end has begun.";
        Loaded         = CallError::Busy, "A vCPU is loaded.";
        Full           = CallError::Full, "All places are taken.";
        NotHosts       = CallError::Denied, "Some page is not the host's alone.";
        Started        = CallError::Denied, "The VM has been started.";
        NotRunning     = CallError::Denied, "The VM has not been started, or was stopped.";
        AlreadyBound   = CallError::Denied, "Guest or object pages are bound already.";
        NotBound       = CallError::Denied, "These object pages are not bound, or not as one piece.";
        NotAbsent      = CallError::Denied, "Some page of the object is present or poisoned.";
        StillPresent   = CallError::Denied, "Some page of the object is present.";
        NotPrivate     = CallError::Denied, "The page is not a protected guest's alone.";
        Off            = CallError::Denied, "The vCPU is off.";
        NothingToRun   = CallError::Denied, "The VM has no vCPU.";
    }
}
use Refusal::*;

/// The first reason to refuse a call, or an answer. What is refused has changed nothing.
pub type HostAnswer<T = u64> = Result<T, Refusal>;

impl Spec {
    /// Serves a call and answers x1 (of `VmCounters` x3). `x1` is what the core chose, where that is left to
    /// it: the handle of what it made, or how many pages it populated or took. If these are fewer than were
    /// asked for, x0 is `Again`; a `VmDestroy` that is answered so is [`Self::destroy`].
    pub fn host_call(&mut self, call: &HostCall, x1: u64) -> HostAnswer {
        match *call {
            HostCall::Version => Ok(VERSION),
            HostCall::VmCreate { protected, first, pages } => {
                refuse(BadLength, !(POOL_AT_FIRST..=POOL_AT_ONCE).contains(&pages))?;
                refuse(BeyondMemory, !within(first.0, pages, ALL_PAGES))?;
                refuse(OddRoot, !first.0.is_multiple_of(2))?;
                refuse(Full, self.vms.len() == VMS)?;
                self.hosts(first.0, pages)?;

                let vm = VmHandle(x1 as u32);
                self.give(first.0, pages, SpecOwner::Pool(vm));
                self.vms.insert(vm, SpecVm { protected, ..SpecVm::default() });
                Ok(vm.0.into())
            }
            HostCall::VmTopUp { vm, first, pages } => {
                refuse(BadLength, !(1..=POOL_AT_ONCE).contains(&pages))?;
                refuse(BeyondMemory, !within(first.0, pages, ALL_PAGES))?;
                self.alive(vm)?;
                self.hosts(first.0, pages)?;

                self.give(first.0, pages, SpecOwner::Pool(vm));
                Ok(0)
            }
            HostCall::ObjectCreate { vm, pages } => {
                refuse(BadLength, !(1..=self.layout.largest_object).contains(&pages))?;
                let vm = self.new_vm(vm)?;
                refuse(Full, vm.objects.len() == OBJECTS)?;

                let object = ObjectHandle(x1 as u32);
                vm.objects.insert(object, vec![SpecPresence::Absent; pages as usize]);
                Ok(object.0.into())
            }
            HostCall::ObjectBind { object, offset, gfn, pages } => {
                refuse(BeyondIpaSpace, !within(gfn.0, pages, self.layout.ipa_pages))?;
                let (_, vm) = self.part(object, offset, pages)?;
                refuse(Started, vm.state != SpecVmState::New)?;
                let meet = |a: u64, b: u64, length: u64| a < b + length && b < a + pages;
                let taken = vm.bindings.iter().any(|other| {
                    meet(gfn.0, other.gfn, other.pages)
                        || (other.object == object && meet(offset, other.offset, other.pages))
                });
                refuse(AlreadyBound, taken)?;
                refuse(Full, vm.bindings.len() == BINDINGS)?;

                vm.bindings.push(SpecBinding { gfn: gfn.0, object, offset, pages });
                Ok(0)
            }
            HostCall::ObjectUnbind { object, offset, pages } => {
                let (_, vm) = self.part(object, offset, pages)?;
                refuse(Started, vm.state != SpecVmState::New)?;
                let named = |it: &SpecBinding| (it.object, it.offset, it.pages) == (object, offset, pages);
                refuse(NotBound, !vm.bindings.iter().any(named))?;
                refuse(
                    NotAbsent,
                    vm.slots(object, offset, pages).iter().any(|slot| *slot != SpecPresence::Absent),
                )?;

                vm.bindings.retain(|binding| !named(binding));
                Ok(0)
            }
            HostCall::ObjectPopulate { object, offset, first, pages, content } => {
                let keep = content == InitialContent::Keep;
                let most = if keep { self.layout.kept_per_call } else { self.layout.pages_per_call };
                let now = pages.min(most);
                refuse(BeyondMemory, !within(first.0, pages, ALL_PAGES))?;
                let (owner, vm) = self.part(object, offset, pages)?;
                refuse(Started, keep && vm.state != SpecVmState::New)?;
                let gfn = vm.gfn(object, offset, pages).ok_or(NotBound)?;
                refuse(
                    NotAbsent,
                    vm.slots(object, offset, now).iter().any(|slot| *slot != SpecPresence::Absent),
                )?;
                self.hosts(first.0, now)?;

                let done = x1.clamp(1, now);
                let vm = self.there(owner);
                for (slot, page) in vm.slots(object, offset, done).iter_mut().zip(first.0..) {
                    *slot = SpecPresence::Present(page);
                }
                let owner = if vm.protected { SpecOwner::Private(owner) } else { SpecOwner::Lent(owner) };
                if keep && vm.protected {
                    vm.kept.extend(gfn..gfn + done);
                }
                self.give(first.0, done, owner);
                Ok(done)
            }
            HostCall::ObjectReclaim { object, offset, pages } => {
                let (owner, vm) = self.part(object, offset, pages)?;

                let done = x1.clamp(1, pages);
                let slots = vm.slots(object, offset, done).to_vec();
                slots.iter().filter_map(SpecPresence::page).for_each(|page| self.take(owner, page));
                Ok(done)
            }
            HostCall::ObjectQuery { object, offset } => {
                let (_, vm) = self.part(object, offset, 1)?;
                let slot = vm.slots(object, offset, 1)[0];
                let state = match slot {
                    SpecPresence::Absent => ObjectPageState::Absent,
                    SpecPresence::Poisoned => ObjectPageState::Poisoned,
                    SpecPresence::Present(page) if self.host_reach(page) == HostReach::Yes => {
                        ObjectPageState::Shared
                    }
                    SpecPresence::Present(_) => ObjectPageState::Private,
                };
                Ok(state as u64)
            }
            HostCall::ObjectDestroy { object } => {
                // Every object has a first page: this asks for the object alone.
                let (_, vm) = self.part(object, 0, 1)?;
                refuse(StillPresent, vm.objects[&object].iter().any(|slot| slot.page().is_some()))?;
                let bound = vm.bindings.iter().any(|binding| binding.object == object);
                refuse(Started, bound && vm.state != SpecVmState::New)?;

                vm.bindings.retain(|binding| binding.object != object);
                vm.objects.remove(&object);
                Ok(0)
            }
            HostCall::VcpuCreate { vm, index } => {
                let vm = self.new_vm(vm)?;
                refuse(WrongIndex, index.0 as usize != vm.on.len())?;
                refuse(Full, vm.on.len() == VCPUS)?;

                vm.on.push(false);
                Ok(0)
            }
            HostCall::VmStart { vm, .. } => {
                let vm = self.new_vm(vm)?;
                refuse(NothingToRun, vm.on.is_empty())?;

                vm.state = SpecVmState::Started;
                vm.on[0] = true;
                // Whether the measurement is the expected one.
                Ok(x1)
            }
            HostCall::VcpuRun { vm, vcpu, .. } => {
                let vm = self.alive(vm)?;
                refuse(NotRunning, vm.state != SpecVmState::Started)?;
                let on = *vm.on.get(vcpu.0 as usize).ok_or(NoVcpu)?;
                refuse(Loaded, vm.loaded.contains(&vcpu))?;
                refuse(Off, !on)?;

                // The guest runs until it exits, and why it did is x1.
                vm.loaded.insert(vcpu);
                Ok(x1)
            }
            HostCall::VmDestroy { vm } => {
                let returned = self.destroy(vm, &self.pages_of(vm))?;
                self.vms.remove(&vm);
                Ok(returned)
            }
            HostCall::ForceReclaim { page } => {
                let owner = *self.owners.get(&page.0).ok_or(NotRam)?;
                let SpecOwner::Private(vm) = owner else { return Err(NotPrivate) };
                self.alive(vm)?;

                self.take(vm, page.0);
                Ok(0)
            }
            HostCall::VmCounters { vm } => {
                self.vm(vm)?;
                Ok(self.owners.values().filter(|owner| **owner == SpecOwner::Shared(vm)).count() as u64)
            }
        }
    }

    /// A `VmDestroy` that got so far: these pages of the VM's are back, in any order. x1 is how many, not
    /// counting what was only lent.
    pub fn destroy(&mut self, vm: VmHandle, back: &[u64]) -> HostAnswer {
        let found = self.vm(vm)?;
        refuse(Loaded, !found.loaded.is_empty())?;

        found.state = SpecVmState::Dying;
        let counted = back.iter().filter(|page| self.owners[page] != SpecOwner::Lent(vm)).count();
        back.iter().for_each(|page| self.give_back(*page, SpecPresence::Absent));
        Ok(counted as u64)
    }

    /// The pages of a VM's pool and of its memory.
    #[must_use]
    pub fn pages_of(&self, vm: VmHandle) -> Vec<u64> {
        let its = [SpecOwner::Pool(vm), SpecOwner::Private(vm), SpecOwner::Shared(vm), SpecOwner::Lent(vm)];
        let pages = self.owners.iter().filter(|(_, owner)| its.contains(owner));
        pages.map(|(page, _)| *page).collect()
    }

    /// The host takes a page of a VM's. A protected guest that may have seen it must not find its place
    /// empty, as it could believe that.
    fn take(&mut self, vm: VmHandle, page: u64) {
        let vm = self.there(vm);
        let is_new = vm.state == SpecVmState::New;
        vm.void |= is_new;
        let left = if vm.protected && !is_new { SpecPresence::Poisoned } else { SpecPresence::Absent };
        self.give_back(page, left);
    }

    /// Pages go to a new owner.
    fn give(&mut self, first: u64, pages: u64, to: SpecOwner) {
        self.owners.extend((first..first + pages).map(|page| (page, to)));
    }
}

/// What several calls ask first.
impl Spec {
    fn vm(&mut self, vm: VmHandle) -> HostAnswer<&mut SpecVm> {
        self.vms.get_mut(&vm).ok_or(NoVm)
    }

    fn alive(&mut self, vm: VmHandle) -> HostAnswer<&mut SpecVm> {
        let vm = self.vm(vm)?;
        refuse(Dying, vm.state == SpecVmState::Dying)?;
        Ok(vm)
    }

    fn new_vm(&mut self, vm: VmHandle) -> HostAnswer<&mut SpecVm> {
        let vm = self.alive(vm)?;
        refuse(Started, vm.state != SpecVmState::New)?;
        Ok(vm)
    }

    /// The VM that has this object, and in it these pages.
    fn part(&mut self, object: ObjectHandle, offset: u64, pages: u64) -> HostAnswer<(VmHandle, &mut SpecVm)> {
        let mut vms = self.vms.iter_mut();
        let (handle, vm) = vms.find(|(_, vm)| vm.objects.contains_key(&object)).ok_or(NoObject)?;
        refuse(Dying, vm.state == SpecVmState::Dying)?;
        refuse(OutsideObject, !within(offset, pages, vm.objects[&object].len() as u64))?;
        Ok((*handle, vm))
    }

    /// These pages are the host's to give: RAM, its own, and lent to nobody.
    fn hosts(&self, first: u64, pages: u64) -> HostAnswer<()> {
        let (ram, end) = (&self.layout.ram, first + pages);
        refuse(NotRam, first < ram.start || end > ram.end)?;
        refuse(NotHosts, (first..end).any(|page| self.owners[&page] != SpecOwner::Host))
    }
}

impl SpecVm {
    /// Pages of an object.
    fn slots(&mut self, object: ObjectHandle, offset: u64, pages: u64) -> &mut [SpecPresence] {
        let slots = self.objects.get_mut(&object).expect("it is there");
        &mut slots[offset as usize..][..pages as usize]
    }

    /// Where the guest sees these pages of an object, if they lie in one binding.
    fn gfn(&self, object: ObjectHandle, offset: u64, pages: u64) -> Option<u64> {
        let mut bindings = self.bindings.iter().filter(|binding| binding.object == object);
        let holds = |it: &&SpecBinding| it.offset <= offset && offset + pages <= it.offset + it.pages;
        bindings.find(holds).map(|binding| binding.gfn + (offset - binding.offset))
    }
}
