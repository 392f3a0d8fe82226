//! The heap: one range of RAM, for the `alloc` crate.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use bare_rt::el1::lock::IrqLock;
use linked_list_allocator::Heap;

use crate::machine::Span;

struct LockedHeap(IrqLock<Heap>);

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(IrqLock::new(Heap::empty()));

/// Gives the heap its memory.
///
/// # Safety
///
/// Called once. The range is mapped RAM that nothing else uses, ever.
pub(crate) unsafe fn init(memory: &Span) {
    let start = ptr::with_exposed_provenance_mut(memory.start as usize);
    // SAFETY: the caller's promise.
    unsafe {
        HEAP.0.lock().init(start, (memory.end - memory.start) as usize);
    }
}

// SAFETY: `Heap` hands out memory of its one range only, each piece once, under the lock.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if let Some(memory) = NonNull::new(memory) {
            // SAFETY: the caller got `memory` from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(memory, layout) };
        }
    }
}
