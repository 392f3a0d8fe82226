//! The registers of virtio-mmio.

use shared_abi::vcpu::AccessSize;

use crate::virtio::block;
use crate::virtio::feature;
use crate::virtio::mmio::{Event, Registers};

/// Registers as a driver uses them (virtio 1.3, 4.2.2).
mod register {
    pub(super) const DEVICE_FEATURES: u64 = 0x10;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(super) const QUEUE_SEL: u64 = 0x30;
    pub(super) const QUEUE_NUM: u64 = 0x38;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const QUEUE_NOTIFY: u64 = 0x50;
    pub(super) const INTERRUPT_STATUS: u64 = 0x60;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x80;
}

fn write(registers: &mut Registers, offset: u64, value: u32) -> Event {
    registers.write(offset, AccessSize::Word, value.into())
}

fn read(registers: &Registers, offset: u64) -> u64 {
    registers.read(offset, AccessSize::Word)
}

/// Negotiates features; the status that the driver reads back.
fn negotiate(registers: &mut Registers, features: u64) -> u64 {
    write(registers, register::STATUS, 0);
    write(registers, register::STATUS, 3);
    for half in 0..2 {
        write(registers, register::DRIVER_FEATURES_SEL, half);
        let word = (features >> (32 * half)) & 0xffff_ffff;
        registers.write(register::DRIVER_FEATURES, AccessSize::Word, word);
    }
    write(registers, register::STATUS, 0xb);
    read(registers, register::STATUS)
}

fn registers() -> Registers {
    Registers::new(block::DEVICE_ID, 0, block::QUEUES, vec![1, 2, 3])
}

#[test]
fn features_are_offered_and_required() {
    let mut registers = registers();
    write(&mut registers, register::DEVICE_FEATURES_SEL, 1);
    assert_eq!(read(&registers, register::DEVICE_FEATURES), 0b11);
    write(&mut registers, register::DEVICE_FEATURES_SEL, 2);
    assert_eq!(read(&registers, register::DEVICE_FEATURES), 0);
    assert_eq!(negotiate(&mut registers, feature::REQUIRED), 0xb);
    for features in [0, feature::VERSION_1, feature::ACCESS_PLATFORM, feature::REQUIRED | 1 << 28, u64::MAX] {
        assert_eq!(negotiate(&mut registers, features), 3, "{features:#x}");
        write(&mut registers, register::STATUS, 0xf);
        assert_eq!(read(&registers, register::STATUS), 3, "{features:#x}");
    }
}

#[test]
fn a_bad_queue_needs_a_reset() {
    let mut registers = registers();
    negotiate(&mut registers, feature::REQUIRED);
    write(&mut registers, register::QUEUE_NUM, 3);
    assert_eq!(write(&mut registers, register::QUEUE_READY, 1), Event::Interrupt);
    assert_eq!(read(&registers, register::QUEUE_READY), 0);
    assert_eq!(read(&registers, register::STATUS), 0x4b);
    assert_eq!(read(&registers, register::INTERRUPT_STATUS), 2);
    write(&mut registers, register::STATUS, 0);
    assert_eq!(read(&registers, register::STATUS), 0);
    assert_eq!(read(&registers, register::INTERRUPT_STATUS), 0);
}

#[test]
fn a_doorbell_counts_once_the_driver_is_ready() {
    let mut registers = registers();
    assert_eq!(write(&mut registers, register::QUEUE_READY, 1), Event::None);
    negotiate(&mut registers, feature::REQUIRED);
    write(&mut registers, register::QUEUE_NUM, 8);
    write(&mut registers, register::QUEUE_DESC_LOW, 0x1000);
    assert_eq!(write(&mut registers, register::QUEUE_READY, 1), Event::None);
    assert_eq!(read(&registers, register::QUEUE_READY), 1);
    assert_eq!(write(&mut registers, register::QUEUE_NOTIFY, 0), Event::None);
    assert!(registers.queue(0).is_none());
    write(&mut registers, register::STATUS, 0xf);
    assert_eq!(write(&mut registers, register::QUEUE_NOTIFY, 0), Event::Doorbell(0));
    for other in [1, u32::MAX] {
        assert_eq!(write(&mut registers, register::QUEUE_NOTIFY, other), Event::None);
    }
    assert!(registers.queue(0).is_some());
    registers.needs_reset();
    assert!(registers.queue(0).is_none());
    assert_eq!(write(&mut registers, register::QUEUE_NOTIFY, 0), Event::None);
}

#[test]
fn no_access_to_registers_panics() {
    let mut registers = registers();
    for queue in [0, 1, u32::MAX] {
        write(&mut registers, register::QUEUE_SEL, queue);
        for offset in 0..0x1000 {
            for size in [AccessSize::Byte, AccessSize::Half, AccessSize::Word, AccessSize::Double] {
                registers.write(offset, size, size.mask());
                let _ = registers.read(offset, size);
            }
        }
    }
    assert_eq!(registers.read(0x100, AccessSize::Double), 0x03_0201);
    assert_eq!(registers.read(0x101, AccessSize::Byte), 2);
    assert_eq!(registers.read(0xfff, AccessSize::Double), 0);
}
