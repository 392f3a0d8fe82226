//! What a guest finds in its memory when it starts.
//!
//! [`GuestLayout`] is a pure function of a [`GuestConfig`]. The host populates exactly its pages and the
//! tool measures exactly its pages: that is why a launch measurement can be foretold.

use alloc::vec::Vec;

use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE, PageRange};

use crate::machine::{self, MAX_VCPUS, PLACEMENT, VirtioKind, VirtioSlot};
use crate::payload::{Payload, PayloadError};

mod device_tree;
#[cfg(test)]
mod tests;

/// The content of a page.
pub type PageContent = [u8; PAGE_SIZE as usize];

/// All that a guest's memory and devices follow from.
#[derive(Clone, Copy, Debug)]
pub struct GuestConfig<'a> {
    /// vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// RAM in bytes, whole pages.
    pub memory_bytes: u64,
    /// virtio devices, in the order of their addresses.
    pub devices: &'a [VirtioKind],
    /// `/chosen/bootargs`; empty for none.
    pub bootargs: &'a str,
    /// The payload file.
    pub payload: &'a [u8],
    /// The initial ramdisk; empty for none.
    pub initrd: &'a [u8],
}

/// Why there is no such guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The payload is not acceptable.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The number of vCPUs is out of range.
    #[error("a guest has 1 to {MAX_VCPUS} vCPUs, not {0}")]
    Vcpus(u32),
    /// The memory is not a number of whole pages, or more than there are addresses for.
    #[error("{0} bytes are no size for a guest's memory")]
    MemorySize(u64),
    /// Too many virtio devices.
    #[error("a guest has at most {max} virtio devices", max = machine::MAX_VIRTIO)]
    Devices,
    /// A NUL byte in the boot arguments.
    #[error("the boot arguments hold a NUL byte")]
    BootArgs,
    /// Payload, initrd and device tree do not fit.
    #[error("payload, initrd and device tree need memory up to {end:#x}, the guest's ends at {ram_end}")]
    TooLarge {
        /// Where the last of them would end.
        end: u64,
        /// Where RAM ends.
        ram_end: Ipa,
    },
}

/// Bytes at an address.
#[derive(Clone, Debug)]
struct Piece<'a> {
    ipa: Ipa,
    bytes: alloc::borrow::Cow<'a, [u8]>,
}

impl Piece<'_> {
    fn end(&self) -> u64 {
        self.ipa.0 + self.bytes.len() as u64
    }
}

/// A guest before its first instruction.
#[derive(Clone, Debug)]
pub struct GuestLayout<'a> {
    /// Its RAM.
    pub ram: PageRange<Gfn>,
    /// vCPUs.
    pub vcpus: u32,
    /// Where vCPU 0 starts.
    pub entry: Ipa,
    /// The device tree, which is also vCPU 0's x0.
    pub device_tree: Ipa,
    /// The virtio devices.
    pub devices: Vec<VirtioSlot>,
    /// What is not zero, by ascending address, without overlap.
    pieces: Vec<Piece<'a>>,
}

impl<'a> GuestLayout<'a> {
    /// Lays out a guest: the payload where it wants to be, the initrd at the next multiple of 2 MiB, the
    /// device tree at the next one.
    ///
    /// # Errors
    ///
    /// [`LayoutError`] if the configuration is none or does not fit in the memory that it asks for.
    pub fn new(config: &GuestConfig<'a>) -> Result<Self, LayoutError> {
        if !(1..=MAX_VCPUS).contains(&config.vcpus) {
            return Err(LayoutError::Vcpus(config.vcpus));
        }
        let ram = machine::ram(config.memory_bytes)
            .filter(|_| config.memory_bytes.is_multiple_of(PAGE_SIZE))
            .ok_or(LayoutError::MemorySize(config.memory_bytes))?;
        if config.devices.len() > machine::MAX_VIRTIO {
            return Err(LayoutError::Devices);
        }
        if config.bootargs.contains('\0') {
            return Err(LayoutError::BootArgs);
        }
        let devices: Vec<_> = machine::virtio_slots(config.devices.iter().copied()).collect();
        let payload = Payload::place(config.payload, ram)?;
        let initrd = fit(payload.end, config.initrd.len(), ram)?;
        let initrd_end = Ipa(initrd.0 + config.initrd.len() as u64);

        let tree = device_tree::build(&device_tree::Contents {
            config,
            ram,
            devices: &devices,
            initrd: (!config.initrd.is_empty()).then_some((initrd, initrd_end)),
        });
        let device_tree = fit(initrd_end, tree.len(), ram)?;

        let mut pieces: Vec<_> = payload
            .segments
            .iter()
            .map(|segment| (segment.ipa, segment.data))
            .chain([(initrd, config.initrd)])
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(ipa, bytes)| Piece { ipa, bytes: bytes.into() })
            .collect();
        pieces.push(Piece { ipa: device_tree, bytes: tree.into() });
        Ok(Self { ram, vcpus: config.vcpus, entry: payload.entry, device_tree, devices, pieces })
    }

    /// The pages to populate with [`Self::content`], by ascending address: those that hold a byte of
    /// the payload file, the initrd or the device tree. Every other page starts as zeroes.
    pub fn pages(&self) -> impl Iterator<Item = Gfn> {
        let mut next = 0;
        self.pieces.iter().flat_map(move |piece| {
            let first = piece.ipa.page().0.max(next);
            next = piece.end().div_ceil(PAGE_SIZE);
            (first..next).map(Gfn)
        })
    }

    /// What the guest finds in a page when it starts.
    #[must_use]
    pub fn content(&self, gfn: Gfn) -> PageContent {
        let mut content = [0; PAGE_SIZE as usize];
        let page = gfn.base().0;
        for piece in &self.pieces {
            let start = piece.ipa.0.max(page);
            let end = piece.end().min(page.saturating_add(PAGE_SIZE));
            if start < end {
                let from = index(start - piece.ipa.0)..index(end - piece.ipa.0);
                content[index(start - page)..index(end - page)].copy_from_slice(&piece.bytes[from]);
            }
        }
        content
    }
}

/// The first multiple of 2 MiB at or above `above` if `bytes` bytes there are in RAM.
fn fit(above: Ipa, bytes: usize, ram: PageRange<Gfn>) -> Result<Ipa, LayoutError> {
    let ram_end = ram.end().base();
    let start = above.0.next_multiple_of(PLACEMENT);
    let end = start.saturating_add(bytes as u64);
    if bytes != 0 && end > ram_end.0 {
        return Err(LayoutError::TooLarge { end, ram_end });
    }
    // Nothing is there if there are no bytes, so that it takes no memory either.
    Ok(if bytes == 0 { above } else { Ipa(start) })
}

/// An offset within bytes that are in the VMM's own memory.
#[expect(clippy::cast_possible_truncation, reason = "it is below the length of a slice")]
const fn index(offset: u64) -> usize {
    offset as usize
}
