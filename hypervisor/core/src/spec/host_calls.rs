//! What a call of the host's does that is not refused.

use std::vec;
use std::vec::Vec;

use shared_abi::host_call::{Content, HostCall, ObjectHandle, VmHandle};

use super::{Binding, Life, Object, Owner, Slot, Spec, Vcpu, Vm};

impl Spec {
    /// Does it. `x1` is the call's first result: the handle that it made, or the pages that it has done,
    /// also with `Again`. A destroy that has not finished is [`Self::returned`].
    pub fn commit(&mut self, call: &HostCall, x1: u64) {
        match *call {
            HostCall::VmCreate { protected, first, pages } => {
                let vm = VmHandle(handle(x1));
                self.give(first.0, pages, Owner::Pool(vm));
                let made = Vm {
                    protected,
                    life: Life::New,
                    bindings: Vec::new(),
                    vcpus: Vec::new(),
                    kept: Vec::new(),
                    void: false,
                };
                self.vms.insert(vm, made);
            }
            HostCall::VmTopUp { vm, first, pages } => self.give(first.0, pages, Owner::Pool(vm)),
            HostCall::ObjectCreate { vm, pages } => {
                let slots = vec![Slot::Absent; usize::try_from(pages).unwrap_or(0)];
                self.objects.insert(ObjectHandle(handle(x1)), Object { vm, slots });
            }
            HostCall::ObjectBind { object, offset, gfn, pages } => {
                let binding = Binding { gfn: gfn.0, object, offset, pages };
                self.change(object, |vm| vm.bindings.push(binding));
            }
            HostCall::ObjectUnbind { object, offset, .. } => self.change(object, |vm| {
                let gone = |binding: &Binding| (binding.object, binding.offset) == (object, offset);
                vm.bindings.retain(|binding| !gone(binding));
            }),
            HostCall::ObjectPopulate { object, offset, first, content, .. } => {
                self.populate(object, offset, first.0, x1, content);
            }
            HostCall::ObjectPunch { object, offset, .. } => {
                for offset in offset..offset + x1 {
                    self.take(object, offset);
                }
            }
            HostCall::ObjectDestroy { object } => {
                self.change(object, |vm| vm.bindings.retain(|binding| binding.object != object));
                self.objects.remove(&object);
            }
            HostCall::VcpuCreate { vm, .. } => {
                self.change_vm(vm, |vm| vm.vcpus.push(Vcpu::default()));
            }
            HostCall::VmStart { vm, .. } => self.change_vm(vm, |vm| {
                vm.life = Life::Started;
                if let Some(boot) = vm.vcpus.first_mut() {
                    boot.on = true;
                }
            }),
            HostCall::VmDestroy { vm } => {
                self.vms.remove(&vm);
                self.objects.retain(|_, object| object.vm != vm);
                for owner in self.owners.values_mut() {
                    match *owner {
                        Owner::Pool(of) | Owner::Memory { vm: of, .. } if of == vm => {
                            *owner = Owner::Host;
                        }
                        _ => {}
                    }
                }
            }
            HostCall::ForceReclaim { page } => {
                let place = self.objects.iter().find_map(|(object, found)| {
                    let wanted = Slot::Present(page.0);
                    let offset = found.slots.iter().position(|slot| *slot == wanted)?;
                    Some((*object, offset as u64))
                });
                if let Some((object, offset)) = place {
                    self.take(object, offset);
                }
            }
            HostCall::Version
            | HostCall::ObjectQuery { .. }
            | HostCall::VmCounters { .. }
            | HostCall::VcpuRun { .. } => {}
        }
    }

    /// A destroy has begun, or gone on, and has returned these pages so far; any order will do.
    pub fn returned(&mut self, vm: VmHandle, pages: &[u64]) {
        self.change_vm(vm, |vm| vm.life = Life::Dying);
        for page in pages {
            self.owners.insert(*page, Owner::Host);
        }
        let gone = |slot: &Slot| matches!(slot, Slot::Present(page) if pages.contains(page));
        let objects = self.objects.values_mut().filter(|object| object.vm == vm);
        for slot in objects.flat_map(|object| &mut object.slots) {
            if gone(slot) {
                *slot = Slot::Absent;
            }
        }
    }

    fn populate(&mut self, object: ObjectHandle, offset: u64, first: u64, pages: u64, content: Content) {
        let Ok(vm) = self.vm_of(object) else { return };
        let protected = vm.protected;
        let gfn = self.gfn(vm, object, offset, pages).unwrap_or(0);
        for page in 0..pages {
            self.set_slot(object, offset + page, Slot::Present(first + page));
        }
        let Some(owner) = self.objects.get(&object).map(|object| object.vm) else {
            return;
        };
        self.give(first, pages, Owner::Memory { vm: owner, host: !protected });
        if content == Content::Keep && protected {
            self.change_vm(owner, |vm| vm.kept.extend(gfn..gfn + pages));
        }
    }

    /// The host takes what is at an offset, if anything is. A protected guest that may have seen it is
    /// not to find it empty, as it could believe that.
    fn take(&mut self, object: ObjectHandle, offset: u64) {
        let Ok(vm) = self.vm_of(object) else { return };
        let left = match vm.protected && vm.life != Life::New {
            true => Slot::Poisoned,
            false => Slot::Absent,
        };
        let is_new = vm.life == Life::New;
        if let Some(Slot::Present(page)) = self.slot(object, offset) {
            self.change(object, |vm| vm.void |= is_new);
            self.set_slot(object, offset, left);
            self.owners.insert(page, Owner::Host);
        }
    }

    fn give(&mut self, first: u64, pages: u64, to: Owner) {
        self.owners.extend((first..first + pages).map(|page| (page, to)));
    }

    fn change(&mut self, object: ObjectHandle, f: impl FnOnce(&mut Vm)) {
        if let Some(object) = self.objects.get(&object) {
            self.change_vm(object.vm, f);
        }
    }

    pub(super) fn change_vm(&mut self, vm: VmHandle, f: impl FnOnce(&mut Vm)) {
        if let Some(vm) = self.vms.get_mut(&vm) {
            f(vm);
        }
    }
}

/// A handle as a register holds it.
fn handle(register: u64) -> u32 {
    u32::try_from(register).unwrap_or(u32::MAX)
}
