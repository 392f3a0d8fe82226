//! Where table pages come from: a fixed array, handed out once each.

use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{PageTable, Translation};

/// Enough for the binary, a few banks of RAM and a few dozen devices in different gigabytes.
const COUNT: usize = 32;

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[PageTable<El1Attributes>; COUNT]>);

// SAFETY: `take` gives out one `Tables`, ever, and no other code refers to the pages: no two CPUs share one.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([const { PageTable::EMPTY }; COUNT]));
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The table pages that are not in use yet.
#[derive(Debug)]
pub(super) struct Tables {
    next: NonNull<PageTable<El1Attributes>>,
    left: usize,
}

// SAFETY: the pages belong to this value alone (`take`), whichever CPU holds it.
unsafe impl Send for Tables {}

impl Tables {
    /// The binary's array, the first time. Load and store rather than a swap: this runs with the MMU
    /// off, on the only CPU that runs.
    pub(super) fn take() -> Option<Self> {
        if TAKEN.load(Ordering::Relaxed) {
            return None;
        }
        TAKEN.store(true, Ordering::Relaxed);
        Some(Self { next: NonNull::new(MEMORY.0.get())?.cast(), left: COUNT })
    }

    /// An array that is never freed, for a test.
    #[cfg(test)]
    pub(super) fn leaked(count: usize) -> Self {
        let pages: Vec<PageTable<El1Attributes>> = (0..count).map(|_| PageTable::EMPTY).collect();
        Self { next: NonNull::from(pages.leak()).cast(), left: count }
    }

    /// Pages that are left.
    pub(super) const fn left(&self) -> usize {
        self.left
    }
}

impl Translation<El1Attributes> for Tables {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El1Attributes>>, PhysicalAddress) {
        assert!(self.left > 0, "the caller checks how many tables are left");
        let table = self.next;
        self.left -= 1;
        // SAFETY: `left` counted at least one page at `next`, so one past it is still in bounds or
        // the end of the array.
        self.next = unsafe { table.add(1) };
        (table, PhysicalAddress(table.as_ptr().expose_provenance()))
    }

    /// Happens when an update is undone. The page is lost, which is harmless: it is given out once only.
    unsafe fn deallocate_table(&mut self, _page_table: NonNull<PageTable<El1Attributes>>) {}

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<El1Attributes>> {
        // The identity map, and before it the MMU being off, make both addresses one.
        NonNull::new(ptr::with_exposed_provenance_mut(pa.0)).expect("no table is at address 0")
    }
}
