//! The registers of a virtio-mmio device, version 2 (4.2.2).

use alloc::vec::Vec;

use shared_abi::addr::Ipa;
use shared_abi::vcpu::AccessSize;

use super::feature;
use super::queue::{Areas, MAX_SIZE, Queue};

/// Offsets of registers (4.2.2).
mod offset {
    pub(super) const MAGIC: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(super) const QUEUE_NUM: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// "virt".
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// Any value will do; this one spells "CLOI".
const VENDOR: u32 = u32::from_le_bytes(*b"CLOI");

/// Bits of the status register (2.1).
mod status {
    pub(super) const DRIVER_OK: u32 = 4;
    pub(super) const FEATURES_OK: u32 = 8;
    pub(super) const DEVICE_NEEDS_RESET: u32 = 64;
    /// ACKNOWLEDGE, DRIVER, the two above, FAILED.
    pub(super) const DRIVERS: u32 = 1 | 2 | DRIVER_OK | FEATURES_OK | 128;
}

/// Bits of the interrupt status.
mod interrupt {
    pub(super) const USED_BUFFER: u32 = 1;
    pub(super) const CONFIGURATION: u32 = 2;
}

/// What a write asks of the device behind the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    None,
    /// To serve a queue that is ready.
    Doorbell(usize),
    /// To interrupt the driver: it did something that ends in DEVICE_NEEDS_RESET.
    Interrupt,
}

#[derive(Debug, Default)]
struct QueueState {
    areas: Areas,
    ready: Option<Queue>,
}

/// The registers, and the queues that are set up through them.
#[derive(Debug)]
pub struct Registers {
    device_id: u32,
    /// The device type's features beside [`feature::REQUIRED`].
    features: u64,
    config: Vec<u8>,
    /// Which half of the features the driver looks at, and which it writes.
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    selected: u32,
    queues: Vec<QueueState>,
    status: u32,
    interrupts: u32,
}

impl Registers {
    /// The registers of a device of type `device_id` (chapter 5), with so many queues.
    #[must_use]
    pub fn new(device_id: u32, features: u64, queues: usize, config: Vec<u8>) -> Self {
        Self {
            device_id,
            features: features | feature::REQUIRED,
            config,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            selected: 0,
            queues: (0..queues).map(|_| QueueState::default()).collect(),
            status: 0,
            interrupts: 0,
        }
    }

    /// Reads `size` bytes at `offset`. Registers are read as aligned words, the configuration in any
    /// width; what is not there reads as zero.
    #[must_use]
    pub fn read(&self, offset: u64, size: AccessSize) -> u64 {
        if let Some(config) = offset.checked_sub(offset::CONFIG) {
            return self.read_config(config, size);
        }
        if size != AccessSize::Word {
            return 0;
        }
        let queue = self.queues.get(self.selected as usize);
        let value = match offset {
            offset::MAGIC => MAGIC,
            offset::VERSION => VERSION,
            offset::DEVICE_ID => self.device_id,
            offset::VENDOR_ID => VENDOR,
            offset::DEVICE_FEATURES => half(self.features, self.device_features_sel),
            offset::QUEUE_NUM_MAX => queue.map_or(0, |_| MAX_SIZE.into()),
            offset::QUEUE_READY => queue.is_some_and(|queue| queue.ready.is_some()).into(),
            offset::INTERRUPT_STATUS => self.interrupts,
            offset::STATUS => self.status,
            // No shared memory region: its length is -1 (4.2.2).
            offset::SHM_LEN_LOW..=offset::SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        };
        value.into()
    }

    /// Writes a register; only aligned words count.
    pub fn write(&mut self, offset: u64, size: AccessSize, value: u64) -> Event {
        let Some(value) = u32::try_from(value).ok().filter(|_| size == AccessSize::Word) else {
            return Event::None;
        };
        match offset {
            offset::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            offset::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            offset::DRIVER_FEATURES if self.status & status::FEATURES_OK == 0 => {
                set_half(&mut self.driver_features, self.driver_features_sel, value);
            }
            offset::QUEUE_SEL => self.selected = value,
            offset::QUEUE_NOTIFY => return self.doorbell(value),
            offset::INTERRUPT_ACK => self.interrupts &= !value,
            offset::STATUS => self.write_status(value),
            offset::QUEUE_NUM..=offset::QUEUE_DEVICE_HIGH => {
                return self.write_queue(offset, value);
            }
            _ => {}
        }
        Event::None
    }

