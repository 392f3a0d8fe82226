//! The state of a RAM page: its owner, and whether another party reaches it.
//!
//! A uniform block (2 MiB on hardware) has one [`PageState`]; otherwise each page has its own
//! ([`crate::ownership::owner_map`]). The state of a page in a memory object also names the object and the
//! offset, so it leads from the physical page back to the object. Sharing is recorded here only. The all-zero
//! state is the safe default: the hypervisor owns the page and no other party reaches it.

use crate::limits::{MAX_OBJECTS, MAX_VMS};
use crate::limits::{ObjectIndex, VmIndex};

/// A page of a memory object: the VM, the object, and the page offset. It is encoded as in [`PageState`], but
/// without bits 3:0 (the kind and the host's access), so no value can change those bits in a page state built
/// from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectPage(u64);

impl ObjectPage {
    /// The difference between consecutive pages of an object.
    const NEXT: u64 = 1 << (OFFSET_SHIFT - VM_SHIFT);

    /// Makes the page at `offset`, which is below 2^28 pages, of an object of VM `vm`.
    pub const fn new(vm: VmIndex, object: ObjectIndex, offset: u64) -> Self {
        let offset = (offset & OFFSET_MASK) << OFFSET_SHIFT;
        Self((((vm.0 as u64) << VM_SHIFT) | ((object.0 as u64) << OBJECT_SHIFT) | offset) >> VM_SHIFT)
    }

    /// The VM of the object.
    pub const fn vm(self) -> VmIndex {
        VmIndex((self.0 & 0xf) as u8)
    }

    /// The index of the object.
    pub const fn object(self) -> ObjectIndex {
        ObjectIndex(((self.bits() >> OBJECT_SHIFT) & 0b11) as u8)
    }

    /// The offset in the object, in pages.
    pub const fn offset(self) -> u64 {
        self.bits() >> OFFSET_SHIFT
    }

    /// Returns the object page `pages` pages further on.
    pub const fn advance(self, pages: u64) -> Self {
        // Offsets are below 2^28 and a run ends with its object, so the sum stays in its field.
        Self(self.0.wrapping_add(pages.wrapping_mul(Self::NEXT)))
    }

    /// Returns how many pages this page is after `first`, or `None` if it is before it or in another object.
    pub(crate) fn after(self, first: Self) -> Option<u64> {
        let apart = self.0.checked_sub(first.0)?;
        (apart & (Self::NEXT - 1) == 0).then_some(apart / Self::NEXT)
    }

    /// Returns the bits at their position in a page state.
    const fn bits(self) -> u64 {
        self.0 << VM_SHIFT
    }
}

impl core::fmt::Debug for ObjectPage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} {:?} page {:#x}", self.vm(), self.object(), self.offset())
    }
}

/// The owner of a page, and the other party that reaches it, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The hypervisor owns the page and alone reaches it.
    Hypervisor,
    /// The host owns the page and alone reaches it.
    Host,
    /// The host owns the page and has lent it to an ordinary VM, as this object page.
    HostLent(ObjectPage),
    /// The pool of a VM owns the page: a table or vCPU registers. The hypervisor alone reaches it.
    Pool(VmIndex),
    /// A protected VM owns the page, as this object page, and alone reaches it.
    Guest(ObjectPage),
    /// A protected VM owns the page, as this object page, and shares it with the host.
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
/// The bit that is set in the kinds of object pages only.
const OBJECT_BIT: u32 = 2;
const OF_OBJECT: u64 = 1 << OBJECT_BIT;
const KIND_GUEST: u64 = OF_OBJECT;
const KIND_LENT: u64 = OF_OBJECT | 1;
const HOST_REACHES: u64 = 1 << 3;
const VM_SHIFT: u32 = 4;
const OBJECT_SHIFT: u32 = 8;
const OFFSET_SHIFT: u32 = 12;
const OFFSET_MASK: u64 = (1 << 28) - 1;
/// All bits that a page state may have set.
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

    /// Returns whether the host reaches the page.
    pub const fn host_reaches(self) -> bool {
        self.0 & HOST_REACHES != 0
    }

    /// Returns the difference between the states of consecutive pages of a run: only the object offset
    /// changes.
    pub(crate) const fn step(self) -> u64 {
        (self.0 & OF_OBJECT) << (OFFSET_SHIFT - OBJECT_BIT)
    }

    /// Returns the state of the page `pages` pages further on in the same run.
    pub(crate) const fn advance(self, pages: u64) -> Self {
        // Offsets are below 2^28 and a run ends with its object, so the sum stays in its field.
        Self(self.0.wrapping_add(pages.wrapping_mul(self.step())))
    }

    /// Decodes the state.
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
