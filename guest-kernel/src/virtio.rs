//! Virtio devices on the MMIO transport (virtio 1.3, 4.2), version 2 of its registers.
//!
//! * [`hal`]: buffers are copied to and from one pool of shared pages.
//! * [`disk`]: virtio-blk, one request at a time, by interrupt.
//! * [`console`]: the output half of virtio-console.

#[cfg(target_os = "none")]
use core::ptr::{self, NonNull};
use core::time::Duration;

use virtio_drivers::transport::mmio::MmioTransport;
use virtio_guard::GuardedTransport;
#[cfg(target_os = "none")]
use {
    crate::machine::VirtioSlot,
    virtio_drivers::transport::Transport as _,
    virtio_drivers::transport::mmio::{MmioVersion, VirtIOHeader},
    virtio_guard::{AccessPlatform, Refusal},
};

pub mod console;
pub mod disk;
pub mod hal;
#[cfg(test)]
mod tests;

pub use virtio_drivers::transport::DeviceType;

/// How long a device may take for one request before it is given up.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The one transport of all drivers here; tests have another.
pub type Transport = GuardedTransport<MmioTransport<'static>>;

/// Looks for a device in `slot`; `None` if it is empty or of a legacy version.
///
/// # Safety
///
/// The slot's registers are mapped as a device and stay so; called once per slot.
#[cfg(target_os = "none")]
pub(crate) unsafe fn probe(
    slot: &VirtioSlot,
    access_platform: AccessPlatform,
) -> Option<(DeviceType, Result<Transport, Refusal>)> {
    let header = ptr::with_exposed_provenance_mut::<VirtIOHeader>(slot.registers.start as usize);
    let bytes = (slot.registers.end - slot.registers.start) as usize;
    // SAFETY: the caller calls this once per slot, whose registers are mapped as a device and stay so.
    let transport = unsafe { MmioTransport::new(NonNull::new(header)?, bytes) }.ok()?;
    if transport.version() != MmioVersion::Modern {
        return None;
    }
    let kind = transport.device_type();
    Some((kind, GuardedTransport::new(transport, access_platform)))
}
