//! The specification of the core in plain data: who owns what, what each call answers. It has no tables,
//! no blocks and no pools, and shares no code with what it describes.
//!
//! One answer it leaves open: a call may fail for want of pool pages, which nobody outside can count.

use std::vec;
use std::vec::Vec;

use shared_abi::error::CallError;
use shared_abi::host_call::{Content, HostCall, ObjectHandle, PageState, VmHandle};

use super::bench_machine::{DENIED, RAM, RESERVED};

/// Pages of the machine, and of an IPA space.
pub(super) const PAGES: u64 = 128;
const PLACES: usize = 16;
const OBJECTS: usize = 4;
const BINDINGS: usize = 8;
const VCPUS: u64 = 16;
const LARGEST_OBJECT: u64 = 16 * 16;
const LARGEST_POOL: u64 = 4096;

/// Who owns a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    NotRam,
    Hypervisor,
    Host,
    /// The pool of the VM at that place.
    Pool(usize),
    /// In memory of the VM at that place; the host reaches it or not.
    Memory {
        place: usize,
        host: bool,
    },
}

/// A page of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Absent,
    Present(u64),
    Poisoned,
}

#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) handle: ObjectHandle,
    pub(super) slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Binding {
    object: usize,
    offset: u64,
    gfn: u64,
    pages: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Vm {
    pub(super) handle: VmHandle,
    pub(super) protected: bool,
    pub(super) started: bool,
    pub(super) stopped: bool,
    /// First page of its pool: the root of its tables.
    pub(super) root: u64,
    pub(super) objects: [Option<Object>; OBJECTS],
    bindings: Vec<Binding>,
    pub(super) vcpus: u64,
}

/// What a guest may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuestCall {
    Share(u64),
    Unshare(u64),
    Stop,
}

/// What it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuestAnswer {
    NotLoaded(CallError),
    Done,
    Absent,
    Denied,
}

/// The machine as the specification sees it.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) owners: Vec<Own>,
    pub(super) vms: Vec<Option<Vm>>,
}

fn within(part: (u64, u64), page: u64) -> bool {
    page >= part.0 && page - part.0 < part.1
}

impl Model {
    pub(super) fn new() -> Self {
        let owner = |page| match page {
            page if within(RESERVED, page) => Own::Hypervisor,
            page if within(RAM, page) => Own::Host,
            _ => Own::NotRam,
        };
        Self {
            owners: (0..PAGES).map(owner).collect(),
            vms: vec![None; PLACES],
        }
    }

    /// Whether the host may reach a page; `None` where a device may be, which it reaches once it has
    /// touched it.
    pub(super) fn host_reaches(&self, page: u64) -> Option<bool> {
        match self.owners[page as usize] {
            Own::NotRam if within(DENIED, page) => Some(false),
            Own::NotRam => None,
            Own::Hypervisor | Own::Pool(_) => Some(false),
            Own::Host => Some(true),
            Own::Memory { host, .. } => Some(host),
        }
    }

    /// What a guest reaches at a page of its IPA space.
    pub(super) fn guest_reaches(&self, place: usize, gfn: u64) -> Option<u64> {
        match self.slot(place, gfn)? {
            Slot::Present(page) => Some(page),
            Slot::Absent | Slot::Poisoned => None,
        }
    }

    fn slot(&self, place: usize, gfn: u64) -> Option<Slot> {
        let vm = self.vms[place].as_ref()?;
        let binding = vm
            .bindings
            .iter()
            .find(|binding| gfn >= binding.gfn && gfn - binding.gfn < binding.pages)?;
        let object = vm.objects[binding.object].as_ref()?;
        Some(object.slots[(binding.offset + gfn - binding.gfn) as usize])
    }

    fn vm(&mut self, handle: VmHandle) -> Result<(usize, &mut Vm), CallError> {
        self.vms
            .iter_mut()
            .enumerate()
            .filter_map(|(place, vm)| Some((place, vm.as_mut()?)))
            .find(|(_, vm)| vm.handle == handle)
            .ok_or(CallError::NotFound)
    }

    fn object(&self, handle: ObjectHandle) -> Result<(usize, usize), CallError> {
        for (place, vm) in self.vms.iter().enumerate() {
            let Some(vm) = vm else { continue };
            for (index, object) in vm.objects.iter().enumerate() {
                if object
                    .as_ref()
                    .is_some_and(|object| object.handle == handle)
                {
                    return Ok((place, index));
                }
            }
        }
        Err(CallError::NotFound)
    }

