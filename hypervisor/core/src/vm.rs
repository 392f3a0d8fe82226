//! A VM: its life, its memory objects and where they are bound, its vCPUs, its pool. One lock per VM
//! guards all of it; what is decided about a VM is decided under that lock.

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

/// A binding: object pages at guest-physical pages, one to one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    pub(crate) guest: PageRange<Gfn>,
    /// The first object page.
    pub(crate) first: ObjectPage,
}

impl Binding {
    /// Where the guest sees a page of an object, if it is in this binding and so are the `pages` from
    /// there on.
    fn gfn(&self, page: ObjectPage, pages: u64) -> Option<Gfn> {
        let within = page.after(self.first)?;
        let fits = within.checked_add(pages)? <= self.guest.len();
        fits.then(|| Gfn(self.guest.first().0.wrapping_add(within)))
    }

    /// Whether the binding and `pages` object pages from `page` on have one in common.
    fn overlaps(&self, page: ObjectPage, pages: u64) -> bool {
        page.after(self.first).is_some_and(|within| within < self.guest.len())
            || self.first.after(page).is_some_and(|within| within < pages)
    }
}

/// Where a vCPU starts when it is entered next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) entry: Ipa,
    pub(crate) argument: u64,
}

/// A vCPU, as its VM knows it. Its registers are in the page `context`.
#[derive(Debug)]
#[cfg_attr(feature = "verify", derive(Clone))]
pub(crate) struct Vcpu {
    pub(crate) context: Pfn,
    /// PSCI: it runs or may run.
    pub(crate) on: bool,
    pub(crate) start: Option<Start>,
}

/// The life of a VM goes from top to bottom, and may skip `Stopped`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VmState {
    /// The host puts it together.
    New,
    /// Its vCPUs may be entered.
    Started,
    /// Its vCPUs are never entered again.
    Stopped,
    /// It is being torn down.
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
    /// Which vCPU ran last on each CPU since the VM was made.
    pub(crate) last_on_cpu: [Option<VcpuIndex>; MAX_CPUS],
}

impl Vm {
    /// Where the guest sees a run of object pages that lie in one binding.
    pub(crate) fn gfn(&self, page: ObjectPage, pages: u64) -> Option<Gfn> {
        for binding in &self.bindings {
            if let Some(gfn) = binding.gfn(page, pages) {
                return Some(gfn);
            }
        }
        None
    }

    /// Where the guest sees a page of an object, and how many of the `most` pages from there on follow in
    /// the same binding.
    pub(crate) fn bound_run(&self, page: ObjectPage, most: u64) -> Option<(Gfn, u64)> {
        self.bindings.iter().find_map(|binding| {
            let gfn = binding.gfn(page, 1)?;
            Some((gfn, binding.guest.end().0.wrapping_sub(gfn.0).min(most)))
        })
    }

    /// Which page of which object the guest sees at `gfn`, and how many of the pages from there on
    /// follow in the same binding.
    pub(crate) fn object_run(&self, gfn: Gfn) -> Option<(ObjectPage, u64)> {
        let binding = self.bindings.iter().find(|binding| binding.guest.contains(gfn))?;
        let within = gfn.0.wrapping_sub(binding.guest.first().0);
        Some((binding.first.advance(within), binding.guest.len().wrapping_sub(within)))
    }

    /// Whether a binding touches these guest pages, or as many object pages from `first` on.
    pub(crate) fn is_bound(&self, guest: PageRange<Gfn>, first: ObjectPage) -> bool {
        self.bindings
            .iter()
            .any(|binding| binding.guest.overlaps(guest) || binding.overlaps(first, guest.len()))
    }

    /// The page state of a page of this VM's that only its owner reaches, or that an ordinary VM was lent.
    pub(crate) const fn page_state(&self, page: ObjectPage) -> PageState {
        if self.protected { PageState::guest(page) } else { PageState::lent(page) }
    }

    /// Fails unless the pool has the tables that a change of `pages` pages from `offset` of an object on,
    /// at `gfn`, may take. That they may turn out not to be needed is the price of not looking twice.
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

