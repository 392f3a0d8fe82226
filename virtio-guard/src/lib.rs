//! [`GuardedTransport`]: the one way in which the drivers here talk to a virtio device.
//!
//! Whoever implements the device is not trusted by its driver: in a guest that is the host, in the
//! host it is a device behind the SMMU. `virtio-drivers` alone negotiates too little and too much
//! for that, so that this wrapper, around any of its transports:
//!
//! * demands `VIRTIO_F_VERSION_1`, and negotiates `VIRTIO_F_ACCESS_PLATFORM`: the device then uses
//!   the addresses that the driver gives it as the platform says (through the SMMU, or in shared
//!   memory), and nothing else;
//! * hides every other device-independent feature: indirect descriptors would need a table in shared
//!   memory for each request, event indices can miss a notification when an index wraps, and of the
//!   rest (packed rings, notification data, ...) the crate knows nothing;
//! * reads FEATURES_OK back, as virtio 1.3, 3.1.1 demands; a device that does not accept the features
//!   has no queues from then on, so that creating its driver fails.

#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

use core::fmt;

use virtio_drivers::PhysAddr;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Device-independent feature bits (virtio 1.3, chapter 6).
pub mod feature {
    /// The device follows virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
    /// The device's accesses to memory go the way that the platform prescribes.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// Bits 0 to 23 are the device type's own (virtio 1.3, 2.2).
    pub const OF_DEVICE_TYPE: u64 = (1 << 24) - 1;
}

/// What of the device's offer its driver gets to see.
const VISIBLE: u64 = feature::OF_DEVICE_TYPE | feature::VERSION_1;

/// Whether a device must offer `VIRTIO_F_ACCESS_PLATFORM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessPlatform {
    /// Without it the device's accesses would go around an IOMMU, or to memory that is not shared.
    Required,
    /// The device reaches all memory anyway: an ordinary VM.
    Optional,
}

/// Why a device is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not offer `VIRTIO_F_VERSION_1`.
    Legacy,
    /// It does not offer `VIRTIO_F_ACCESS_PLATFORM`, which was required.
    NoAccessPlatform,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "the virtio device does not offer VERSION_1",
            Self::NoAccessPlatform => "the virtio device does not offer ACCESS_PLATFORM",
        })
    }
}

impl core::error::Error for Refusal {}

/// A transport that guards the negotiation. See the crate's documentation.
#[derive(Debug)]
pub struct GuardedTransport<T> {
    inner: T,
    /// `VIRTIO_F_ACCESS_PLATFORM` if the device offered it: what the driver adds to its own choice.
    added: u64,
    /// The device did not accept the features.
    rejected: bool,
}

impl<T: Transport> GuardedTransport<T> {
    /// Resets the device and looks at what it offers.
    ///
    /// # Errors
    ///
    /// The device lacks a feature that is required. It is left with FAILED set.
    pub fn new(mut inner: T, access_platform: AccessPlatform) -> Result<Self, Refusal> {
        inner.set_status(DeviceStatus::empty());
        inner.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
        let offered = inner.read_device_features();
        let refusal = if offered & feature::VERSION_1 == 0 {
            Some(Refusal::Legacy)
        } else if offered & feature::ACCESS_PLATFORM == 0 && access_platform == AccessPlatform::Required {
            Some(Refusal::NoAccessPlatform)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            inner.set_status(DeviceStatus::FAILED);
            return Err(refusal);
        }
        Ok(Self { inner, added: offered & feature::ACCESS_PLATFORM, rejected: false })
    }
}

impl<T: Transport> Transport for GuardedTransport<T> {
    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features() & VISIBLE
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        let chosen = driver_features & VISIBLE;
        self.inner.write_driver_features(chosen | feature::VERSION_1 | self.added);
    }

    /// No queue is there once the device has rejected the features.
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        if self.rejected {
            return 0;
        }
        self.inner.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.inner.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        if self.rejected && !status.is_empty() {
            return; // FAILED stays until a reset
        }
        self.rejected = false;
        self.inner.set_status(status);
        let confirms =
            status.contains(DeviceStatus::FEATURES_OK) && !status.contains(DeviceStatus::DRIVER_OK);
        if confirms && !self.inner.get_status().contains(DeviceStatus::FEATURES_OK) {
            self.rejected = true;
            self.inner.set_status(status | DeviceStatus::FAILED);
        }
    }

    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.inner.set_guest_page_size(guest_page_size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.inner.requires_legacy_layout()
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.inner.queue_set(queue, size, descriptors, driver_area, device_area);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.inner.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }

    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<V> {
        self.inner.read_config_space(offset)
    }

    fn write_config_space<V: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: V,
    ) -> virtio_drivers::Result<()> {
        self.inner.write_config_space(offset, value)
    }
}

#[cfg(test)]
mod tests;
