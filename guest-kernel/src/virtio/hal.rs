//! Memory for virtio: one pool of pages that were shared at the start.
//!
//! Queues live in the pool. Every other buffer is copied into a run of the pool for its request and
//! back afterwards (a bounce buffer), so that the host never sees a neighbour of what it is meant to
//! see, and nothing is shared or unshared while requests run.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use bare_rt::el1::lock::IrqLock;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

#[cfg(target_os = "none")]
use crate::conduit::Conduit;
#[cfg(test)]
use crate::hyp::fake::Fake as Conduit;
use crate::shared::{SharedPages, SharedPool};

static POOL: IrqLock<Option<SharedPool<Conduit>>> = IrqLock::new(None);
static COPIED_BYTES: AtomicU64 = AtomicU64::new(0);

/// Gives the drivers their pool.
pub(crate) fn set_pool(pool: SharedPool<Conduit>) {
    *POOL.lock() = Some(pool);
}

/// Bytes copied between private and shared memory so far.
#[must_use]
pub fn copied_bytes() -> u64 {
    COPIED_BYTES.load(Ordering::Relaxed)
}

/// The pool, as `virtio-drivers` wants it.
#[derive(Debug)]
pub struct PoolHal;

fn alloc(pages: usize) -> Option<SharedPages> {
    POOL.lock().as_mut()?.alloc(pages)
}

fn free(run: SharedPages) {
    if let Some(pool) = POOL.lock().as_mut() {
        pool.free(run);
    }
}

/// The run of `bytes` bytes that was handed out at `address`.
///
/// # Safety
///
/// As for [`SharedPages::from_parts`].
unsafe fn run_at(address: PhysAddr, bytes: usize) -> SharedPages {
    let memory = core::ptr::with_exposed_provenance_mut(address as usize);
    let memory = NonNull::new(memory).expect("the pool is not at address 0");
    // SAFETY: the caller gives the address and size of a run that `SharedPool::alloc` handed out and that was
    // not taken back.
    unsafe { SharedPages::from_parts(memory, bytes.div_ceil(PAGE_SIZE)) }
}

// SAFETY: `dma_alloc` hands out wiped, page-aligned runs of the pool, each once until it is freed;
// stage 1 is an identity map, so that their address is the IPA.
unsafe impl Hal for PoolHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        match alloc(pages) {
            Some(run) => {
                run.as_ptr().as_ptr().expose_provenance();
                (run.ipa().0, run.as_ptr())
            }
            None => (0, NonNull::dangling()), // address 0 says that there is none
        }
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, _: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: by the trait's contract this is a run from `dma_alloc`, now given back.
        free(unsafe { run_at(paddr, pages * PAGE_SIZE) });
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("for the PCI transport only, which is not used here")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        // The drivers here bound what is in flight, whatever the device does: see POOL_PAGES.
        let run = alloc(buffer.len().div_ceil(PAGE_SIZE)).expect("the pool has room for a request");
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: by the trait's contract the buffer is valid and nobody else accesses it.
            run.write(unsafe { buffer.as_ref() });
            COPIED_BYTES.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        }
        run.as_ptr().as_ptr().expose_provenance();
        run.ipa().0
    }

    unsafe fn unshare(paddr: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        // SAFETY: by the trait's contract `share` returned this address for a buffer of this length.
        let run = unsafe { run_at(paddr, buffer.len()) };
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: by the trait's contract the buffer is valid and nobody else accesses it.
            run.read(unsafe { buffer.as_mut() });
            COPIED_BYTES.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        }
        free(run);
    }
}
