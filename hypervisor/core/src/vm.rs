//! A VM: its state, memory objects, bindings, vCPUs and pool. One lock per VM guards all of it; every
//! decision about a VM is made under that lock.

pub mod mmio_guard;
pub(crate) mod vcpu_ownership;

use bootimg::measure::LaunchMeasurement;
use heapless::Vec;
use shared_abi::addr::{Gfn, Ipa, PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{ObjectHandle, VcpuIndex, VmHandle};

use crate::limits::{CpuIndex, MAX_BINDINGS, MAX_CPUS, MAX_OBJECTS, MAX_VCPUS, ObjectIndex, VmIndex};
use crate::machine::geometry::Geometry;
use crate::machine::report::VmReport;
use crate::memory::object::{self, Object, Presence};
use crate::memory::pool::Pool;
use crate::memory::stage2::table::{self, Stage2};
use crate::ownership::page_state::{ObjectPage, PageState};
use crate::vm::mmio_guard::MmioGuard;

/// A binding: a run of object pages mapped one to one at a run of guest-physical pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    pub(crate) guest: PageRange<Gfn>,
    /// The first object page.
    pub(crate) first: ObjectPage,
}

impl Binding {
    /// Returns the guest page of object page `page`, if this binding has all of the `pages` pages from it on.
    fn gfn(&self, page: ObjectPage, pages: u64) -> Option<Gfn> {
        let within = page.after(self.first)?;
        let fits = within.checked_add(pages)? <= self.guest.len();
        fits.then(|| Gfn(self.guest.first().0.wrapping_add(within)))
    }

    /// Returns whether this binding has one of the `pages` object pages from `page` on.
    fn overlaps(&self, page: ObjectPage, pages: u64) -> bool {
        page.after(self.first).is_some_and(|within| within < self.guest.len())
            || self.first.after(page).is_some_and(|within| within < pages)
    }
}

/// The initial PC and x0 of a vCPU at its next entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) entry: Ipa,
    pub(crate) argument: u64,
}

/// A vCPU's record in its VM. Its registers are in page `context`.
#[derive(Debug)]
#[cfg_attr(feature = "verify", derive(Clone))]
pub(crate) struct Vcpu {
    pub(crate) context: Pfn,
    /// The PSCI power state: true if the vCPU runs or may run.
    pub(crate) on: bool,
    pub(crate) start: Option<Start>,
}

/// The state of a VM. It only moves down this list, and may skip `Stopped`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VmState {
    /// The host adds objects, memory and vCPUs. No vCPU may be entered.
    New,
    /// vCPUs may be entered.
    Started,
    /// No vCPU is ever entered again.
    Stopped,
    /// Teardown is under way.
    Dying,
}

/// A memory object and the generation of its slot.
#[derive(Debug, Default)]
#[cfg_attr(feature = "verify", derive(Clone))]
pub(crate) struct ObjectSlot {
    pub(crate) generation: u32,
    pub(crate) object: Option<Object>,
}

/// A VM.
#[derive(Debug)]
#[cfg_attr(feature = "verify", derive(Clone))]
pub(crate) struct Vm {
    pub(crate) index: VmIndex,
    pub(crate) protected: bool,
    pub(crate) state: VmState,
    pub(crate) tables: Stage2,
    pub(crate) pool: Pool,
    pub(crate) bindings: Vec<Binding, MAX_BINDINGS>,
    pub(crate) vcpus: Vec<Vcpu, MAX_VCPUS>,
    pub(crate) measurement: LaunchMeasurement,
    pub(crate) report: VmReport,
    /// The vCPU that ran last on each CPU since the VM was created.
    pub(crate) last_on_cpu: [Option<VcpuIndex>; MAX_CPUS],
}

impl Vm {
    /// Returns the guest page of object page `page`, if one binding has all of the `pages` pages from it on.
    pub(crate) fn gfn(&self, page: ObjectPage, pages: u64) -> Option<Gfn> {
        for binding in &self.bindings {
            if let Some(gfn) = binding.gfn(page, pages) {
                return Some(gfn);
            }
        }
        None
    }

    /// Returns the guest page of object page `page`, and how many of the `most` pages from it on belong to
    /// the same binding.
    pub(crate) fn bound_run(&self, page: ObjectPage, most: u64) -> Option<(Gfn, u64)> {
        self.bindings.iter().find_map(|binding| {
            let gfn = binding.gfn(page, 1)?;
            Some((gfn, binding.guest.end().0.wrapping_sub(gfn.0).min(most)))
        })
    }

    /// Returns the object page at guest page `gfn`, and how many pages from it on belong to the same binding.
    pub(crate) fn object_run(&self, gfn: Gfn) -> Option<(ObjectPage, u64)> {
        let binding = self.bindings.iter().find(|binding| binding.guest.contains(gfn))?;
        let within = gfn.0.wrapping_sub(binding.guest.first().0);
        Some((binding.first.advance(within), binding.guest.len().wrapping_sub(within)))
    }

    /// Returns whether a binding has one of these guest pages, or one of as many object pages from `first`
    /// on.
    pub(crate) fn is_bound(&self, guest: PageRange<Gfn>, first: ObjectPage) -> bool {
        self.bindings
            .iter()
            .any(|binding| binding.guest.overlaps(guest) || binding.overlaps(first, guest.len()))
    }

