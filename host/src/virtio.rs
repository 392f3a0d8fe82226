//! The device side of virtio (version 1.3 of the specification): split virtqueues behind virtio-mmio.
//!
//! Everything in a queue was written by a guest, and may be rewritten while it is looked at: each field
//! is read once, each walk is bounded, and each address goes through
//! [`GuestMemory`](crate::memory::GuestMemory). A queue that makes no sense ends in DEVICE_NEEDS_RESET.

pub mod block;
pub mod chain;
pub mod console;
pub mod mmio;
pub mod queue;
#[cfg(test)]
mod tests;

/// Device-independent feature bits (chapter 6). No other is offered: no indirect descriptors, no event
/// indices, no packed rings.
pub mod feature {
    /// The device follows version 1.
    pub const VERSION_1: u64 = 1 << 32;
    /// The device reaches only what the platform lets it reach: what the guest shares.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// What every device here offers and every driver must accept.
    pub const REQUIRED: u64 = VERSION_1 | ACCESS_PLATFORM;
}

/// What serving a queue came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Buffers were used and the driver wants to hear of it.
    pub interrupt: bool,
    /// Bytes copied between guest memory and the VMM's.
    pub copied_bytes: u64,
    /// Chains served.
    pub requests: u64,
}
