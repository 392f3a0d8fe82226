//! Table pages: a fixed array, of which each page is allocated once.

use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{PageTable, Translation};

/// The number of table pages: enough for the binary, a few banks of RAM, and a few dozen devices in different
/// gigabytes.
const COUNT: usize = 32;

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[PageTable<El1Attributes>; COUNT]>);

// SAFETY: `take` returns `Tables` once, and no other code refers to the pages, so no two CPUs share one.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([const { PageTable::EMPTY }; COUNT]));
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The table pages that are still free.
#[derive(Debug)]
pub(super) struct Tables {
    next: NonNull<PageTable<El1Attributes>>,
    left: usize,
}

// SAFETY: `take` gives the pages to this value only, so any CPU may hold it.
unsafe impl Send for Tables {}

impl Tables {
    /// Returns the binary's array on the first call, `None` later. It uses a load and a store, not an atomic swap,
    /// because the MMU is off. No other CPU runs yet.
    pub(super) fn take() -> Option<Self> {
        if TAKEN.load(Ordering::Relaxed) {
            return None;
        }
        TAKEN.store(true, Ordering::Relaxed);
        Some(Self { next: NonNull::new(MEMORY.0.get())?.cast(), left: COUNT })
    }

    /// Returns an array that is never freed, for a test.
    #[cfg(test)]
    pub(super) fn leaked(count: usize) -> Self {
        let pages: Vec<PageTable<El1Attributes>> = (0..count).map(|_| PageTable::EMPTY).collect();
        Self { next: NonNull::from(pages.leak()).cast(), left: count }
    }

    /// Returns the number of free pages.
    pub(super) const fn left(&self) -> usize {
        self.left
    }
}

impl Translation<El1Attributes> for Tables {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El1Attributes>>, PhysicalAddress) {
        assert!(self.left > 0, "the caller checks how many tables are left");
        let table = self.next;
        self.left -= 1;
        // SAFETY: `left` was at least 1, as just asserted, so `next` points to a page of the array, and `next` + 1 is
        // in the array or one past its end.
        self.next = unsafe { table.add(1) };
        (table, PhysicalAddress(table.as_ptr().expose_provenance()))
    }

    /// The crate calls this when it undoes an update. The page is lost, because each page is allocated once.
    unsafe fn deallocate_table(&mut self, _page_table: NonNull<PageTable<El1Attributes>>) {}

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<El1Attributes>> {
        // Both addresses are equal: the MMU is off, or the map is an identity map.
        NonNull::new(ptr::with_exposed_provenance_mut(pa.0)).expect("no table is at address 0")
    }
}
