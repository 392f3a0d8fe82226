//! The host's device tree.

use core::ops::Range;

use bootimg::Image;
use hyp_core::boot::device_tree::{self, Edits};
use shared_abi::addr::{PAGE_SIZE, Pa, PageRange, Pfn};

use super::error::BootError;
use super::image::LoadedImage;
use super::layout;
use crate::machine::maintenance;

/// Writes the host's device tree into the host's memory and erases the original. Returns the new tree's address.
pub(super) fn write(
    loaded: &LoadedImage,
    ram: &[Range<u64>],
    used: &[Range<u64>],
    tree: &'static [u8],
    image: &Image<'_>,
    reserved: &[PageRange<Pfn>],
) -> Result<u64, BootError> {
    let room = (tree.len() as u64 + PAGE_SIZE).next_multiple_of(PAGE_SIZE);
    let place = layout::place(ram, used, room, PAGE_SIZE).ok_or(BootError::Memory)?;
    let parts =
        loaded.image.start + image.manifest().offset()..loaded.image.start + image.manifest().file_bytes();
    // SAFETY: `layout::place` has found RAM apart from all ranges in `used`. The host owns it but does not run yet.
    let out = unsafe {
        core::slice::from_raw_parts_mut(
            core::ptr::with_exposed_provenance_mut::<u8>(place as usize),
            room as usize,
        )
    };
    let edits = Edits { initrd: Some((Pa(parts.start), Pa(parts.end))), reserved };
    device_tree::filter(tree, &edits, out).map_err(BootError::HostTree)?;
    maintenance::clean_and_invalidate(place, room);
    // The original has the seeds, which are secret from the host.
    // SAFETY: `LoadedImage::find` has checked that `loaded.tree`, the range of `tree`, is RAM apart from the image.
    // `filter` above was the last reader of `tree`.
    unsafe {
        core::ptr::with_exposed_provenance_mut::<u8>(loaded.tree.start as usize)
            .write_bytes(0, (loaded.tree.end - loaded.tree.start) as usize);
    }
    maintenance::clean_and_invalidate(loaded.tree.start, loaded.tree.end - loaded.tree.start);
    Ok(place)
}
