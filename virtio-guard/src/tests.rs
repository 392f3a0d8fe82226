use super::*;
use virtio_drivers::Error;

/// `VIRTIO_F_RING_INDIRECT_DESC`.
const INDIRECT: u64 = 1 << 28;
/// `VIRTIO_F_RING_EVENT_IDX`.
const EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_RING_PACKED`.
const PACKED: u64 = 1 << 34;
/// Some feature of the device's type.
const OWN: u64 = 1 << 5;
const MODERN: u64 = feature::VERSION_1 | feature::ACCESS_PLATFORM;

/// A device that offers `offered` and accepts features as `accepts` says.
struct Fake {
    offered: u64,
    accepts: fn(u64) -> bool,
    written: u64,
    status: DeviceStatus,
}

impl Fake {
    fn new(offered: u64) -> Self {
        Self { offered, accepts: |_| true, written: 0, status: DeviceStatus::empty() }
    }
}

impl Transport for &mut Fake {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn read_device_features(&mut self) -> u64 {
        self.offered
    }
    fn write_driver_features(&mut self, driver_features: u64) {
        self.written = driver_features;
    }
    fn max_queue_size(&mut self, _queue: u16) -> u32 {
        16
    }
    fn notify(&mut self, _queue: u16) {}
    fn get_status(&self) -> DeviceStatus {
        self.status
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.status = status;
        if !(self.accepts)(self.written) {
            self.status.remove(DeviceStatus::FEATURES_OK);
        }
    }
    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, _: u16, _: u32, _: PhysAddr, _: PhysAddr, _: PhysAddr) {}
    fn queue_unset(&mut self, _queue: u16) {}
    fn queue_used(&mut self, _queue: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<V: FromBytes + IntoBytes>(&self, _: usize) -> virtio_drivers::Result<V> {
        Err(Error::ConfigSpaceMissing)
    }
    fn write_config_space<V: IntoBytes + Immutable>(&mut self, _: usize, _: V) -> virtio_drivers::Result<()> {
        Err(Error::ConfigSpaceMissing)
    }
}

/// What a driver does that would take anything it is offered.
fn negotiate(transport: &mut GuardedTransport<&mut Fake>) {
    transport.set_status(DeviceStatus::empty());
    transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
    let offered = transport.read_device_features();
    transport.write_driver_features(offered);
    transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK);
}

#[test]
fn only_the_safe_features_are_negotiated() {
    let mut device = Fake::new(MODERN | INDIRECT | EVENT_IDX | PACKED | OWN);
    let mut transport = GuardedTransport::new(&mut device, AccessPlatform::Required).unwrap();
    negotiate(&mut transport);
    assert_eq!(transport.max_queue_size(0), 16);
    assert_eq!(device.written, MODERN | OWN);
}

#[test]
fn a_driver_cannot_choose_what_it_was_not_shown() {
    let mut device = Fake::new(MODERN | INDIRECT);
    let mut transport = GuardedTransport::new(&mut device, AccessPlatform::Required).unwrap();
    transport.write_driver_features(INDIRECT | PACKED | OWN);
    assert_eq!(device.written, MODERN | OWN);
}

#[test]
fn a_device_without_a_required_feature_is_refused() {
    for (offered, requirement, expected) in [
        (OWN, AccessPlatform::Required, Some(Refusal::Legacy)),
        (feature::ACCESS_PLATFORM, AccessPlatform::Optional, Some(Refusal::Legacy)),
        (feature::VERSION_1, AccessPlatform::Required, Some(Refusal::NoAccessPlatform)),
        (feature::VERSION_1, AccessPlatform::Optional, None),
        (MODERN, AccessPlatform::Required, None),
    ] {
        let mut device = Fake::new(offered);
        let refusal = GuardedTransport::new(&mut device, requirement).err();
        assert_eq!(refusal, expected, "{offered:#x}");
        assert_eq!(device.status.contains(DeviceStatus::FAILED), expected.is_some());
    }
}

#[test]
fn access_platform_is_not_invented() {
    let mut device = Fake::new(feature::VERSION_1);
    let mut transport = GuardedTransport::new(&mut device, AccessPlatform::Optional).unwrap();
    negotiate(&mut transport);
    assert_eq!(device.written, feature::VERSION_1);
}

#[test]
fn a_device_that_rejects_the_features_has_no_queue_and_never_runs() {
    let mut device = Fake::new(MODERN);
    device.accepts = |written| written & feature::ACCESS_PLATFORM == 0;
    let mut transport = GuardedTransport::new(&mut device, AccessPlatform::Required).unwrap();
    negotiate(&mut transport);
    assert_eq!(transport.max_queue_size(0), 0);
    transport.finish_init();
    assert_eq!(transport.max_queue_size(0), 0);
    assert!(device.status.contains(DeviceStatus::FAILED));
    assert!(!device.status.contains(DeviceStatus::DRIVER_OK));
}
