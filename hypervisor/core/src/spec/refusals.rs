//! When a call of the host's is refused: for the first [`Refusal`] that holds, in the order in which
//! [`Spec::refusal`] asks.

use std::vec::Vec;

use shared_abi::error::CallError;
use shared_abi::host_call::{Content, HostCall, ObjectHandle, VmHandle};

use super::{BINDINGS, Binding, Life, OBJECTS, Owner, Slot, Spec, VCPUS, VMS, Vm};

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// No pages, too few, or more than one call takes.
    BadLength,
    /// The pages do not end within the address space.
    BeyondMemory,
    /// The first page of a pool has an odd number.
    OddRoot,
    /// The guest pages do not end within the IPA space.
    BeyondIpaSpace,
    /// The offset and length are not within the object.
    OutsideObject,
    /// Not the next vCPU.
    WrongIndex,
    /// Some page is no RAM.
    NotRam,
    /// Some page is not the host's alone.
    NotHosts,
    /// The handle names no VM.
    NoVm,
    /// The handle names no object.
    NoObject,
    /// The VM has no such vCPU.
    NoVcpu,
    /// The VM's end has begun.
    Dying,
    /// The VM has been started.
    Started,
    /// The VM has not been started, or was stopped.
    NotRunning,
    /// All places are taken.
    Full,
    /// Guest or object pages are bound already.
    AlreadyBound,
    /// These object pages are not bound, or not as one piece.
    NotBound,
    /// Some page of the object is present or poisoned.
    NotAbsent,
    /// Some page of the object is present.
    StillPresent,
    /// The page is not a protected guest's alone.
    NotPrivate,
    /// A vCPU is loaded.
    Loaded,
    /// The vCPU is off.
    Off,
    /// The VM has no vCPU.
    NothingToRun,
}

impl Refusal {
    /// x0 of a host call that is refused for this.
    #[must_use]
    pub const fn error(self) -> CallError {
        match self {
            Self::BadLength
            | Self::BeyondMemory
            | Self::OddRoot
            | Self::BeyondIpaSpace
            | Self::OutsideObject
            | Self::WrongIndex
            | Self::NotRam => CallError::InvalidParameter,
            Self::NoVm | Self::NoObject | Self::NoVcpu => CallError::NotFound,
            Self::Dying | Self::Loaded => CallError::Busy,
            Self::Full => CallError::Full,
            Self::NotHosts
            | Self::Started
            | Self::NotRunning
            | Self::AlreadyBound
            | Self::NotBound
            | Self::NotAbsent
            | Self::StillPresent
            | Self::NotPrivate
            | Self::Off
            | Self::NothingToRun => CallError::Denied,
        }
    }
}

/// Fails for a reason, if it holds.
const fn refuse(reason: Refusal, holds: bool) -> Result<(), Refusal> {
    if holds { Err(reason) } else { Ok(()) }
}

/// Fewest and most pages of a pool that one call donates.
const POOL_AT_FIRST: u64 = 3;
const POOL_AT_ONCE: u64 = 4096;

