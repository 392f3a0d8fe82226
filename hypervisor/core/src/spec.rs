//! The specification of the core, to be read in ten minutes: who owns which page, who may reach it, and
//! what every call of the host's and of a guest's is answered. Plain data; no tables, no blocks, no
//! pools, no locks. It shares no code with what it specifies.
//!
//! * here: the state, and who may reach what;
//! * [`refusals`]: when a call of the host's is refused;
//! * [`host_calls`]: what it does otherwise;
//! * [`guest_calls`]: both for guests and for the vCPUs that they run on.
//!
//! The model, in five sentences. Each page of RAM has one [`Owner`]. The host reaches its own pages and
//! those that a guest shares or that it lent; a guest reaches what is present in its memory objects,
//! where these are bound; nobody else reaches anything. What leaves a protected guest comes back wiped.
//! A page that the host took by force from a VM that had started is poison for that VM. A call that is
//! refused changes nothing.
//!
//! Three answers are left to the implementation, which says what it chose: handles (never one that was
//! given before), how much a long call did at a time (never nothing), and whether a pool was too short.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "a specification in plain words: what it adds up was checked to be within a small machine, and an overflow fails the test"
)]

pub mod guest_calls;
pub mod host_calls;
pub mod refusals;

use std::collections::BTreeMap;
use std::ops::Range;
use std::vec::Vec;

use shared_abi::host_call::{ObjectHandle, PageState, VmHandle};

/// Most VMs at a time.
pub const VMS: usize = 16;
/// Most memory objects of a VM.
pub const OBJECTS: usize = 4;
/// Most bindings of a VM.
pub const BINDINGS: usize = 8;
/// Most vCPUs of a VM.
pub const VCPUS: usize = 16;

/// What the specification has to know of a machine. Ranges are of page numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// RAM.
    pub ram: Range<u64>,
    /// The hypervisor's part of it.
    pub reserved: Range<u64>,
    /// Devices that the host must not reach.
    pub denied: Range<u64>,
    /// Pages of an IPA space, guests' and host's.
    pub ipa_pages: u64,
    /// Most pages of a memory object.
    pub largest_object: u64,
    /// Most pages that one call populates, takes, shares or unshares.
    pub pages_per_call: u64,
    /// Most pages that one call populates with their content kept.
    pub kept_per_call: u64,
}

/// Who owns a page of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The hypervisor, for good.
    Hypervisor,
    /// The host.
    Host,
    /// The pool of a VM: the hypervisor's as long as the VM is there.
    Pool(VmHandle),
    /// A VM's memory. The host reaches it too if the guest shares it, or if it was only lent.
    Memory {
        /// Whose.
        vm: VmHandle,
        /// Whether the host reaches it.
        host: bool,
    },
}

/// What is at an offset of a memory object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Nothing; the host may populate it.
    Absent,
    /// This physical page.
    Present(u64),
    /// The host took the page that was here, by force.
    Poisoned,
}

/// A memory object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// Whose.
    pub vm: VmHandle,
    /// Its pages, by offset.
    pub slots: Vec<Slot>,
}

/// Where a guest sees a part of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    /// First guest page.
    pub gfn: u64,
    /// Which object.
    pub object: ObjectHandle,
    /// First page in it.
    pub offset: u64,
    /// How many pages.
    pub pages: u64,
}

/// A vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vcpu {
    /// It runs, or may run (PSCI).
    pub on: bool,
    /// A CPU has it.
    pub loaded: bool,
}

/// The life of a VM, which only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Life {
    /// The host puts it together.
    New,
    /// Its vCPUs may be entered.
    Started,
    /// No vCPU of it is entered again.
    Stopped,
    /// Its end has begun; only its end may go on.
    Dying,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vm {
    /// Whether its memory is kept from the host.
    pub protected: bool,
    /// How far it is.
    pub life: Life,
    /// What it sees where.
    pub bindings: Vec<Binding>,
    /// Its vCPUs.
    pub vcpus: Vec<Vcpu>,
    /// The guest pages whose content was kept, in order: what the launch measurement covers.
    pub kept: Vec<u64>,
    /// A page was taken back before the start, which the launch measurement tells.
    pub void: bool,
}

