//! What is recorded about a page of RAM: who owns it, and who reaches it besides.
//!
//! There is one [`PageState`] for a block (2 MiB on metal) while it is uniform, and one per page otherwise
//! ([`crate::ownership::owner_map`]). For a page in a memory object it also says which page of which object that is
//! (the way back from a physical page). Sharing is recorded here and nowhere else. All-zero is the safe
//! default: the hypervisor's, nobody else's.

use crate::limits::{MAX_OBJECTS, MAX_VMS};
use crate::limits::{ObjectIndex, VmIndex};

/// One page of a memory object: whose, which object, and the page within it. It is a [`PageState`] without its lowest
/// bits, so that a page state which is made of it says in them what it is, whatever this holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectPage(u64);

impl ObjectPage {
    /// From one page of an object to the next.
    const NEXT: u64 = 1 << (OFFSET_SHIFT - VM_SHIFT);

    /// Page `offset`, which is below 2^28, of an object of a VM's.
    pub const fn new(vm: VmIndex, object: ObjectIndex, offset: u64) -> Self {
        let offset = (offset & OFFSET_MASK) << OFFSET_SHIFT;
        Self((((vm.0 as u64) << VM_SHIFT) | ((object.0 as u64) << OBJECT_SHIFT) | offset) >> VM_SHIFT)
    }

    /// Whose object.
    pub const fn vm(self) -> VmIndex {
        VmIndex((self.0 & 0xf) as u8)
    }

    /// Which.
    pub const fn object(self) -> ObjectIndex {
        ObjectIndex(((self.bits() >> OBJECT_SHIFT) & 0b11) as u8)
    }

    /// The page within it.
    pub const fn offset(self) -> u64 {
        self.bits() >> OFFSET_SHIFT
    }

    /// The page `pages` further on in the object.
    pub const fn advance(self, pages: u64) -> Self {
        // Offsets are below 2^28 and a run ends with its object, so the sum stays in its field.
        Self(self.0.wrapping_add(pages.wrapping_mul(Self::NEXT)))
    }

    /// How many pages after `first` it comes, if it is of the same object and does.
    pub(crate) fn after(self, first: Self) -> Option<u64> {
        let apart = self.0.checked_sub(first.0)?;
        (apart & (Self::NEXT - 1) == 0).then_some(apart / Self::NEXT)
    }

    /// Its bits of a page state.
    const fn bits(self) -> u64 {
        self.0 << VM_SHIFT
    }
}

impl core::fmt::Debug for ObjectPage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} {:?} page {:#x}", self.vm(), self.object(), self.offset())
    }
}

/// Who owns a page, and who reaches it besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The hypervisor: nobody else reaches it.
    Hypervisor,
    /// The host alone.
    Host,
    /// The host; an ordinary VM reaches it too, as this page of its memory.
    HostLent(ObjectPage),
    /// A VM's pool: tables and registers, which only the hypervisor reaches.
    Pool(VmIndex),
    /// A protected VM, as this page of its memory; it alone reaches it.
    Guest(ObjectPage),
    /// A protected VM; the host reaches it too, because the guest shared it.
    GuestShared(ObjectPage),
}

/// An [`Owner`] in 64 bits.
///
/// | bits | meaning |
/// | --- | --- |
/// | 2:0 | kind: 0 hypervisor, 1 host, 3 pool; of pages of objects 4 guest, 5 lent by the host |
/// | 3 | the host reaches it |
/// | 7:4 | VM |
/// | 9:8 | object |
/// | 39:12 | offset in the object, in pages |
/// | 63:40 | zero |
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageState(pub(crate) u64);

const KIND_MASK: u64 = 0b111;
const KIND_HYPERVISOR: u64 = 0;
const KIND_HOST: u64 = 1;
const KIND_POOL: u64 = 3;
/// The bit that the kinds of pages of objects have in common.
const OBJECT_BIT: u32 = 2;
const OF_OBJECT: u64 = 1 << OBJECT_BIT;
const KIND_GUEST: u64 = OF_OBJECT;
const KIND_LENT: u64 = OF_OBJECT | 1;
const HOST_REACHES: u64 = 1 << 3;
const VM_SHIFT: u32 = 4;
const OBJECT_SHIFT: u32 = 8;
const OFFSET_SHIFT: u32 = 12;
const OFFSET_MASK: u64 = (1 << 28) - 1;
/// All bits that a page state uses.
pub(crate) const STATE_BITS: u64 = (1 << 40) - 1;

const _: () = assert!(MAX_VMS <= 1 << (OBJECT_SHIFT - VM_SHIFT), "a VM fits in its field");
const _: () = assert!(MAX_OBJECTS <= 1 << 2, "an object fits in its field");

impl PageState {
    /// [`Owner::Hypervisor`].
    pub const HYPERVISOR: Self = Self(KIND_HYPERVISOR);
    /// [`Owner::Host`].
    pub const HOST: Self = Self(KIND_HOST | HOST_REACHES);

    /// [`Owner::Pool`].
    pub const fn pool(vm: VmIndex) -> Self {
        Self(KIND_POOL | ((vm.0 as u64) << VM_SHIFT))
    }

    /// [`Owner::Guest`].
    pub const fn guest(page: ObjectPage) -> Self {
        Self(KIND_GUEST | page.bits())
    }

    /// [`Owner::GuestShared`].
    pub const fn guest_shared(page: ObjectPage) -> Self {
        Self(KIND_GUEST | HOST_REACHES | page.bits())
    }

    /// [`Owner::HostLent`].
    pub const fn lent(page: ObjectPage) -> Self {
        Self(KIND_LENT | HOST_REACHES | page.bits())
    }

    /// Whether the host may reach the page.
    pub const fn host_reaches(self) -> bool {
        self.0 & HOST_REACHES != 0
    }

    /// How the page states of a run of pages follow each other: only object offsets move.
    pub(crate) const fn step(self) -> u64 {
        (self.0 & OF_OBJECT) << (OFFSET_SHIFT - OBJECT_BIT)
    }

    /// The page state of the page `pages` further on in the same run.
    pub(crate) const fn advance(self, pages: u64) -> Self {
        // Offsets are below 2^28 and a run ends with its object, so the sum stays in its field.
        Self(self.0.wrapping_add(pages.wrapping_mul(self.step())))
    }

    /// What the page state says.
    pub const fn owner(self) -> Owner {
        let page = ObjectPage((self.0 & STATE_BITS) >> VM_SHIFT);
        match self.0 & KIND_MASK {
            KIND_HOST => Owner::Host,
            KIND_LENT => Owner::HostLent(page),
            KIND_POOL => Owner::Pool(page.vm()),
            KIND_GUEST if self.host_reaches() => Owner::GuestShared(page),
            KIND_GUEST => Owner::Guest(page),
            _ => Owner::Hypervisor,
        }
    }
}

impl core::fmt::Debug for PageState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.owner().fmt(f)
    }
}