impl Spec {
    /// Why a call is refused, if it is; `VcpuRun` is [`Spec::load`].
    ///
    /// # Errors
    ///
    /// The first reason that holds.
    pub fn refusal(&self, call: &HostCall) -> Result<(), Refusal> {
        use Refusal::{
            AlreadyBound, BadLength, BeyondIpaSpace, Full, Loaded, NotAbsent, NotBound, NotPrivate, NotRam,
            NothingToRun, OddRoot, Started, StillPresent, WrongIndex,
        };
        match *call {
            HostCall::Version | HostCall::VcpuRun { .. } => Ok(()),
            HostCall::VmCreate { first, pages, .. } => {
                refuse(BadLength, !(POOL_AT_FIRST..=POOL_AT_ONCE).contains(&pages))?;
                in_memory(first.0, pages)?;
                refuse(OddRoot, !first.0.is_multiple_of(2))?;
                refuse(Full, self.vms.len() == VMS)?;
                self.hosts(first.0, pages)
            }
            HostCall::VmTopUp { vm, first, pages } => {
                refuse(BadLength, !(1..=POOL_AT_ONCE).contains(&pages))?;
                in_memory(first.0, pages)?;
                self.alive(vm)?;
                self.hosts(first.0, pages)
            }
            HostCall::ObjectCreate { vm, pages } => {
                refuse(BadLength, !(1..=self.layout.largest_object).contains(&pages))?;
                self.new_vm(vm)?;
                refuse(Full, self.objects_of(vm).len() == OBJECTS)
            }
            HostCall::ObjectBind { object, offset, gfn, pages } => {
                refuse(BeyondIpaSpace, !within(gfn.0, pages, self.layout.ipa_pages))?;
                let vm = self.sized(object, offset, pages)?;
                refuse(Started, vm.life != Life::New)?;
                let meets = |a: u64, b: u64, length: u64| a < b + length && b < a + pages;
                let taken = vm.bindings.iter().any(|binding| {
                    let same = binding.object == object;
                    meets(gfn.0, binding.gfn, binding.pages)
                        || (same && meets(offset, binding.offset, binding.pages))
                });
                refuse(AlreadyBound, taken)?;
                refuse(Full, vm.bindings.len() == BINDINGS)
            }
            HostCall::ObjectUnbind { object, offset, pages } => {
                let vm = self.sized(object, offset, pages)?;
                refuse(Started, vm.life != Life::New)?;
                let exact = vm.bindings.iter().any(|binding| {
                    (binding.object, binding.offset, binding.pages) == (object, offset, pages)
                });
                refuse(NotBound, !exact)?;
                refuse(NotAbsent, !self.absent(object, offset, pages))
            }
            HostCall::ObjectPopulate { object, offset, first, pages, content } => {
                in_memory(first.0, pages)?;
                let vm = self.sized(object, offset, pages)?;
                refuse(Started, content == Content::Keep && vm.life != Life::New)?;
                refuse(NotBound, self.gfn(vm, object, offset, pages).is_none())?;
                let now = self.at_once(call);
                refuse(NotAbsent, !self.absent(object, offset, now))?;
                self.hosts(first.0, now)
            }
            HostCall::ObjectPunch { object, offset, pages } => self.sized(object, offset, pages).map(|_| ()),
            HostCall::ObjectQuery { object, offset } => self.sized(object, offset, 1).map(|_| ()),
            HostCall::ObjectDestroy { object } => {
                let vm = self.vm_of(object)?;
                let slots = self.objects.get(&object).map_or(&[][..], |object| &object.slots);
                let present = slots.iter().any(|slot| matches!(slot, Slot::Present(_)));
                refuse(StillPresent, present)?;
                let bound = vm.bindings.iter().any(|binding| binding.object == object);
                refuse(Started, bound && vm.life != Life::New)
            }
            HostCall::VcpuCreate { vm, index } => {
                let vm = self.new_vm(vm)?;
                refuse(WrongIndex, index.0 as usize != vm.vcpus.len())?;
                refuse(Full, vm.vcpus.len() == VCPUS)
            }
            HostCall::VmStart { vm, .. } => {
                let vm = self.new_vm(vm)?;
                refuse(NothingToRun, vm.vcpus.is_empty())
            }
            HostCall::VmDestroy { vm } => {
                let vm = self.vm(vm)?;
                refuse(Loaded, vm.vcpus.iter().any(|vcpu| vcpu.loaded))
            }
            HostCall::ForceReclaim { page } => match self.owners.get(&page.0) {
                None => Err(NotRam),
                Some(Owner::Memory { vm, host: false }) => self.alive(*vm).map(|_| ()),
                Some(_) => Err(NotPrivate),
            },
            HostCall::VmCounters { vm } => self.vm(vm).map(|_| ()),
        }
    }