    /// Whether a range is the host's to give.
    fn hosts(&self, first: u64, pages: u64) -> Result<(), CallError> {
        let all = |test: fn(Own) -> bool| {
            (first..first + pages).all(|page| page < PAGES && test(self.owners[page as usize]))
        };
        if !all(|own| own != Own::NotRam) {
            return Err(CallError::InvalidParameter);
        }
        if !all(|own| own == Own::Host) {
            return Err(CallError::Denied);
        }
        Ok(())
    }

    fn give(&mut self, first: u64, pages: u64, own: Own) {
        for page in first..first + pages {
            self.owners[page as usize] = own;
        }
    }

    /// Whether a call is to succeed. What it then does is [`Self::commit`].
    pub(super) fn check(&mut self, call: &HostCall) -> Result<(), CallError> {
        use CallError::{Denied, Full, InvalidParameter, NotFound};
        // Page numbers end where addresses do.
        let sane = |first: u64, pages: u64| {
            pages != 0 && first.checked_add(pages).is_some_and(|end| end <= 1 << 52)
        };
        match *call {
            HostCall::VmCreate { first, pages, .. } => {
                if !(3..=LARGEST_POOL).contains(&pages)
                    || !sane(first.0, pages)
                    || !first.0.is_multiple_of(2)
                {
                    return Err(InvalidParameter);
                }
                if self.vms.iter().all(Option::is_some) {
                    return Err(Full);
                }
                self.hosts(first.0, pages)
            }
            HostCall::VmTopUp { vm, first, pages } => {
                if !(1..=LARGEST_POOL).contains(&pages) || !sane(first.0, pages) {
                    return Err(InvalidParameter);
                }
                self.vm(vm)?;
                self.hosts(first.0, pages)
            }
            HostCall::ObjectCreate { vm, pages } => {
                if pages == 0 || pages > LARGEST_OBJECT {
                    return Err(InvalidParameter);
                }
                let (_, vm) = self.vm(vm)?;
                match () {
                    () if vm.started => Err(Denied),
                    () if vm.objects.iter().all(Option::is_some) => Err(Full),
                    () => Ok(()),
                }
            }
            HostCall::ObjectBind {
                object,
                offset,
                gfn,
                pages,
            } => {
                if !sane(gfn.0, pages) || gfn.0 + pages > PAGES {
                    return Err(InvalidParameter);
                }
                let (vm, index) = self.sized(object, offset, pages)?;
                if vm.started {
                    return Err(Denied);
                }
                let meets = |a: u64, b: u64, length: u64| a < b + length && b < a + pages;
                let taken = vm.bindings.iter().any(|binding| {
                    meets(gfn.0, binding.gfn, binding.pages)
                        || (binding.object == index && meets(offset, binding.offset, binding.pages))
                });
                match () {
                    () if taken => Err(Denied),
                    () if vm.bindings.len() == BINDINGS => Err(Full),
                    () => Ok(()),
                }
            }
            HostCall::ObjectUnbind {
                object,
                offset,
                pages,
            } => {
                let (vm, index) = self.sized(object, offset, pages)?;
                let exact = vm.bindings.iter().any(|binding| {
                    (binding.object, binding.offset, binding.pages) == (index, offset, pages)
                });
                if vm.started || !exact || !vm.absent(index, offset, pages) {
                    return Err(Denied);
                }
                Ok(())
            }
            HostCall::ObjectPopulate {
                object,
                offset,
                first,
                pages,
                content,
            } => {
                if !sane(first.0, pages) {
                    return Err(InvalidParameter);
                }
                let (vm, index) = self.sized(object, offset, pages)?;
                let bound = vm.bindings.iter().any(|binding| {
                    binding.object == index
                        && binding.offset <= offset
                        && offset + pages <= binding.offset + binding.pages
                });
                if (content == Content::Keep && vm.started)
                    || !bound
                    || !vm.absent(index, offset, pages)
                {
                    return Err(Denied);
                }
                self.hosts(first.0, pages)
            }
            HostCall::ObjectPunch {
                object,
                offset,
                pages,
            } => self.sized(object, offset, pages).map(|_| ()),
            HostCall::ObjectQuery { object, offset } => self.sized(object, offset, 1).map(|_| ()),
            HostCall::ObjectDestroy { object } => {
                let (place, index) = self.object(object)?;
                let vm = self.vms[place].as_ref().unwrap();
                let bound = vm.bindings.iter().any(|binding| binding.object == index);
                let slots = &vm.objects[index].as_ref().unwrap().slots;
                let present = slots.iter().any(|slot| matches!(slot, Slot::Present(_)));
                if present || (bound && vm.started) {
                    return Err(Denied);
                }
                Ok(())
            }
            HostCall::VcpuCreate { vm, index } => {
                let (_, vm) = self.vm(vm)?;
                match () {
                    () if vm.started => Err(Denied),
                    () if u64::from(index.0) != vm.vcpus => Err(InvalidParameter),
                    () if vm.vcpus == VCPUS => Err(Full),
                    () => Ok(()),
                }
            }
            HostCall::VmStart { vm, .. } => {
                let (_, vm) = self.vm(vm)?;
                if vm.started || vm.vcpus == 0 {
                    return Err(Denied);
                }
                Ok(())
            }
            HostCall::ForceReclaim { page } => match self.owners.get(page.0 as usize) {
                None | Some(Own::NotRam) => Err(InvalidParameter),
                Some(Own::Memory { host: false, .. }) => Ok(()),
                Some(_) => Err(Denied),
            },
            HostCall::VmDestroy { vm } | HostCall::VmCounters { vm } => self.vm(vm).map(|_| ()),
            HostCall::Version => Ok(()),
            HostCall::VcpuRun { .. } => Err(NotFound),
        }
    }

