//! The specification of the core, a read of ten minutes: the owner of each page, the pages that each party reaches,
//! and the result of each host call and guest call. It is plain data, without tables, blocks, pools or locks. It
//! shares no code with the core.
//!
//! * here: the state, and the pages that each party reaches;
//! * [`host`]: for each host call, the reasons to refuse it, and its effect;
//! * [`guest`]: the same for guest calls.
//!
//! The model in five sentences. Each page of RAM has one [`SpecOwner`]. The host reaches its own pages, and the pages
//! that a guest shares or that it lends; a guest reaches the pages that are present in its memory objects, at the
//! places where the objects are bound; no other access is possible. A page that leaves a protected guest is wiped
//! before the host gets it. A page that the host took by force from a started VM is poisoned for that VM. A refused
//! call changes nothing.
//!
//! The specification leaves three values to the core, which the caller passes in: a handle (never one that was given
//! before), the number of pages that a long call completes at a time (at least one), and whether a pool has too few
//! pages.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a specification as plain code: a panic in it fails the test"
)]

pub mod guest;
pub mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::vec::Vec;

use shared_abi::host_call::{ObjectHandle, VcpuIndex, VmHandle};

/// The ownership state of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The fixed layout.
    pub layout: Layout,
    /// The owner of each page of RAM.
    pub owners: BTreeMap<u64, SpecOwner>,
    /// All VMs.
    pub vms: BTreeMap<VmHandle, SpecVm>,
}

/// The owner of a page of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecOwner {
    /// The hypervisor, permanently.
    Hypervisor,
    /// The host alone.
    Host,
    /// The hypervisor, as this VM's pool. The host gets the page back when the VM is destroyed.
    Pool(VmHandle),
    /// This protected VM alone.
    Private(VmHandle),
    /// This protected VM, which shares the page with the host.
    Shared(VmHandle),
    /// The host, which lends the page to this ordinary VM.
    Lent(VmHandle),
}

/// A VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpecVm {
    /// True if the host cannot reach its memory. An ordinary VM's memory is lent by the host.
    pub protected: bool,
    /// Its state.
    pub state: SpecVmState,
    /// Its memory objects, with the presence of each page.
    pub objects: BTreeMap<ObjectHandle, Vec<SpecPresence>>,
    /// Its bindings: the guest pages at which objects appear.
    pub bindings: Vec<SpecBinding>,
    /// For each vCPU, whether PSCI has turned it on.
    pub on: Vec<bool>,
    /// The vCPUs that are loaded on a CPU.
    pub loaded: BTreeSet<VcpuIndex>,
    /// The guest pages that kept their content, in the order in which the launch measurement covers them.
    pub kept: Vec<u64>,
    /// True if the host reclaimed a page before the start, which voids the launch measurement.
    pub void: bool,
}

/// The state of a VM. It only moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecVmState {
    /// The host builds the VM.
    #[default]
    New,
    /// The host may enter its vCPUs.
    Started,
    /// The host can no longer enter its vCPUs.
    Stopped,
    /// Its destruction has begun, and only that may go on.
    Dying,
}

/// The presence of a page of a memory object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpecPresence {
    /// No page is present. The host may populate it.
    Absent,
    /// This physical page is present.
    Present(u64),
    /// The host took the page by force.
    Poisoned,
}

impl SpecPresence {
    /// Returns the physical page, if one is present.
    const fn page(&self) -> Option<u64> {
        match *self {
            Self::Present(page) => Some(page),
            Self::Absent | Self::Poisoned => None,
        }
    }
}

/// A range of guest pages at which part of an object appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpecBinding {
    /// The first guest page.
    pub gfn: u64,
    /// The object.
    pub object: ObjectHandle,
    /// The first page in the object.
    pub offset: u64,
    /// The number of pages.
    pub pages: u64,
}

/// The fixed layout and limits of a machine. Ranges are of page numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// RAM.
    pub ram: Range<u64>,
    /// The hypervisor's part of it.
    pub reserved: Range<u64>,
    /// Devices that the host must not reach.
    pub denied: Range<u64>,
    /// The number of pages in an IPA space, of the host or of a guest.
    pub ipa_pages: u64,
    /// The maximum number of pages of a memory object.
    pub largest_object: u64,
    /// The maximum number of pages that one call populates, shares or unshares.
    pub pages_per_call: u64,
    /// The maximum number of pages that one call populates with their content kept.
    pub kept_per_call: u64,
}

