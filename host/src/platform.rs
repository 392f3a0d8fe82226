//! What a front end brings.

use crate::hypervisor::HostCalls;
use crate::memory::{FrameAllocator, HostMemory};
use crate::virtio::block::BlockBackend;

/// The types of a front end.
pub trait Platform {
    /// How to call the hypervisor.
    type Hypervisor: HostCalls;
    /// How to reach physical memory.
    type Memory: HostMemory;
    /// Where pages come from.
    type Frames: FrameAllocator;
    /// The guest's disk.
    type Disk: BlockBackend;
    /// Where the guest's console goes, as raw bytes.
    type Console: embedded_io::Write;
}

/// What the life of a VM needs of a front end.
pub struct Resources<P: Platform> {
    /// Makes calls.
    pub hypervisor: P::Hypervisor,
    /// Copies to and from physical memory.
    pub memory: P::Memory,
    /// Hands out pages.
    pub frames: P::Frames,
}