    /// The VM of an object that has these pages, and the object's place in it.
    fn sized(
        &mut self,
        handle: ObjectHandle,
        offset: u64,
        pages: u64,
    ) -> Result<(&Vm, usize), CallError> {
        let (place, index) = self.object(handle)?;
        let vm = self.vms[place].as_ref().unwrap();
        let size = vm.objects[index].as_ref().unwrap().slots.len() as u64;
        match offset.checked_add(pages) {
            Some(end) if pages != 0 && end <= size => Ok((vm, index)),
            _ => Err(CallError::InvalidParameter),
        }
    }

    /// What a call that succeeded has done; `x1` is its first result.
    pub(super) fn commit(&mut self, call: &HostCall, x1: u64) {
        match *call {
            HostCall::VmCreate {
                protected,
                first,
                pages,
            } => {
                let place = self.vms.iter().position(Option::is_none).unwrap();
                self.give(first.0, pages, Own::Pool(place));
                self.vms[place] = Some(Vm {
                    handle: VmHandle(x1 as u32),
                    protected,
                    started: false,
                    stopped: false,
                    root: first.0,
                    objects: [const { None }; OBJECTS],
                    bindings: Vec::new(),
                    vcpus: 0,
                });
            }
            HostCall::VmTopUp { vm, first, pages } => {
                let (place, _) = self.vm(vm).unwrap();
                self.give(first.0, pages, Own::Pool(place));
            }
            HostCall::ObjectCreate { vm, pages } => {
                let (_, vm) = self.vm(vm).unwrap();
                let free = vm.objects.iter().position(Option::is_none).unwrap();
                vm.objects[free] = Some(Object {
                    handle: ObjectHandle(x1 as u32),
                    slots: vec![Slot::Absent; pages as usize],
                });
            }
            HostCall::ObjectBind {
                object,
                offset,
                gfn,
                pages,
            } => {
                let (place, index) = self.object(object).unwrap();
                self.vms[place].as_mut().unwrap().bindings.push(Binding {
                    object: index,
                    offset,
                    gfn: gfn.0,
                    pages,
                });
            }
            HostCall::ObjectUnbind { object, offset, .. } => {
                let (place, index) = self.object(object).unwrap();
                let vm = self.vms[place].as_mut().unwrap();
                vm.bindings
                    .retain(|binding| (binding.object, binding.offset) != (index, offset));
            }
            HostCall::ObjectPopulate {
                object,
                offset,
                first,
                pages,
                ..
            } => {
                let (place, index) = self.object(object).unwrap();
                let vm = self.vms[place].as_mut().unwrap();
                let host = !vm.protected;
                let slots = &mut vm.objects[index].as_mut().unwrap().slots;
                for page in 0..pages {
                    slots[(offset + page) as usize] = Slot::Present(first.0 + page);
                }
                self.give(first.0, pages, Own::Memory { place, host });
            }
            HostCall::ObjectPunch { object, offset, .. } => {
                let (place, index) = self.object(object).unwrap();
                for offset in offset..offset + x1 {
                    self.take(place, index, offset);
                }
            }
            HostCall::ObjectDestroy { object } => {
                let (place, index) = self.object(object).unwrap();
                let vm = self.vms[place].as_mut().unwrap();
                vm.objects[index] = None;
                vm.bindings.retain(|binding| binding.object != index);
            }
            HostCall::VcpuCreate { vm, .. } => self.vm(vm).unwrap().1.vcpus += 1,
            HostCall::VmStart { vm, .. } => self.vm(vm).unwrap().1.started = true,
            HostCall::VmDestroy { vm } => {
                let (gone, _) = self.vm(vm).unwrap();
                self.vms[gone] = None;
                for own in &mut self.owners {
                    match *own {
                        Own::Pool(place) | Own::Memory { place, .. } if place == gone => {
                            *own = Own::Host;
                        }
                        _ => {}
                    }
                }
            }
            HostCall::ForceReclaim { page } => {
                let places = 0..PLACES;
                for (place, index) in places.flat_map(|p| (0..OBJECTS).map(move |o| (p, o))) {
                    let object = self.vms[place]
                        .as_ref()
                        .and_then(|vm| vm.objects[index].as_ref());
                    let offset = object.and_then(|object| {
                        let wanted = Slot::Present(page.0);
                        object.slots.iter().position(|slot| *slot == wanted)
                    });
                    if let Some(offset) = offset {
                        self.take(place, index, offset as u64);
                    }
                }
            }
            HostCall::Version
            | HostCall::ObjectQuery { .. }
            | HostCall::VmCounters { .. }
            | HostCall::VcpuRun { .. } => {}
        }
    }

