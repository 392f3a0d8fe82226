//! The specification of the core, to be read in ten minutes: who owns which page, who may reach it, and
//! what every call of the host's and of a guest's is answered. Plain data; no tables, no blocks, no
//! pools, no locks. It shares no code with what it specifies.
//!
//! * here: the state, and who may reach what;
//! * [`host`]: each call of the host's: why it is refused, and what it does otherwise;
//! * [`guest`]: the same for what guests do.
//!
//! The model, in five sentences. Each page of RAM has one [`SpecOwner`]. The host reaches its own pages and
//! those that a guest shares or that it lent; a guest reaches what is present in its memory objects,
//! where these are bound; nobody else reaches anything. What leaves a protected guest comes back wiped.
//! A page that the host took by force from a VM that had started is poison for that VM. A call that is
//! refused changes nothing.
//!
//! Three answers are left to the implementation, which says what it chose: handles (never one that was
//! given before), how much a long call did at a time (never nothing), and whether a pool was too short.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a specification in plain words: a panic in it fails the test"
)]

pub mod guest;
pub mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::vec::Vec;

use shared_abi::host_call::{ObjectHandle, VcpuIndex, VmHandle};

/// The machine, as far as ownership goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What does not change.
    pub layout: Layout,
    /// Who owns which page of RAM.
    pub owners: BTreeMap<u64, SpecOwner>,
    /// All VMs.
    pub vms: BTreeMap<VmHandle, SpecVm>,
}

/// Who owns a page of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecOwner {
    /// The hypervisor, for good.
    Hypervisor,
    /// The host, alone.
    Host,
    /// The hypervisor, as long as this VM is there: its pool.
    Pool(VmHandle),
    /// This protected VM, alone.
    Private(VmHandle),
    /// This protected VM, which shares it with the host.
    Shared(VmHandle),
    /// The host, which lent it to this ordinary VM.
    Lent(VmHandle),
}

/// A VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpecVm {
    /// Whether its memory is kept from the host. An ordinary VM's is lent to it.
    pub protected: bool,
    /// How far it is.
    pub state: SpecVmState,
    /// Its memory objects, and what is at each offset.
    pub objects: BTreeMap<ObjectHandle, Vec<SpecPresence>>,
    /// What it sees where.
    pub bindings: Vec<SpecBinding>,
    /// Its vCPUs: whether each runs, or may run (PSCI).
    pub on: Vec<bool>,
    /// The vCPUs that a CPU has.
    pub loaded: BTreeSet<VcpuIndex>,
    /// The guest pages whose content was kept, in order: what the launch measurement covers.
    pub kept: Vec<u64>,
    /// A page was taken back before the start, which the launch measurement tells.
    pub void: bool,
}

/// The life of a VM, which only goes forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecVmState {
    /// The host puts it together.
    #[default]
    New,
    /// Its vCPUs may be entered.
    Started,
    /// No vCPU of it is entered again.
    Stopped,
    /// Its end has begun; only its end may go on.
    Dying,
}

/// What is at an offset of a memory object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpecPresence {
    /// Nothing; the host may populate it.
    Absent,
    /// This physical page.
    Present(u64),
    /// The host took the page that was here, by force.
    Poisoned,
}

impl SpecPresence {
    /// The page, if one is there.
    const fn page(&self) -> Option<u64> {
        match *self {
            Self::Present(page) => Some(page),
            Self::Absent | Self::Poisoned => None,
        }
    }
}

/// Where a guest sees a part of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpecBinding {
    /// First guest page.
    pub gfn: u64,
    /// Which object.
    pub object: ObjectHandle,
    /// First page in it.
    pub offset: u64,
    /// How many pages.
    pub pages: u64,
}

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
    /// Most pages that one call populates, shares or unshares.
    pub pages_per_call: u64,
    /// Most pages that one call populates with their content kept.
    pub kept_per_call: u64,
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
        let owner =
            |page| if layout.reserved.contains(&page) { SpecOwner::Hypervisor } else { SpecOwner::Host };
        let owners = layout.ram.clone().map(|page| (page, owner(page))).collect();
        Self { layout, owners, vms: BTreeMap::new() }
    }

    /// Whether the host may reach a page.
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

    /// The page that a guest reaches at a page of its IPA space. It may read, write and execute it.
    #[must_use]
    pub fn guest_reach(&self, vm: VmHandle, gfn: u64) -> Option<u64> {
        self.slot_at(vm, gfn)?.page()
    }

    /// What holds in every state: the pages of a VM's memory are those that are present in its objects,
    /// each in one place. As a page has one owner, no two guests reach it.
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

    /// What is at a guest page; `None` if no memory is bound there.
    fn slot_at(&self, vm: VmHandle, gfn: u64) -> Option<SpecPresence> {
        let vm = self.vms.get(&vm)?;
        let holds = |binding: &&SpecBinding| (binding.gfn..binding.gfn + binding.pages).contains(&gfn);
        let SpecBinding { gfn: first, object, offset, .. } = vm.bindings.iter().find(holds)?;
        Some(vm.objects[object][(offset + gfn - first) as usize])
    }

    /// A page goes back to the host; `left` is what is then where it was in an object, if it was in one.
    fn give_back(&mut self, page: u64, left: SpecPresence) {
        self.owners.insert(page, SpecOwner::Host);
        let objects = self.vms.values_mut().flat_map(|vm| vm.objects.values_mut());
        for slot in objects.flatten().filter(|slot| **slot == SpecPresence::Present(page)) {
            *slot = left;
        }
    }

    /// A VM that is there.
    fn there(&mut self, vm: VmHandle) -> &mut SpecVm {
        self.vms.get_mut(&vm).expect("it is there")
    }
}

/// Makes an enum of reasons to refuse a call: each with x0 as it is then, and when that is.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident: $x0:ty { $($reason:ident = $value:expr, $when:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $(#[doc = $when] $reason,)* }

        impl $name {
            /// x0 of a call that is refused for this.
            #[must_use]
            pub const fn x0(self) -> $x0 {
                match self { $(Self::$reason => $value,)* }
            }
        }
    };
}
use reasons;

/// Fails for a reason, if it holds.
fn refuse<R>(reason: R, holds: bool) -> Result<(), R> {
    if holds { Err(reason) } else { Ok(()) }
}

/// Whether `pages` pages from `first` on, at least one, end within `size`.
fn within(first: u64, pages: u64, size: u64) -> bool {
    pages != 0 && first.checked_add(pages).is_some_and(|end| end <= size)
}