/// The machine, as far as ownership goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What does not change.
    pub layout: Layout,
    /// Who owns which page of RAM.
    pub owners: BTreeMap<u64, Owner>,
    /// All VMs.
    pub vms: BTreeMap<VmHandle, Vm>,
    /// All memory objects.
    pub objects: BTreeMap<ObjectHandle, Object>,
}

/// Whether the host may reach a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostReach {
    /// Yes.
    Yes,
    /// No; a touch is an abort.
    No,
    /// It is a device's, or nothing's: from the first touch on, as device memory.
    Device,
}

impl Spec {
    /// The machine as it starts: what is not the hypervisor's is the host's.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        let owner = |page: u64| match layout.reserved.contains(&page) {
            true => (page, Owner::Hypervisor),
            false => (page, Owner::Host),
        };
        Self {
            owners: layout.ram.clone().map(owner).collect(),
            vms: BTreeMap::new(),
            objects: BTreeMap::new(),
            layout,
        }
    }

    /// Whether the host may reach a page.
    #[must_use]
    pub fn host_reach(&self, page: u64) -> HostReach {
        match self.owners.get(&page) {
            Some(Owner::Host | Owner::Memory { host: true, .. }) => HostReach::Yes,
            Some(_) => HostReach::No,
            None if self.layout.denied.contains(&page) => HostReach::No,
            None if page < self.layout.ipa_pages => HostReach::Device,
            None => HostReach::No,
        }
    }

    /// The page that a guest reaches at a page of its IPA space. It may read, write and execute it.
    #[must_use]
    pub fn guest_reach(&self, vm: VmHandle, gfn: u64) -> Option<u64> {
        match self.slot_at(vm, gfn)? {
            Slot::Present(page) => Some(page),
            Slot::Absent | Slot::Poisoned => None,
        }
    }

    /// What is at a guest page; `None` if no memory is bound there.
    #[must_use]
    pub fn slot_at(&self, vm: VmHandle, gfn: u64) -> Option<Slot> {
        let (object, offset) = self.place_of(vm, gfn)?;
        self.slot(object, offset)
    }

    /// Which page of which object a guest sees at `gfn`.
    pub(super) fn place_of(&self, vm: VmHandle, gfn: u64) -> Option<(ObjectHandle, u64)> {
        let bindings = &self.vms.get(&vm)?.bindings;
        let binding =
            bindings.iter().find(|binding| gfn >= binding.gfn && gfn - binding.gfn < binding.pages)?;
        Some((binding.object, binding.offset + (gfn - binding.gfn)))
    }

    /// What is at an offset of an object; `None` beyond its end.
    #[must_use]
    pub fn slot(&self, object: ObjectHandle, offset: u64) -> Option<Slot> {
        let slots = &self.objects.get(&object)?.slots;
        slots.get(usize::try_from(offset).ok()?).copied()
    }

    pub(super) fn set_slot(&mut self, object: ObjectHandle, offset: u64, to: Slot) {
        if let Some(object) = self.objects.get_mut(&object)
            && let Ok(offset) = usize::try_from(offset)
            && let Some(slot) = object.slots.get_mut(offset)
        {
            *slot = to;
        }
    }

    /// The state of a page of an object, as a query answers it.
    #[must_use]
    pub fn state(&self, object: ObjectHandle, offset: u64) -> Option<PageState> {
        Some(match self.slot(object, offset)? {
            Slot::Absent => PageState::Absent,
            Slot::Poisoned => PageState::Poisoned,
            Slot::Present(page) => match self.host_reach(page) {
                HostReach::Yes => PageState::Shared,
                _ => PageState::Private,
            },
        })
    }

    /// How many pages a guest shares at the moment.
    #[must_use]
    pub fn shared(&self, vm: VmHandle) -> u64 {
        let shared = Owner::Memory { vm, host: true };
        match self.vms.get(&vm) {
            Some(found) if found.protected => {
                self.owners.values().filter(|owner| **owner == shared).count() as u64
            }
            _ => 0,
        }
    }
}