    /// The host takes what is at an offset.
    fn take(&mut self, place: usize, index: usize, offset: u64) {
        let vm = self.vms[place].as_mut().unwrap();
        let poison = vm.protected && vm.started;
        let slot = &mut vm.objects[index].as_mut().unwrap().slots[offset as usize];
        if let Slot::Present(page) = *slot {
            *slot = if poison { Slot::Poisoned } else { Slot::Absent };
            self.owners[page as usize] = Own::Host;
        }
    }

    /// The state of a page of an object, as a query answers it.
    pub(super) fn state(&mut self, handle: ObjectHandle, offset: u64) -> PageState {
        let (place, index) = self.object(handle).unwrap();
        let vm = self.vms[place].as_ref().unwrap();
        match vm.objects[index].as_ref().unwrap().slots[offset as usize] {
            Slot::Absent => PageState::Absent,
            Slot::Poisoned => PageState::Poisoned,
            Slot::Present(page) => match self.host_reaches(page) {
                Some(true) => PageState::Shared,
                _ => PageState::Private,
            },
        }
    }

    /// A guest's call on vCPU 0: the answer, and what it does.
    pub(super) fn guest(&mut self, place: usize, call: GuestCall) -> GuestAnswer {
        let Some(vm) = &mut self.vms[place] else {
            return GuestAnswer::NotLoaded(CallError::NotFound);
        };
        if !vm.started || vm.stopped {
            return GuestAnswer::NotLoaded(CallError::Denied);
        }
        let (gfn, from, to) = match call {
            GuestCall::Share(gfn) => (gfn, false, true),
            GuestCall::Unshare(gfn) => (gfn, true, false),
            GuestCall::Stop => {
                vm.stopped = true;
                return GuestAnswer::Done;
            }
        };
        let protected = vm.protected;
        match self.slot(place, gfn) {
            Some(Slot::Present(page))
                if protected
                    && self.owners[page as usize] == (Own::Memory { place, host: from }) =>
            {
                self.owners[page as usize] = Own::Memory { place, host: to };
                GuestAnswer::Done
            }
            Some(Slot::Absent) if to => GuestAnswer::Absent,
            _ => GuestAnswer::Denied,
        }
    }
}

impl Vm {
    fn absent(&self, index: usize, offset: u64, pages: u64) -> bool {
        let slots = &self.objects[index].as_ref().unwrap().slots;
        slots[offset as usize..(offset + pages) as usize]
            .iter()
            .all(|slot| *slot == Slot::Absent)
    }
}
