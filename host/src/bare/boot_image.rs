//! The boot image's parts, as the hypervisor left them in RAM.

use core::ops::Range;

use bootimg::manifest::MANIFEST_BYTES;
use bootimg::{Error, Kind, Manifest};

/// The image from its manifest on. The hypervisor has verified it before it started the host.
#[derive(Debug)]
pub(crate) struct BootImage {
    manifest: Manifest,
    /// Where the image's first byte is, the hypervisor's.
    start: u64,
    /// Where the image ends.
    end: u64,
}

impl BootImage {
    /// Reads the manifest at the start of `memory`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    ///
    /// # Safety
    ///
    /// The memory is RAM, mapped, and but for the host's own part nobody ever writes to it.
    pub(crate) unsafe fn open(memory: Range<u64>) -> Result<Self, Error> {
        let length = memory.end.saturating_sub(memory.start);
        let bytes = length.min(MANIFEST_BYTES) as usize;
        let page = core::ptr::with_exposed_provenance(memory.start as usize);
        // SAFETY: the caller vouches for the memory, of which this is a part.
        let page = unsafe { core::slice::from_raw_parts(page, bytes) };
        let manifest = Manifest::parse(page)?;
        if manifest.bytes_from_manifest() > length {
            return Err(Error::Truncated { expected: manifest.bytes_from_manifest(), found: length });
        }
        let start = memory.start.checked_sub(manifest.offset()).ok_or(Error::TotalSize)?;
        Ok(Self { manifest, start, end: memory.end })
    }

    /// The content of a part, if there is one. The host's own is not content any more.
    pub(crate) fn content(&self, kind: Kind) -> Option<&'static [u8]> {
        let part = self.manifest.part(kind).filter(|_| kind != Kind::Host)?;
        let file = part.file();
        let address = self.start + file.start;
        let bytes = file.end - file.start;
        if address + bytes > self.end {
            return None;
        }
        let content = core::ptr::with_exposed_provenance(address as usize);
        // SAFETY: the part lies in the memory that the caller of `open` vouched for, apart from the
        // host's, as `Manifest::parse` checks.
        Some(unsafe { core::slice::from_raw_parts(content, bytes as usize) })
    }

    /// The text of a part; empty if there is none, or if it is no text.
    pub(crate) fn text(&self, kind: Kind) -> &'static str {
        let content = self.content(kind).unwrap_or_default();
        core::str::from_utf8(content).unwrap_or_default()
    }
}