    /// The queue with that index, if it is ready and the driver has finished its set-up.
    pub fn queue(&mut self, index: usize) -> Option<&mut Queue> {
        if self.status & status::DRIVER_OK == 0 || self.status & status::DEVICE_NEEDS_RESET != 0 {
            return None;
        }
        self.queues.get_mut(index)?.ready.as_mut()
    }

    /// Tells the driver, by the interrupt that the caller raises, that buffers were used.
    pub fn used_buffers(&mut self) {
        self.interrupts |= interrupt::USED_BUFFER;
    }

    /// Gives the driver up: nothing is served until it resets the device. The caller raises an
    /// interrupt.
    pub fn needs_reset(&mut self) {
        self.status |= status::DEVICE_NEEDS_RESET;
        self.interrupts |= interrupt::CONFIGURATION;
    }

    fn read_config(&self, offset: u64, size: AccessSize) -> u64 {
        let bytes = (0..size.bytes()).map(|n| {
            let index = usize::try_from(offset + n).ok();
            let byte = index.and_then(|index| self.config.get(index));
            u64::from(byte.copied().unwrap_or(0)) << (8 * n)
        });
        bytes.fold(0, |value, byte| value | byte)
    }

    fn doorbell(&self, queue: u32) -> Event {
        let queue = queue as usize;
        let serves = self.status & (status::DRIVER_OK | status::DEVICE_NEEDS_RESET) == status::DRIVER_OK;
        match self.queues.get(queue) {
            Some(state) if serves && state.ready.is_some() => Event::Doorbell(queue),
            _ => Event::None,
        }
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            let config = core::mem::take(&mut self.config);
            *self = Self::new(self.device_id, self.features, self.queues.len(), config);
            return;
        }
        let mut new = self.status | value & status::DRIVERS;
        let accepted = self.driver_features & !self.features == 0
            && self.driver_features & feature::REQUIRED == feature::REQUIRED;
        // The driver reads back whether the bit stuck (3.1.1).
        if self.status & status::FEATURES_OK == 0 && !accepted {
            new &= !status::FEATURES_OK;
        }
        if new & status::FEATURES_OK == 0 {
            new &= !status::DRIVER_OK;
        }
        self.status = new;
    }

    fn write_queue(&mut self, offset: u64, value: u32) -> Event {
        let negotiated = self.status & status::FEATURES_OK != 0;
        let Some(queue) = self.queues.get_mut(self.selected as usize) else {
            return Event::None;
        };
        if offset == offset::QUEUE_READY {
            if value == 0 {
                queue.ready = None;
            } else if negotiated && queue.ready.is_none() {
                match Queue::new(&queue.areas) {
                    Ok(ready) => queue.ready = Some(ready),
                    Err(_) => {
                        self.needs_reset();
                        return Event::Interrupt;
                    }
                }
            }
            return Event::None;
        }
        // A queue that is ready keeps the areas that were checked.
        let areas = &mut queue.areas;
        match offset {
            offset::QUEUE_NUM => areas.size = value,
            offset::QUEUE_DESC_LOW => set_ipa(&mut areas.descriptors, 0, value),
            offset::QUEUE_DESC_HIGH => set_ipa(&mut areas.descriptors, 1, value),
            offset::QUEUE_DRIVER_LOW => set_ipa(&mut areas.driver, 0, value),
            offset::QUEUE_DRIVER_HIGH => set_ipa(&mut areas.driver, 1, value),
            offset::QUEUE_DEVICE_LOW => set_ipa(&mut areas.device, 0, value),
            offset::QUEUE_DEVICE_HIGH => set_ipa(&mut areas.device, 1, value),
            _ => {}
        }
        Event::None
    }
}

/// The low (0) or high (1) word; 0 for any other.
#[expect(clippy::cast_possible_truncation, reason = "half of it is meant")]
const fn half(value: u64, which: u32) -> u32 {
    match which {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

/// Sets the low (0) or high (1) word; no other is there.
const fn set_half(value: &mut u64, which: u32, word: u32) {
    match which {
        0 => *value = *value & !0xffff_ffff | word as u64,
        1 => *value = *value & 0xffff_ffff | (word as u64) << 32,
        _ => {}
    }
}

const fn set_ipa(ipa: &mut Ipa, which: u32, word: u32) {
    set_half(&mut ipa.0, which, word);
}
