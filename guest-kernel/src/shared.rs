//! Memory that the host can reach.
//!
//! [`SharedPool`] is a few pages that are wiped and shared with the host once, and taken back when
//! the pool is dropped. Nothing ever refers to shared memory by a Rust reference, since the host may
//! change it at any time: [`SharedPages`] are read and written by volatile copies, so that what was
//! checked is what is used.

use core::fmt;
use core::ptr::NonNull;

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use shared_abi::addr::{Ipa, PAGE_SIZE};
use smccc::Call;

use crate::hyp::{self, HypervisorServices, Sharing};

/// Pages of a pool: one bit each in a `u64`.
pub const POOL_PAGES: usize = u64::BITS as usize;
const POOL_BYTES: usize = POOL_PAGES * PAGE_SIZE as usize;

/// Why there is no pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The heap has no room for it.
    OutOfMemory,
    /// The hypervisor does not share the page at this address.
    Share(Ipa, hyp::Error),
    /// The hypervisor does not say how it shares.
    Granule(hyp::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("no memory is left for the shared pool"),
            Self::Share(ipa, error) => write!(f, "page {ipa} cannot be shared: {error}"),
            Self::Granule(error) => write!(f, "the granule of sharing is unknown: {error}"),
        }
    }
}

impl core::error::Error for Error {}

/// Pages that are shared for as long as the pool lives, handed out in runs.
///
/// In a VM that is not protected the pages are ordinary memory: the host reaches everything anyway.
#[derive(Debug)]
pub struct SharedPool<C: Call> {
    memory: NonNull<u8>,
    /// One bit for each page that is handed out.
    used: u64,
    /// Granules that were shared; they come first.
    shared: u64,
    sharing: Sharing,
    hypervisor: Option<HypervisorServices<C>>,
}

// SAFETY: the pool owns its memory, and nothing about it belongs to one CPU.
unsafe impl<C: Call> Send for SharedPool<C> {}

/// A run of pages of a pool, until [`SharedPool::free`] takes it back.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct SharedPages {
    memory: NonNull<u8>,
    pages: usize,
}

// SAFETY: the run is the only way to its pages on this side, and nothing about it belongs to one CPU.
unsafe impl Send for SharedPages {}

impl<C: Call> SharedPool<C> {
    /// Takes memory from the heap, wipes it and shares it, granule by granule, if `hypervisor` is
    /// there and protects this VM.
    ///
    /// # Errors
    ///
    /// As [`Error`] says; what was shared before the failure is taken back.
    pub fn new(hypervisor: Option<HypervisorServices<C>>) -> Result<Self, Error> {
        let hypervisor = hypervisor.filter(HypervisorServices::is_protected);
        let sharing = match &hypervisor {
            Some(hypervisor) => hypervisor.sharing().map_err(Error::Granule)?,
            None => Sharing { granule: PAGE_SIZE, ranges: false },
        };
        // SAFETY: the layout's size is not 0.
        let memory = unsafe { alloc_zeroed(layout(sharing.granule)) };
        let mut pool = Self {
            memory: NonNull::new(memory).ok_or(Error::OutOfMemory)?,
            used: 0,
            shared: 0,
            sharing,
            hypervisor,
        };
        if let Some(hypervisor) = pool.hypervisor {
            let granules = POOL_BYTES as u64 / sharing.granule;
            while pool.shared < granules {
                let ipa = pool.granule_ipa(pool.shared);
                pool.shared += hypervisor
                    .share(sharing, ipa, granules - pool.shared)
                    .map_err(|error| Error::Share(ipa, error))?;
            }
        }
        Ok(pool)
    }

    fn granule_ipa(&self, index: u64) -> Ipa {
        Ipa(self.memory.addr().get() as u64 + index * self.sharing.granule)
    }

    /// How many pages are shared with the host.
    #[must_use]
    pub const fn shared_pages(&self) -> u64 {
        self.shared * (self.sharing.granule / PAGE_SIZE)
    }

    /// Hands out `pages` pages in a row, wiped; `None` if there are not so many.
    pub fn alloc(&mut self, pages: usize) -> Option<SharedPages> {
        let run = run_mask(pages)?;
        let first = (0..=POOL_PAGES - pages).find(|first| self.used & run << first == 0)?;
        self.used |= run << first;
        // SAFETY: `first` is below POOL_PAGES, so that the result is within the pool's memory.
        let memory = unsafe { self.memory.add(first * PAGE_SIZE as usize) };
        let pages = SharedPages { memory, pages };
        pages.wipe();
        Some(pages)
    }

