//! The image and the device tree that the boot loader put into RAM. The image is verified here.

use core::ops::Range;

use bare_rt::image::Layout;
use bootimg::{Image, Manifest};
use hyp_core::boot::device_tree;

use super::error::BootError;

/// The size of the manifest in bytes: one page (docs/abi.md, "Boot image").
const MANIFEST_BYTES: usize = 4096;

/// The places of the image and the device tree. Both are in RAM and do not overlap.
pub(super) struct LoadedImage {
    /// The hypervisor's own sections.
    pub(super) layout: Layout,
    /// The device tree.
    pub(super) tree: Range<u64>,
    /// From the hypervisor's first byte to the end of the last part's memory.
    pub(super) image: Range<u64>,
    /// The end of the image's RAM region.
    ram_end: u64,
}

impl LoadedImage {
    /// Finds the range of the image, in the region of `ram` that contains the hypervisor.
    pub(super) fn find(tree: &'static [u8], ram: &[Range<u64>]) -> Result<Self, BootError> {
        let layout = Layout::current();
        let Range { start, end: manifest } = layout.image();
        let home = ram.iter().find(|region| region.contains(&start)).ok_or(BootError::Place)?;
        if manifest + MANIFEST_BYTES as u64 > home.end {
            return Err(BootError::NoManifest);
        }
        let parsed = Manifest::parse(bytes_at(manifest, MANIFEST_BYTES))?;
        let end = start
            .checked_add(parsed.memory_bytes())
            .filter(|end| *end <= home.end && *end >= manifest + MANIFEST_BYTES as u64)
            .ok_or(BootError::ImageSize)?;
        let tree = tree.as_ptr().addr() as u64..tree.as_ptr_range().end.addr() as u64;
        let in_ram = ram.iter().any(|range| range.start <= tree.start && tree.end <= range.end);
        if !in_ram || tree.start < end && start < tree.end {
            return Err(BootError::TreePlace);
        }
        Ok(Self { layout, tree, image: start..end, ram_end: home.end })
    }

    /// Verifies every byte of the image after the hypervisor.
    pub(super) fn verify(&self) -> Result<Image<'static>, bootimg::Error> {
        let manifest = self.layout.image().end;
        let bytes = bytes_at(manifest, (self.image.end - manifest) as usize);
        Image::verify(bytes, manifest - self.image.start, self.ram_end - self.image.start)
    }
}

/// Returns bytes of the image.
fn bytes_at(start: u64, bytes: usize) -> &'static [u8] {
    // SAFETY: `LoadedImage::find` has checked that these bytes are in the device tree's RAM: the manifest's page
    // before it is parsed, the rest before `verify` can be called. No code writes the image before the host runs, and
    // boot does not read it after that.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(start as usize), bytes) }
}

/// Returns the device tree at an address, or `None` if there is none.
///
/// # Safety
///
/// `address` is 0, or the address at which the boot loader put a device tree.
pub(super) unsafe fn device_tree_at(address: u64) -> Option<&'static [u8]> {
    let start = core::ptr::with_exposed_provenance::<u8>(address as usize);
    if start.is_null() || !start.cast::<u64>().is_aligned() {
        return None;
    }
    // SAFETY: the caller gives the address of a device tree, which was just checked to be aligned and not null. A
    // device tree has a header of 40 bytes.
    let header = unsafe { &*start.cast::<[u8; 8]>() };
    let bytes = device_tree::total_bytes(header).ok()?;
    // SAFETY: the boot loader wrote a tree of the length in its header. Only EL2 runs until the host is entered, and
    // `host_tree` reads the tree for the last time before that.
    Some(unsafe { core::slice::from_raw_parts(start, bytes) })
}
