//! The machine that a guest sees: where things are. The map is that of QEMU's `virt` machine where the
//! two have the same thing, because that is what bare-metal payloads are written for.

use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE, PageRange};

/// The most vCPUs of a guest: MPIDR_EL1.Aff0 alone tells them apart, and one SGI reaches them all.
pub const MAX_VCPUS: u32 = 8;

/// The first byte of RAM.
pub const RAM_BASE: Ipa = Ipa(0x4000_0000);
/// Payload, initrd and device tree start at multiples of this.
pub const PLACEMENT: u64 = 2 << 20;
/// Where an Image goes that wants no offset, and a flat binary.
pub const PAYLOAD_BASE: Ipa = Ipa(RAM_BASE.0 + PLACEMENT);

/// GICv3 distributor.
pub const GICD_BASE: Ipa = Ipa(0x0800_0000);
/// Its size.
pub const GICD_BYTES: u64 = 0x1_0000;
/// GICv3 redistributors, one behind the other.
pub const GICR_BASE: Ipa = Ipa(0x080a_0000);
/// One redistributor: its RD_base and SGI_base frames.
pub const GICR_BYTES: u64 = 0x2_0000;

/// PL011.
pub const UART_BASE: Ipa = Ipa(0x0900_0000);
/// Its interrupt; level-sensitive.
pub const UART_SPI: Spi = Spi(1);

/// The first virtio-mmio device; each has a page of its own, so that stage 2 can tell them apart.
pub const VIRTIO_BASE: Ipa = Ipa(0x0a00_0000);
/// The first one's interrupt; edge-triggered.
const VIRTIO_FIRST_SPI: u32 = 16;
/// The most virtio-mmio devices.
pub const MAX_VIRTIO: usize = 8;

/// A shared peripheral interrupt by its number as device trees count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spi(pub u32);

impl Spi {
    /// The first INTID of an SPI (GIC architecture, IHI 0069, 2.2.1).
    pub const FIRST_INTID: u32 = 32;

    /// Its INTID.
    #[must_use]
    pub const fn intid(self) -> u32 {
        self.0 + Self::FIRST_INTID
    }
}

/// The kinds of virtio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtioKind {
    /// A console that prints.
    Console,
    /// A disk.
    Block,
}

/// A virtio-mmio device of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioSlot {
    /// What it is.
    pub kind: VirtioKind,
    /// Its registers; a page.
    pub base: Ipa,
    /// Its interrupt.
    pub spi: Spi,
}

/// The slots of a guest's virtio devices, in the order in which they were asked for; what comes after
/// the first [`MAX_VIRTIO`] gets none.
pub fn virtio_slots(kinds: impl IntoIterator<Item = VirtioKind>) -> impl Iterator<Item = VirtioSlot> {
    (0..).zip(kinds).take(MAX_VIRTIO).map(|(index, kind)| VirtioSlot {
        kind,
        base: Ipa(VIRTIO_BASE.0 + u64::from(index) * PAGE_SIZE),
        spi: Spi(VIRTIO_FIRST_SPI + index),
    })
}

/// A guest's RAM; `None` if it has no whole page, or no end.
#[must_use]
pub fn ram(bytes: u64) -> Option<PageRange<Gfn>> {
    PageRange::<Gfn>::new(RAM_BASE.page(), bytes / PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_virtio_device_has_its_own_page_and_interrupt() {
        let slots: Vec<_> = virtio_slots([VirtioKind::Console, VirtioKind::Block]).collect();
        assert_eq!(slots[0].base, Ipa(0xa00_0000));
        assert_eq!(slots[0].spi.intid(), 48);
        assert_eq!(slots[1].base, Ipa(0xa00_1000));
        assert_eq!(slots[1].spi.intid(), 49);
        assert_eq!(virtio_slots([VirtioKind::Block; 20]).count(), MAX_VIRTIO);
    }
}
