//! Memory as the machine's virtio devices see it: at the same addresses as the host.

use core::ptr::NonNull;

use host::memory::FrameAllocator;
use shared_abi::addr::{PAGE_SIZE, Pa, Pfn};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use super::memory::MachineFrames;

/// The host's side of `virtio-drivers`.
pub(crate) struct Dma;

// SAFETY: `dma_alloc` hands out zeroed frames that are nobody else's; stage 1 maps RAM and device
// registers one to one, so that each pointer is valid and each address is a device's view of it.
unsafe impl Hal for Dma {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        /// What the crate takes for a failure.
        const FAILED: (PhysAddr, NonNull<u8>) = (0, NonNull::dangling());
        let Some(first) = MachineFrames.allocate(pages as u64, 1) else {
            return FAILED;
        };
        let address = first.base().0;
        let pointer = core::ptr::with_exposed_provenance_mut::<u8>(address as usize);
        let Some(memory) = NonNull::new(pointer) else {
            return FAILED;
        };
        // SAFETY: the frames are RAM, mapped, and were just allocated.
        unsafe { memory.write_bytes(0, pages * PAGE_SIZE as usize) };
        (address, memory)
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, _vaddr: NonNull<u8>, pages: usize) -> i32 {
        let first: Pfn = Pa(paddr).page();
        MachineFrames.free(first, pages as u64);
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(paddr as usize))
            .expect("a BAR was placed in the PCIe window, which does not start at 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as PhysAddr
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