    /// How many pages of a populate or punch one call may do.
    #[must_use]
    pub fn at_once(&self, call: &HostCall) -> u64 {
        let (pages, most) = match *call {
            HostCall::ObjectPopulate { pages, content: Content::Keep, .. } => {
                (pages, self.layout.kept_per_call)
            }
            HostCall::ObjectPopulate { pages, .. } | HostCall::ObjectPunch { pages, .. } => {
                (pages, self.layout.pages_per_call)
            }
            _ => (0, 0),
        };
        pages.min(most)
    }
}

/// What the refusals ask.
impl Spec {
    pub(super) fn vm(&self, vm: VmHandle) -> Result<&Vm, Refusal> {
        self.vms.get(&vm).ok_or(Refusal::NoVm)
    }

    fn alive(&self, vm: VmHandle) -> Result<&Vm, Refusal> {
        let vm = self.vm(vm)?;
        refuse(Refusal::Dying, vm.life == Life::Dying)?;
        Ok(vm)
    }

    fn new_vm(&self, vm: VmHandle) -> Result<&Vm, Refusal> {
        let vm = self.alive(vm)?;
        refuse(Refusal::Started, vm.life != Life::New)?;
        Ok(vm)
    }

    /// The VM of an object.
    pub(super) fn vm_of(&self, object: ObjectHandle) -> Result<&Vm, Refusal> {
        let object = self.objects.get(&object).ok_or(Refusal::NoObject)?;
        self.alive(object.vm)
    }

    /// The VM of an object that has these pages.
    fn sized(&self, object: ObjectHandle, offset: u64, pages: u64) -> Result<&Vm, Refusal> {
        let vm = self.vm_of(object)?;
        let size = self.objects.get(&object).map_or(0, |object| object.slots.len() as u64);
        refuse(Refusal::OutsideObject, !within(offset, pages, size))?;
        Ok(vm)
    }

    /// Where a guest sees these pages of an object, if they lie in one binding.
    pub(super) fn gfn(&self, vm: &Vm, object: ObjectHandle, offset: u64, pages: u64) -> Option<u64> {
        let holds = |binding: &&Binding| {
            binding.object == object
                && binding.offset <= offset
                && offset + pages <= binding.offset + binding.pages
        };
        let binding = vm.bindings.iter().find(holds)?;
        Some(binding.gfn + (offset - binding.offset))
    }

    fn absent(&self, object: ObjectHandle, offset: u64, pages: u64) -> bool {
        (offset..offset + pages).all(|offset| self.slot(object, offset) == Some(Slot::Absent))
    }

    /// The objects of a VM.
    #[must_use]
    pub fn objects_of(&self, vm: VmHandle) -> Vec<ObjectHandle> {
        let of_vm = self.objects.iter().filter(|(_, object)| object.vm == vm);
        of_vm.map(|(handle, _)| *handle).collect()
    }

    /// Whether these pages are the host's to give: RAM, its own, and lent to nobody.
    fn hosts(&self, first: u64, pages: u64) -> Result<(), Refusal> {
        let end = first + pages;
        let ram = &self.layout.ram;
        refuse(Refusal::NotRam, first < ram.start || end > ram.end)?;
        let hosts = |page: u64| self.owners.get(&page) == Some(&Owner::Host);
        refuse(Refusal::NotHosts, !(first..end).all(hosts))
    }
}

/// Whether `pages` pages from `first` on, at least one, end within `size`.
pub(super) fn within(first: u64, pages: u64, size: u64) -> bool {
    pages != 0 && first.checked_add(pages).is_some_and(|end| end <= size)
}

/// Addresses have 64 bits.
fn in_memory(first: u64, pages: u64) -> Result<(), Refusal> {
    refuse(Refusal::BeyondMemory, !within(first, pages, 1 << 52))
}
