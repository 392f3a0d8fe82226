//! Physical memory as the host reaches it, and guest memory through it.

use shared_abi::addr::{Ipa, PAGE_SIZE, Pa, Pfn};

use crate::vm::pages::PageMap;

/// A copy met a fault: the host may not touch that memory. Nothing is known about how much of it was
/// done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host may not touch the memory at {0}")]
pub struct Fault(pub Pa);

/// Copies to and from physical memory that survive a fault which the hypervisor injects.
///
/// Guest pages that are shared change under the host's hands: a read is a snapshot of each byte, taken
/// once, and no reference to the memory is ever made.
pub trait HostMemory {
    /// Copies from memory.
    ///
    /// # Errors
    ///
    /// [`Fault`] where the host may not read, or nothing is there.
    fn read(&self, from: Pa, into: &mut [u8]) -> Result<(), Fault>;

    /// Copies to memory.
    ///
    /// # Errors
    ///
    /// [`Fault`] where the host may not write, or nothing is there.
    fn write(&self, to: Pa, from: &[u8]) -> Result<(), Fault>;
}

/// The host's free pages.
pub trait FrameAllocator {
    /// Takes `pages` contiguous pages, the first a multiple of `align_pages` (a power of two); `None` if
    /// no such run is free. Their content is arbitrary.
    fn allocate(&mut self, pages: u64, align_pages: u64) -> Option<Pfn>;

    /// Gives back pages that [`Self::allocate`] handed out, also in parts.
    fn free(&mut self, first: Pfn, pages: u64);
}

/// Why the VMM can't reach an address that a guest gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestFault {
    /// The guest has no memory there, or has not touched it yet.
    #[error("the guest has no page at {0}")]
    Absent(Ipa),
    /// The guest has not shared it.
    #[error("the guest does not share {0}")]
    Private(Ipa),
}

/// A guest's memory as its devices reach it: by guest-physical address, where the guest shares it.
///
/// All that is read was written by the guest and may be anything.
#[derive(Debug)]
pub struct GuestMemory<'a, M> {
    pages: &'a PageMap,
    memory: &'a M,
}

impl<'a, M: HostMemory> GuestMemory<'a, M> {
    /// The memory of the guest whose pages are `pages`.
    #[must_use]
    pub fn new(pages: &'a PageMap, memory: &'a M) -> Self {
        Self { pages, memory }
    }

    /// Copies from guest memory, across pages.
    ///
    /// # Errors
    ///
    /// [`GuestFault`] with the address that could not be reached; what was read before it is in `into`.
    pub fn read(&self, from: Ipa, into: &mut [u8]) -> Result<(), GuestFault> {
        let mut at = from;
        let mut rest = into;
        while !rest.is_empty() {
            let (pa, room) = self.translate(at)?;
            let (part, tail) = rest.split_at_mut(room.min(rest.len()));
            self.memory.read(pa, part).map_err(|_| GuestFault::Private(at))?;
            at = Ipa(at.0.wrapping_add(part.len() as u64));
            rest = tail;
        }
        Ok(())
    }

    /// Copies to guest memory, across pages.
    ///
    /// # Errors
    ///
    /// [`GuestFault`] with the address that could not be reached; what comes before it is written.
    pub fn write(&self, to: Ipa, from: &[u8]) -> Result<(), GuestFault> {
        let mut at = to;
        let mut rest = from;
        while !rest.is_empty() {
            let (pa, room) = self.translate(at)?;
            let (part, tail) = rest.split_at(room.min(rest.len()));
            self.memory.write(pa, part).map_err(|_| GuestFault::Private(at))?;
            at = Ipa(at.0.wrapping_add(part.len() as u64));
            rest = tail;
        }
        Ok(())
    }

    /// Reads a little-endian field of `N` bytes, once.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn read_bytes<const N: usize>(&self, from: Ipa) -> Result<[u8; N], GuestFault> {
        let mut bytes = [0; N];
        self.read(from, &mut bytes)?;
        Ok(bytes)
    }

    /// Where an address is in physical memory, and how many bytes follow in the same page.
    ///
    /// An address that wrapped around is in no page: a guest has none at the top of the address space.
    fn translate(&self, ipa: Ipa) -> Result<(Pa, usize), GuestFault> {
        let pfn = self.pages.lookup(ipa.page()).ok_or(GuestFault::Absent(ipa))?;
        let offset = ipa.page_offset();
        #[expect(clippy::cast_possible_truncation, reason = "at most the size of a page")]
        let room = (PAGE_SIZE - offset) as usize;
        Ok((Pa(pfn.base().0 + offset), room))
    }
}