    /// Takes a run back.
    ///
    /// # Panics
    ///
    /// If the run is not of this pool or was taken back before: a bug of the caller's.
    pub fn free(&mut self, run: SharedPages) {
        let offset = run.memory.addr().get().wrapping_sub(self.memory.addr().get());
        let first = offset / PAGE_SIZE as usize;
        let mask = run_mask(run.pages)
            .filter(|_| first + run.pages <= POOL_PAGES)
            .map(|mask| mask << first)
            .filter(|mask| self.used & mask == *mask);
        self.used &= !mask.expect("the run was handed out by this pool");
    }
}

impl<C: Call> Drop for SharedPool<C> {
    /// Takes every page back. If the hypervisor refuses, or if a run is still out, the memory is lost
    /// rather than reused while the host can reach it.
    fn drop(&mut self) {
        let mut clean = self.used == 0;
        if let Some(hypervisor) = self.hypervisor {
            let mut next = 0;
            while next < self.shared {
                let left = self.shared - next;
                let taken = hypervisor.unshare(self.sharing, self.granule_ipa(next), left);
                clean &= taken.is_ok();
                next += taken.unwrap_or(1);
            }
        }
        if clean {
            // SAFETY: the memory is from `alloc_zeroed` with this layout, and no run of it is out.
            unsafe { dealloc(self.memory.as_ptr(), layout(self.sharing.granule)) };
        }
    }
}

fn layout(granule: u64) -> Layout {
    Layout::from_size_align(POOL_BYTES, granule as usize)
        .expect("a granule is a power of two of at most 64 KiB")
}

/// A mask of `pages` ones; `None` for no page, or more than a pool has.
const fn run_mask(pages: usize) -> Option<u64> {
    match pages {
        1..=POOL_PAGES => Some(u64::MAX >> (POOL_PAGES - pages)),
        _ => None,
    }
}

impl SharedPages {
    /// Where the host finds the run.
    #[must_use]
    pub fn ipa(&self) -> Ipa {
        Ipa(self.memory.addr().get() as u64)
    }

    /// The run's memory, for code that keeps to volatile or atomic accesses.
    #[must_use]
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.memory
    }

    /// Bytes of the run.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub const fn len(&self) -> usize {
        self.pages * PAGE_SIZE as usize
    }

    /// Makes the run of `pages` pages at `memory` again, after it was passed through an interface
    /// that knows addresses only.
    ///
    /// # Safety
    ///
    /// Such a run was handed out by [`SharedPool::alloc`] and not taken back, and the
    /// [`SharedPages`] that stood for it is gone.
    pub unsafe fn from_parts(memory: NonNull<u8>, pages: usize) -> Self {
        Self { memory, pages }
    }

    /// Copies `data` to the start of the run, where the host can see it.
    ///
    /// # Panics
    ///
    /// If `data` is longer than the run.
    pub fn write(&self, data: &[u8]) {
        assert!(data.len() <= self.len(), "the copy stays within the run");
        let (words, tail) = data.as_chunks();
        let mut to = self.memory.cast::<u64>();
        for word in words {
            // SAFETY: the words before `tail` fit in the run, which is page aligned and owned.
            unsafe { to.write_volatile(u64::from_ne_bytes(*word)) };
            // SAFETY: one past a word within the run.
            to = unsafe { to.add(1) };
        }
        let mut to = to.cast::<u8>();
        for byte in tail {
            // SAFETY: the tail ends within the run, by the assertion.
            unsafe { to.write_volatile(*byte) };
            // SAFETY: one past a byte within the run.
            to = unsafe { to.add(1) };
        }
    }

    /// Copies the start of the run to `data`. Each byte is read once; it may be anything.
    ///
    /// # Panics
    ///
    /// If `data` is longer than the run.
    pub fn read(&self, data: &mut [u8]) {
        assert!(data.len() <= self.len(), "the copy stays within the run");
        let (words, tail) = data.as_chunks_mut();
        let mut from = self.memory.cast::<u64>();
        for word in words {
            // SAFETY: the words before `tail` fit in the run, which is page aligned and owned.
            *word = unsafe { from.read_volatile() }.to_ne_bytes();
            // SAFETY: one past a word within the run.
            from = unsafe { from.add(1) };
        }
        let mut from = from.cast::<u8>();
        for byte in tail {
            // SAFETY: the tail ends within the run, by the assertion.
            *byte = unsafe { from.read_volatile() };
            // SAFETY: one past a byte within the run.
            from = unsafe { from.add(1) };
        }
    }

    /// Writes zeroes to the whole run.
    fn wipe(&self) {
        let words = self.memory.cast::<u64>();
        for index in 0..self.len() / size_of::<u64>() {
            // SAFETY: `index` is within the run, which is page aligned and owned.
            let word = unsafe { words.add(index) };
            // SAFETY: as above.
            unsafe { word.write_volatile(0) };
        }
    }
}

#[cfg(test)]
mod tests;