/// Whether the host may reach a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostReach {
    /// Yes, as RAM.
    Yes,
    /// No: an access takes an abort.
    No,
    /// The page is not RAM and not denied: the host reaches it as device memory from its first access on.
    Device,
}

impl Spec {
    /// The machine at boot: the host owns all RAM outside the hypervisor's part.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        let owner =
            |page| if layout.reserved.contains(&page) { SpecOwner::Hypervisor } else { SpecOwner::Host };
        let owners = layout.ram.clone().map(|page| (page, owner(page))).collect();
        Self { layout, owners, vms: BTreeMap::new() }
    }

    /// Returns whether the host may reach a page.
    #[must_use]
    pub fn host_reach(&self, page: u64) -> HostReach {
        match self.owners.get(&page) {
            Some(SpecOwner::Host | SpecOwner::Shared(_) | SpecOwner::Lent(_)) => HostReach::Yes,
            Some(SpecOwner::Hypervisor | SpecOwner::Pool(_) | SpecOwner::Private(_)) => HostReach::No,
            None if self.layout.denied.contains(&page) => HostReach::No,
            None if page < self.layout.ipa_pages => HostReach::Device,
            None => HostReach::No,
        }
    }

    /// Returns the physical page that a guest reaches at a guest page. The guest may read, write and execute it.
    #[must_use]
    pub fn guest_reach(&self, vm: VmHandle, gfn: u64) -> Option<u64> {
        self.slot_at(vm, gfn)?.page()
    }

    /// Returns true if the invariant of every state holds: a VM owns exactly the pages that are present in its
    /// objects, each at one place. Since a page has one owner, no two guests reach it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.vms.iter().all(|(vm, found)| {
            let memory = match found.protected {
                true => [SpecOwner::Private(*vm), SpecOwner::Shared(*vm)],
                false => [SpecOwner::Lent(*vm); 2],
            };
            let owned = self.owners.iter().filter(|(_, owner)| memory.contains(owner));
            let mut present: Vec<u64> =
                found.objects.values().flatten().filter_map(SpecPresence::page).collect();
            present.sort_unstable();
            owned.map(|(page, _)| page).eq(&present)
        })
    }

    /// Returns the presence at a guest page, or `None` if no memory is bound there.
    fn slot_at(&self, vm: VmHandle, gfn: u64) -> Option<SpecPresence> {
        let vm = self.vms.get(&vm)?;
        let holds = |binding: &&SpecBinding| (binding.gfn..binding.gfn + binding.pages).contains(&gfn);
        let SpecBinding { gfn: first, object, offset, .. } = vm.bindings.iter().find(holds)?;
        Some(vm.objects[object][(offset + gfn - first) as usize])
    }

    /// Gives a page back to the host. If an object held the page, its place there becomes `left`.
    fn give_back(&mut self, page: u64, left: SpecPresence) {
        self.owners.insert(page, SpecOwner::Host);
        let objects = self.vms.values_mut().flat_map(|vm| vm.objects.values_mut());
        for slot in objects.flatten().filter(|slot| **slot == SpecPresence::Present(page)) {
            *slot = left;
        }
    }

    /// Returns a VM that the caller has checked to exist.
    fn there(&mut self, vm: VmHandle) -> &mut SpecVm {
        self.vms.get_mut(&vm).expect("it is there")
    }
}

/// Defines an enum of reasons to refuse a call, each with the x0 that the caller gets and the condition.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident: $x0:ty { $($reason:ident = $value:expr, $when:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $(#[doc = $when] $reason,)* }

        impl $name {
            /// The x0 of a call that is refused for this reason.
            #[must_use]
            pub const fn x0(self) -> $x0 {
                match self { $(Self::$reason => $value,)* }
            }
        }
    };
}
use reasons;

/// Returns the reason as an error if its condition holds.
fn refuse<R>(reason: R, holds: bool) -> Result<(), R> {
    if holds { Err(reason) } else { Ok(()) }
}

/// Returns true if `pages` is at least 1 and `pages` pages from `first` on end within `size`.
fn within(first: u64, pages: u64, size: u64) -> bool {
    pages != 0 && first.checked_add(pages).is_some_and(|end| end <= size)
}