    /// Returns the state of a page of this VM that is not shared: owned by a protected guest, or lent to an
    /// ordinary VM.
    pub(crate) const fn page_state(&self, page: ObjectPage) -> PageState {
        if self.protected { PageState::guest(page) } else { PageState::lent(page) }
    }

    /// Checks that the pool has enough tables for any change of `pages` pages from object offset `offset`, at
    /// `gfn`. The change may need fewer; the bound avoids a second walk.
    ///
    /// # Errors
    ///
    /// [`CallError::NoMemory`] with the number of missing pages.
    pub(crate) fn has_tables<G: Geometry>(
        &self,
        offset: u64,
        gfn: Gfn,
        pages: u64,
    ) -> Result<(), CallFailure> {
        let tables =
            object::tables_for::<G>(offset, pages).saturating_add(table::tables_for::<G>(gfn.0, pages));
        match self.pool.short_of(tables) {
            Some(missing) => Err(CallFailure::no_memory(missing)),
            _ => Ok(()),
        }
    }

    /// Returns the presence of an object page after a forced reclaim. A protected guest that may have run
    /// must not read zeroes there as if they were its own data, so the page is poisoned.
    pub(crate) fn hole(&self) -> Presence {
        if self.protected && self.state != VmState::New { Presence::Poisoned } else { Presence::Absent }
    }

    /// Fails unless the VM is [`VmState::New`]: [`CallError::Busy`] if it is dying, else
    /// [`CallError::Denied`].
    pub(crate) fn is_new(&self) -> Result<(), CallError> {
        match self.state {
            VmState::New => Ok(()),
            VmState::Started | VmState::Stopped => Err(CallError::Denied),
            VmState::Dying => Err(CallError::Busy),
        }
    }

    /// Fails with [`CallError::Busy`] if the VM is dying.
    pub(crate) fn is_alive(&self) -> Result<(), CallError> {
        match self.state {
            VmState::Dying => Err(CallError::Busy),
            _ => Ok(()),
        }
    }

    /// Records that `vcpu` runs on `cpu` next. Returns whether another vCPU of this VM ran last on that CPU.
    pub(crate) fn runs_on(&mut self, cpu: CpuIndex, vcpu: VcpuIndex) -> bool {
        let Some(last) = self.last_on_cpu.get_mut(cpu.0) else {
            return true;
        };
        last.replace(vcpu).is_some_and(|last| last != vcpu)
    }

    /// Returns the vCPU at `index`.
    pub(crate) fn vcpu(&mut self, index: VcpuIndex) -> Option<&mut Vcpu> {
        self.vcpus.get_mut(usize::try_from(index.0).ok()?)
    }
}

/// A slot for a VM. The generation outlives the VM, so a handle to an earlier VM of the slot no longer
/// resolves.
#[derive(Debug, Default)]
#[cfg_attr(feature = "verify", derive(Clone))]
pub(crate) struct VmSlot {
    pub(crate) generation: u32,
    pub(crate) vm: Option<Vm>,
    pub(crate) objects: [ObjectSlot; MAX_OBJECTS],
    /// The MMIO guard of the VM in the slot.
    pub(crate) guard: MmioGuard,
}

/// Returns the object at `index`, if its slot is occupied.
pub(crate) fn object_in(slots: &mut [ObjectSlot; MAX_OBJECTS], index: ObjectIndex) -> Option<&mut Object> {
    slots.get_mut(usize::from(index.0))?.object.as_mut()
}

/// A handle holds the generation in the bits from here on, and the slot below.
const SLOT_BITS: u32 = 8;
const SLOT_MASK: u32 = 0xff;
const OBJECT_BITS: u32 = 4;
/// Number of generations of a slot, after which they repeat. A host that keeps a handle for that long
/// confuses only itself.
const GENERATIONS: u32 = 1 << 24;

/// Returns the generation after `generation`; never 0.
pub(crate) const fn next_generation(generation: u32) -> u32 {
    match generation.wrapping_add(1) % GENERATIONS {
        0 => 1,
        next => next,
    }
}

/// Returns the handle of the VM at `index`.
pub(crate) fn vm_handle(index: VmIndex, generation: u32) -> VmHandle {
    VmHandle((generation << SLOT_BITS) | u32::from(index.0))
}

/// Returns the handle of an object.
pub(crate) fn object_handle(vm: VmIndex, object: ObjectIndex, generation: u32) -> ObjectHandle {
    let slot = (u32::from(vm.0) << OBJECT_BITS) | u32::from(object.0);
    ObjectHandle((generation << SLOT_BITS) | slot)
}

/// Returns the slot and generation in a VM handle.
pub(crate) const fn vm_slot(handle: VmHandle) -> (usize, u32) {
    ((handle.0 & SLOT_MASK) as usize, handle.0 >> SLOT_BITS)
}

/// Returns the VM's slot, the object's index and the generation in an object handle.
pub(crate) const fn object_slot(handle: ObjectHandle) -> (usize, ObjectIndex, u32) {
    let slot = handle.0 & SLOT_MASK;
    let object = ObjectIndex((slot & ((1 << OBJECT_BITS) - 1)) as u8);
    ((slot >> OBJECT_BITS) as usize, object, handle.0 >> SLOT_BITS)
}
