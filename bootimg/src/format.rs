//! The manifest as it lies in the image: little-endian, one page, unused bytes zero.

use core::mem::offset_of;
use core::ops::Range;

use sha2::{Digest as _, Sha256};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a manifest starts with.
pub(crate) const MAGIC: [u8; 8] = *b"CLOISTER";

/// The version of the format that this crate reads and writes.
pub(crate) const VERSION: u32 = 1;

/// Entries that a manifest has room for.
pub(crate) const MAX_PARTS: usize = 16;

/// The manifest's size: one page.
pub(crate) const MANIFEST_BYTES: usize = 4096;

const UNUSED_BYTES: usize = MANIFEST_BYTES - size_of::<RawHeader>() - MAX_PARTS * size_of::<RawPart>();

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U32,
    /// How many entries of the table are in use.
    pub(crate) parts: U32,
    /// Where the manifest is, which is where the hypervisor's memory ends.
    pub(crate) manifest_offset: U64,
    /// Where the last part's content ends.
    pub(crate) file_bytes: U64,
    /// Where the last part's memory ends.
    pub(crate) memory_bytes: U64,
    /// SHA-256 of everything before the manifest.
    pub(crate) hypervisor_digest: [u8; 32],
    /// SHA-256 of the manifest, in which this field is zero.
    pub(crate) digest: [u8; 32],
    pub(crate) reserved: [u8; 24],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawPart {
    pub(crate) kind: U32,
    pub(crate) reserved: U32,
    pub(crate) offset: U64,
    pub(crate) file_bytes: U64,
    pub(crate) memory_bytes: U64,
    /// SHA-256 of the content.
    pub(crate) digest: [u8; 32],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawManifest {
    pub(crate) header: RawHeader,
    pub(crate) parts: [RawPart; MAX_PARTS],
    pub(crate) unused: [u8; UNUSED_BYTES],
}

/// Where the manifest's own digest is.
const DIGEST: Range<usize> = {
    let start = offset_of!(RawManifest, header) + offset_of!(RawHeader, digest);
    start..start + 32
};

const _: () = assert!(size_of::<RawManifest>() == MANIFEST_BYTES);

impl RawManifest {
    /// The digest that the manifest should have.
    pub(crate) fn own_digest(&self) -> [u8; 32] {
        let (before, rest) = self.as_bytes().split_at(DIGEST.start);
        let mut hash = Sha256::new();
        hash.update(before);
        hash.update([0; DIGEST.end - DIGEST.start]);
        hash.update(&rest[DIGEST.end - DIGEST.start..]);
        hash.finalize().into()
    }

    /// Whether all bytes that have no meaning are zero.
    pub(crate) fn unused_is_zero(&self, parts: usize) -> bool {
        let (used, rest) = self.parts.split_at(parts.min(MAX_PARTS));
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        zero(&self.header.reserved)
            && used.iter().all(|part| part.reserved == 0)
            && zero(rest.as_bytes())
            && zero(&self.unused)
    }
}
