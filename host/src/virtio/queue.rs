//! The device side of a split virtqueue (2.7).

use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use shared_abi::addr::Ipa;

use super::chain::{Buffer, Chain};
use crate::memory::{GuestFault, GuestMemory, HostMemory};

/// The most descriptors of a queue (QueueNumMax).
pub const MAX_SIZE: u16 = 256;

/// Descriptor flags (2.7.5).
mod descriptor {
    pub(super) const BYTES: u64 = 16;
    pub(super) const NEXT: u16 = 1;
    pub(super) const WRITE: u16 = 2;
}

/// Where things are in the driver and device areas (2.7.6 and 2.7.8).
mod ring {
    pub(super) const INDEX: u64 = 2;
    pub(super) const ENTRIES: u64 = 4;
    pub(super) const AVAILABLE_BYTES: u64 = 2;
    pub(super) const USED_BYTES: u64 = 8;
    /// VIRTQ_AVAIL_F_NO_INTERRUPT.
    pub(super) const NO_INTERRUPT: u16 = 1;
}

/// Why a queue can't be served any more. All of these are the driver's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The size is no power of two from 1 to [`MAX_SIZE`].
    #[error("a queue has {0} descriptors")]
    Size(u32),
    /// An area is misaligned or has no end.
    #[error("a queue's area is at {0}")]
    Area(Ipa),
    /// The available index is further ahead than the queue is long.
    #[error("the available index jumped by {0}")]
    IndexJump(u16),
    /// A descriptor's index is beyond the table.
    #[error("there is no descriptor {0}")]
    NoDescriptor(u16),
    /// A chain is longer than the queue: a loop.
    #[error("a descriptor chain does not end")]
    Endless,
    /// A descriptor has a flag that was not negotiated.
    #[error("a descriptor has flags {0:#x}")]
    Flags(u16),
    /// A buffer's end is beyond the address space.
    #[error("a buffer at {0} has no end")]
    Buffer(Ipa),
    /// A buffer for the device to read comes after one to write.
    #[error("a readable buffer follows a writable one")]
    Order,
    /// A chain has not the buffers that its kind of request needs.
    #[error("a request lacks its header or its status")]
    Malformed,
    /// Part of the queue can't be reached.
    #[error(transparent)]
    Memory(#[from] GuestFault),
}

/// What the driver says of a queue before it makes it ready.
#[derive(Clone, Copy, Debug, Default)]
pub struct Areas {
    /// QueueNum, as wide as the register.
    pub size: u32,
    /// Descriptor table.
    pub descriptors: Ipa,
    /// Available ring.
    pub driver: Ipa,
    /// Used ring.
    pub device: Ipa,
}

/// A queue that is ready.
#[derive(Debug)]
pub struct Queue {
    size: u16,
    descriptors: Ipa,
    driver: Ipa,
    device: Ipa,
    next_available: u16,
    next_used: u16,
}

impl Queue {
    /// The queue that the driver describes.
    ///
    /// # Errors
    ///
    /// [`QueueError::Size`] and [`QueueError::Area`] (2.7: alignment 16, 2 and 4).
    pub fn new(areas: &Areas) -> Result<Self, QueueError> {
        let size = u16::try_from(areas.size)
            .ok()
            .filter(|size| size.is_power_of_two() && *size <= MAX_SIZE)
            .ok_or(QueueError::Size(areas.size))?;
        let entries = u64::from(size);
        for (area, alignment, bytes) in [
            (areas.descriptors, 16, descriptor::BYTES * entries),
            (areas.driver, 2, ring::ENTRIES + ring::AVAILABLE_BYTES * entries),
            (areas.device, 4, ring::ENTRIES + ring::USED_BYTES * entries),
        ] {
            if area.0 % alignment != 0 || area.checked_add(bytes).is_none() {
                return Err(QueueError::Area(area));
            }
        }
        Ok(Self {
            size,
            descriptors: areas.descriptors,
            driver: areas.driver,
            device: areas.device,
            next_available: 0,
            next_used: 0,
        })
    }

