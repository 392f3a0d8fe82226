//! The host's calls: for each call the reasons to refuse it, in order, and then its effect.

use std::vec;
use std::vec::Vec;

use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, ObjectPageState, VERSION, VmHandle};

use super::{
    HostReach, Spec, SpecBinding, SpecOwner, SpecPresence, SpecVm, SpecVmState, reasons, refuse, within,
};

/// The maximum number of VMs. The constants after it: memory objects, bindings and vCPUs of each VM.
const VMS: usize = 16;
const OBJECTS: usize = 4;
const BINDINGS: usize = 8;
const VCPUS: usize = 16;
/// The minimum number of pages in a new pool. The constant after it: the maximum that one call donates.
const POOL_AT_FIRST: u64 = 3;
const POOL_AT_ONCE: u64 = 4096;
/// The number of pages that 64 bits can address.
const ALL_PAGES: u64 = 1 << 52;

reasons! {
    /// The reason to refuse a host call.
    Refusal: CallError {
        BadLength      = CallError::InvalidParameter, "The number of pages is 0, too small, or more than one call accepts.";
        BeyondMemory   = CallError::InvalidParameter, "The pages do not end within the address space.";
        OddRoot        = CallError::InvalidParameter, "The first page of a pool has an odd number.";
        BeyondIpaSpace = CallError::InvalidParameter, "The guest pages do not end within the IPA space.";
        OutsideObject  = CallError::InvalidParameter, "The offset and length are not within the object.";
        WrongIndex     = CallError::InvalidParameter, "The index is not that of the next vCPU.";
        NotRam         = CallError::InvalidParameter, "A page is not RAM.";
        NoVm           = CallError::NotFound, "The handle names no VM.";
        NoObject       = CallError::NotFound, "The handle names no object.";
        NoVcpu         = CallError::NotFound, "The VM has no such vCPU.";
        Dying          = CallError::Busy, "The VM is being destroyed.";
        Loaded         = CallError::Busy, "A vCPU of the VM is loaded.";
        Full           = CallError::Full, "The table of VMs, objects, bindings or vCPUs is full.";
        NotHosts       = CallError::Denied, "A page is not the host's alone.";
        Started        = CallError::Denied, "The VM has been started.";
        NotRunning     = CallError::Denied, "The VM has not been started, or was stopped.";
        AlreadyBound   = CallError::Denied, "Guest or object pages are bound already.";
        NotBound       = CallError::Denied, "The object pages are not bound, or not by one binding.";
        NotAbsent      = CallError::Denied, "A page of the object is present or poisoned.";
        StillPresent   = CallError::Denied, "A page of the object is present.";
        NotPrivate     = CallError::Denied, "The page is not private to a protected guest.";
        Off            = CallError::Denied, "The vCPU is off.";
        NothingToRun   = CallError::Denied, "The VM has no vCPU.";
    }
}
use Refusal::*;

/// The result of a call, or the first reason to refuse it. A refused call changes nothing.
pub type HostAnswer<T = u64> = Result<T, Refusal>;

impl Spec {
    /// Serves a call. Returns x1, or x3 for `VmCounters`. `x1` is the value that the core chose, if the specification
    /// leaves it open: the new handle, or the number of pages populated or taken. If that number is less than
    /// requested, x0 is `Again`. For a `VmDestroy` with x0 = `Again`, call [`Self::destroy`] instead.
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
                // Every object has a first page, so this checks the object only.
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
                // x1 = 1 if the measurement is the expected one.
                Ok(x1)
            }
            HostCall::VcpuRun { vm, vcpu, .. } => {
                let vm = self.alive(vm)?;
                refuse(NotRunning, vm.state != SpecVmState::Started)?;
                let on = *vm.on.get(vcpu.0 as usize).ok_or(NoVcpu)?;
                refuse(Loaded, vm.loaded.contains(&vcpu))?;
                refuse(Off, !on)?;

                // The vCPU stays loaded until it exits. x1 is the reason of the exit.
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

    /// Models a `VmDestroy` that returned the VM's pages `back`, in any order. Returns x1: the number of
    /// these pages, excluding lent ones.
    pub fn destroy(&mut self, vm: VmHandle, back: &[u64]) -> HostAnswer {
        let found = self.vm(vm)?;
        refuse(Loaded, !found.loaded.is_empty())?;

        found.state = SpecVmState::Dying;
        let counted = back.iter().filter(|page| self.owners[page] != SpecOwner::Lent(vm)).count();
        back.iter().for_each(|page| self.give_back(*page, SpecPresence::Absent));
        Ok(counted as u64)
    }

    /// Returns the pages of a VM's pool and memory.
    #[must_use]
    pub fn pages_of(&self, vm: VmHandle) -> Vec<u64> {
        let its = [SpecOwner::Pool(vm), SpecOwner::Private(vm), SpecOwner::Shared(vm), SpecOwner::Lent(vm)];
        let pages = self.owners.iter().filter(|(_, owner)| its.contains(owner));
        pages.map(|(page, _)| *page).collect()
    }

    /// Takes a page from a VM. If a protected guest may have used the page, its place becomes poisoned, not absent:
    /// otherwise the guest could take a new, empty page for its own.
    fn take(&mut self, vm: VmHandle, page: u64) {
        let vm = self.there(vm);
        let is_new = vm.state == SpecVmState::New;
        vm.void |= is_new;
        let left = if vm.protected && !is_new { SpecPresence::Poisoned } else { SpecPresence::Absent };
        self.give_back(page, left);
    }

    /// Gives pages to a new owner.
    fn give(&mut self, first: u64, pages: u64, to: SpecOwner) {
        self.owners.extend((first..first + pages).map(|page| (page, to)));
    }
}

/// Checks that several calls share.
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

    /// Returns the VM with this object. Fails unless the pages are in the object.
    fn part(&mut self, object: ObjectHandle, offset: u64, pages: u64) -> HostAnswer<(VmHandle, &mut SpecVm)> {
        let mut vms = self.vms.iter_mut();
        let (handle, vm) = vms.find(|(_, vm)| vm.objects.contains_key(&object)).ok_or(NoObject)?;
        refuse(Dying, vm.state == SpecVmState::Dying)?;
        refuse(OutsideObject, !within(offset, pages, vm.objects[&object].len() as u64))?;
        Ok((*handle, vm))
    }

    /// Fails unless the pages are RAM that the host owns and does not lend.
    fn hosts(&self, first: u64, pages: u64) -> HostAnswer<()> {
        let (ram, end) = (&self.layout.ram, first + pages);
        refuse(NotRam, first < ram.start || end > ram.end)?;
        refuse(NotHosts, (first..end).any(|page| self.owners[&page] != SpecOwner::Host))
    }
}

impl SpecVm {
    /// Returns the presence of an object's pages.
    fn slots(&mut self, object: ObjectHandle, offset: u64, pages: u64) -> &mut [SpecPresence] {
        let slots = self.objects.get_mut(&object).expect("it is there");
        &mut slots[offset as usize..][..pages as usize]
    }

    /// Returns the guest page of these object pages, if one binding holds all of them.
    fn gfn(&self, object: ObjectHandle, offset: u64, pages: u64) -> Option<u64> {
        let mut bindings = self.bindings.iter().filter(|binding| binding.object == object);
        let holds = |it: &&SpecBinding| it.offset <= offset && offset + pages <= it.offset + it.pages;
        bindings.find(holds).map(|binding| binding.gfn + (offset - binding.offset))
    }
}
