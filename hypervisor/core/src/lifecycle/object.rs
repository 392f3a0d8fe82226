//! Memory objects under host control: create, bind, unbind, query, destroy.

use shared_abi::addr::{Gfn, PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{ObjectHandle, ObjectPageState, VmHandle};

use crate::hypervisor::Hypervisor;
use crate::limits::ObjectIndex;
use crate::machine::Machine;
use crate::machine::geometry::Geometry;
use crate::memory::object::{Object, Presence};
use crate::ownership::page_state::{ObjectPage, PageState};
use crate::vm::{self, Binding, Vm, VmState};

/// Maximum number of pages that one query covers.
const MAX_QUERY_PAGES: u64 = 512;
/// Maximum number of tables that one destroy call returns to the pool.
const MAX_TABLES_PER_CALL: u64 = 512;

impl<M: Machine> Hypervisor<'_, M> {
    /// Creates an object of `pages` pages, all absent.
    pub(crate) fn object_create(&self, handle: VmHandle, pages: u64) -> Result<ObjectHandle, CallFailure> {
        let tables = Object::tables_needed::<M::Geometry>(pages).ok_or(CallError::InvalidParameter)?;
        self.with_vm(handle, |vm, objects| {
            vm.is_new()?;
            let (slot, index) =
                objects.iter_mut().zip(0..).find(|(slot, _)| slot.object.is_none()).ok_or(CallError::Full)?;
            if let Some(missing) = vm.pool.short_of(tables) {
                return Err(CallFailure::no_memory(missing));
            }
            slot.object = Object::new(&self.machine, &mut vm.pool, pages);
            slot.generation = vm::next_generation(slot.generation);
            Ok(vm::object_handle(vm.index, ObjectIndex(index), slot.generation))
        })
    }

    /// Binds `pages` pages of an object from `offset` at guest page `gfn`. The guest reaches a page once it
    /// is populated.
    pub(crate) fn object_bind(
        &self,
        handle: ObjectHandle,
        offset: u64,
        gfn: Gfn,
        pages: u64,
    ) -> Result<(), CallFailure> {
        let guest = PageRange::<Gfn>::new(gfn, pages)
            .filter(|guest| {
                let end = seeded!(guest.end().0, BoundBeyond => guest.end().0.saturating_sub(1));
                end <= M::Geometry::IPA_PAGES
            })
            .ok_or(CallError::InvalidParameter)?;
        self.with_object(handle, |vm, index, slot| {
            let object = slot.object.as_mut().ok_or(CallError::NotFound)?;
            if !object.has(offset, pages) {
                return Err(CallError::InvalidParameter.into());
            }
            vm.is_new()?;
            let first = ObjectPage::new(vm.index, index, offset);
            let bound = seeded!(vm.is_bound(guest, first), BoundTwice => false);
            if bound {
                return Err(CallError::Denied.into());
            }
            let binding = Binding { guest, first };
            vm.bindings.push(binding).map_err(|_| CallError::Full.into())
        })
    }

    /// Removes the binding of exactly this range. Fails with [`CallError::Denied`] if there is none, or if a
    /// page of the range is not absent.
    pub(crate) fn object_unbind(
        &self,
        handle: ObjectHandle,
        offset: u64,
        pages: u64,
    ) -> Result<(), CallFailure> {
        self.with_object(handle, |vm, index, slot| {
            let object = slot.object.as_mut().ok_or(CallError::NotFound)?;
            if !object.has(offset, pages) {
                return Err(CallError::InvalidParameter.into());
            }
            vm.is_new()?;
            let first = ObjectPage::new(vm.index, index, offset);
            let position = vm
                .bindings
                .iter()
                .position(|binding| binding.first == first && binding.guest.len() == pages)
                .ok_or(CallError::Denied)?;
            if !object.is_empty(&self.machine, offset, pages) {
                return Err(CallError::Denied.into());
            }
            vm.bindings.swap_remove(position);
            Ok(())
        })
    }

    /// Returns the state of the page at `offset`, and the number of pages from there on that have the same
    /// state (at most 512).
    pub(crate) fn object_query(
        &self,
        handle: ObjectHandle,
        offset: u64,
    ) -> Result<(ObjectPageState, u64), CallFailure> {
        self.with_object(handle, |vm, index, slot| {
            let object = slot.object.as_mut().ok_or(CallError::NotFound)?;
            if !object.has(offset, 1) {
                return Err(CallError::InvalidParameter.into());
            }
            let run = object.run(&self.machine, offset, MAX_QUERY_PAGES);
            Ok(match run.presence() {
                Presence::Absent => (ObjectPageState::Absent, run.pages),
                Presence::Poisoned => (ObjectPageState::Poisoned, run.pages),
                Presence::Present(first) => {
                    let page = ObjectPage::new(vm.index, index, offset);
                    self.present_run(vm, page, first, run.pages)
                }
            })
        })
    }

    /// Returns the state of the first page of a run of present pages, and how many pages of the run have it.
    fn present_run(&self, vm: &Vm, page: ObjectPage, first: Pfn, pages: u64) -> (ObjectPageState, u64) {
        let host = self.host.lock(&self.machine);
        let owners = host.owners();
        let reaches = |page| owners.get(page).is_some_and(PageState::host_reaches);
        let shared = reaches(first);
        let state = if shared { ObjectPageState::Shared } else { ObjectPageState::Private };
        let all_as_populated =
            PageRange::<Pfn>::new(first, pages).is_some_and(|range| owners.all(range, vm.page_state(page)));
        if all_as_populated {
            return (state, pages);
        }
        let same = (0..pages).take_while(|next| reaches(Pfn(first.0.wrapping_add(*next))) == shared).count();
        (state, u64::try_from(same).unwrap_or(1))
    }

    /// Destroys an object and its bindings. Fails with [`CallError::Denied`] if a page is present, or if the
    /// object is bound and the VM is no longer [`VmState::New`].
    pub(crate) fn object_destroy(&self, handle: ObjectHandle) -> Result<(), CallFailure> {
        self.with_object(handle, |vm, index, slot| {
            let object = slot.object.as_mut().ok_or(CallError::NotFound)?;
            let bound = vm.bindings.iter().any(|binding| binding.first.object() == index);
            // After the start a binding is permanent: an access to bound memory must never become MMIO.
            if object.present() != 0 || (bound && vm.state != VmState::New) {
                return Err(CallError::Denied.into());
            }
            let gone = object.dismantle(&self.machine, &mut vm.pool, MAX_TABLES_PER_CALL);
            if gone >= MAX_TABLES_PER_CALL {
                return Err(CallFailure::again(0));
            }
            vm.bindings.retain(|binding| binding.first.object() != index);
            slot.object = None;
            Ok(())
        })
    }
}