    /// How many descriptors it has, which is also how many chains a doorbell is served at most: a driver
    /// that adds more while it is served rings again.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Takes the next chain that the driver made available, if there is one.
    ///
    /// # Errors
    ///
    /// [`QueueError`] if the queue or the chain makes no sense.
    pub fn pop<M: HostMemory>(&mut self, memory: &GuestMemory<'_, M>) -> Result<Option<Chain>, QueueError> {
        let index = u16::from_le_bytes(memory.read_bytes(Ipa(self.driver.0 + ring::INDEX))?);
        let ahead = index.wrapping_sub(self.next_available);
        if ahead == 0 {
            return Ok(None);
        }
        if ahead > self.size {
            return Err(QueueError::IndexJump(ahead));
        }
        // The driver writes the entry before the index (2.7.13.3): read them the other way round.
        fence(Ordering::Acquire);
        let entry = self.driver.0 + ring::ENTRIES + ring::AVAILABLE_BYTES * self.slot(self.next_available);
        let head = u16::from_le_bytes(memory.read_bytes(Ipa(entry))?);
        let chain = self.walk(head, memory)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Gives a chain back, `written` bytes of it written.
    ///
    /// # Errors
    ///
    /// [`QueueError::Memory`] if the used ring can't be reached.
    pub fn push<M: HostMemory>(
        &mut self,
        head: u16,
        written: u32,
        memory: &GuestMemory<'_, M>,
    ) -> Result<(), QueueError> {
        let mut element = [0; ring::USED_BYTES as usize];
        element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        let entry = self.device.0 + ring::ENTRIES + ring::USED_BYTES * self.slot(self.next_used);
        memory.write(Ipa(entry), &element)?;
        // The driver that sees the index must see the entry, and all that was written to the buffers.
        fence(Ordering::Release);
        self.next_used = self.next_used.wrapping_add(1);
        memory.write(Ipa(self.device.0 + ring::INDEX), &self.next_used.to_le_bytes())?;
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was pushed.
    ///
    /// # Errors
    ///
    /// [`QueueError::Memory`] if the available ring can't be reached.
    pub fn wants_interrupt<M: HostMemory>(&self, memory: &GuestMemory<'_, M>) -> Result<bool, QueueError> {
        // A driver that enables interrupts looks at the index afterwards: the index goes first here.
        fence(Ordering::SeqCst);
        let flags = u16::from_le_bytes(memory.read_bytes(self.driver)?);
        Ok(flags & ring::NO_INTERRUPT == 0)
    }

    /// Follows a chain, reading each descriptor once.
    fn walk<M: HostMemory>(&self, head: u16, memory: &GuestMemory<'_, M>) -> Result<Chain, QueueError> {
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        let mut index = head;
        for _ in 0..self.size {
            if index >= self.size {
                return Err(QueueError::NoDescriptor(index));
            }
            let at = self.descriptors.0 + descriptor::BYTES * u64::from(index);
            let raw = u128::from_le_bytes(memory.read_bytes(Ipa(at))?);
            let (buffer, flags, next) = decode(raw);
            // VIRTQ_DESC_F_INDIRECT among them: it was not offered.
            if flags & !(descriptor::NEXT | descriptor::WRITE) != 0 {
                return Err(QueueError::Flags(flags));
            }
            if buffer.ipa.checked_add(buffer.bytes.into()).is_none() {
                return Err(QueueError::Buffer(buffer.ipa));
            }
            if flags & descriptor::WRITE != 0 {
                writable.push(buffer);
            } else if writable.is_empty() {
                readable.push(buffer);
            } else {
                return Err(QueueError::Order);
            }
            if flags & descriptor::NEXT == 0 {
                return Ok(Chain { head, readable: readable.into(), writable: writable.into() });
            }
            index = next;
        }
        Err(QueueError::Endless)
    }

    fn slot(&self, index: u16) -> u64 {
        u64::from(index & (self.size - 1))
    }
}

/// A descriptor's buffer, flags and next index (2.7.5).
#[expect(clippy::cast_possible_truncation, reason = "each is a field of the descriptor")]
const fn decode(raw: u128) -> (Buffer, u16, u16) {
    let buffer = Buffer { ipa: Ipa(raw as u64), bytes: (raw >> 64) as u32 };
    (buffer, (raw >> 96) as u16, (raw >> 112) as u16)
}
