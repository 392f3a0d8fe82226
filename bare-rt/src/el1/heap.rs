//! The global allocator of a binary that links this: `linked_list_allocator` behind a lock.

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;

use super::lock::IrqLock;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(IrqLock::new(Heap::empty()));

struct LockedHeap(IrqLock<Heap>);

// SAFETY: `Heap` returns disjoint blocks of the memory that `init` gave it. The lock makes each call atomic.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller of `dealloc` got the block from `alloc` with the same layout.
            unsafe { self.0.lock().deallocate(block, layout) };
        }
    }
}

/// Gives the heap its memory.
///
/// # Safety
///
/// This is called once. The memory is mapped read-write, and no other code uses it, now or later.
pub unsafe fn init(memory: Range<u64>) {
    let start = ptr::with_exposed_provenance_mut(memory.start as usize);
    // SAFETY: the caller of this `init` gives mapped, writable memory that no other code uses, and calls it once.
    unsafe {
        HEAP.0.lock().init(start, (memory.end - memory.start) as usize);
    }
}