    /// What an object has where the host took a page: a protected guest that has run must never meet
    /// zeroes that it could believe.
    pub(crate) fn hole(&self) -> Presence {
        if self.protected && self.state != VmState::New { Presence::Poisoned } else { Presence::Absent }
    }

    /// Fails unless the host may still put the VM together.
    pub(crate) fn is_new(&self) -> Result<(), CallError> {
        match self.state {
            VmState::New => Ok(()),
            VmState::Started | VmState::Stopped => Err(CallError::Denied),
            VmState::Dying => Err(CallError::Busy),
        }
    }

    /// Fails for a VM that is being torn down.
    pub(crate) fn is_alive(&self) -> Result<(), CallError> {
        match self.state {
            VmState::Dying => Err(CallError::Busy),
            _ => Ok(()),
        }
    }

    /// Notes that `vcpu` runs on `cpu` next; answers whether another one of this VM did so last.
    pub(crate) fn runs_on(&mut self, cpu: CpuIndex, vcpu: VcpuIndex) -> bool {
        let Some(last) = self.last_on_cpu.get_mut(cpu.0) else {
            return true;
        };
        last.replace(vcpu).is_some_and(|last| last != vcpu)
    }

    /// The vCPU of that index.
    pub(crate) fn vcpu(&mut self, index: VcpuIndex) -> Option<&mut Vcpu> {
        self.vcpus.get_mut(usize::try_from(index.0).ok()?)
    }
}

/// A slot for a VM. Generations outlive what is in the place, so that a handle to what was there
/// before names nothing.
#[derive(Debug, Default)]
#[cfg_attr(feature = "verify", derive(Clone))]
pub(crate) struct VmSlot {
    pub(crate) generation: u32,
    pub(crate) vm: Option<Vm>,
    pub(crate) objects: [ObjectSlot; MAX_OBJECTS],
    /// The MMIO guard of the VM that is there.
    pub(crate) guard: MmioGuard,
}

/// The object of that index.
pub(crate) fn object_in(slots: &mut [ObjectSlot; MAX_OBJECTS], index: ObjectIndex) -> Option<&mut Object> {
    slots.get_mut(usize::from(index.0))?.object.as_mut()
}

/// Handles: the generation above, the slots below.
const SLOT_BITS: u32 = 8;
const SLOT_MASK: u32 = 0xff;
const OBJECT_BITS: u32 = 4;
/// The generations of a place; after the last the first comes again. A host that keeps a handle for so
/// long confuses itself, nobody else.
const GENERATIONS: u32 = 1 << 24;

/// The generation that comes after `generation`; never 0.
pub(crate) const fn next_generation(generation: u32) -> u32 {
    match generation.wrapping_add(1) % GENERATIONS {
        0 => 1,
        next => next,
    }
}

/// The handle of the VM at `index`.
pub(crate) fn vm_handle(index: VmIndex, generation: u32) -> VmHandle {
    VmHandle((generation << SLOT_BITS) | u32::from(index.0))
}

/// The handle of an object.
pub(crate) fn object_handle(vm: VmIndex, object: ObjectIndex, generation: u32) -> ObjectHandle {
    let slot = (u32::from(vm.0) << OBJECT_BITS) | u32::from(object.0);
    ObjectHandle((generation << SLOT_BITS) | slot)
}

/// The place and generation that a VM handle names.
pub(crate) const fn vm_slot(handle: VmHandle) -> (usize, u32) {
    ((handle.0 & SLOT_MASK) as usize, handle.0 >> SLOT_BITS)
}

/// The VM's slot, the object's, and the generation that an object handle names.
pub(crate) const fn object_slot(handle: ObjectHandle) -> (usize, ObjectIndex, u32) {
    let slot = handle.0 & SLOT_MASK;
    let object = ObjectIndex((slot & ((1 << OBJECT_BITS) - 1)) as u8);
    ((slot >> OBJECT_BITS) as usize, object, handle.0 >> SLOT_BITS)
}
