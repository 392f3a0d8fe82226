//! The digest table by which a guest verifies a disk, block by block.
//!
//! The table travels as the payload's initrd, so that it is measured with it: what it says about the
//! disk is as trusted as the payload's own code. All numbers are little-endian.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | [`MAGIC`] |
//! | 8 | 4 | [`VERSION`] |
//! | 12 | 4 | [`BLOCK_BYTES`] |
//! | 16 | 8 | number of blocks |
//! | 24 | 8 | bytes of the disk, a multiple of [`SECTOR_BYTES`]; the last block may be shorter |
//! | 32 | 8 | offset of the region to write, at the start of a block |
//! | 40 | 8 | its length: whole blocks, or 0 for a disk that is only read |
//! | 48 | 32 each | SHA-256 of each block as the disk is at the start |
//!
//! Bytes after the last digest are padding.

use core::fmt;
use core::ops::Range;

use sha2::{Digest as _, Sha256};
use shared_abi::record::Digest;

/// What a plan starts with.
pub const MAGIC: [u8; 8] = *b"CLOIPLAN";
/// The version of the format described here.
pub const VERSION: u32 = 1;
/// Bytes of a block; the last one of a disk may be shorter.
pub const BLOCK_BYTES: u64 = 64 * 1024;
/// Bytes of a sector of virtio-blk: no disk has a fraction of one.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes before the digests.
pub const HEADER_BYTES: usize = 48;
/// Bytes of a SHA-256 digest.
const DIGEST_BYTES: usize = 32;

/// What is wrong with a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It ends before its header or its digests do.
    Truncated,
    /// It is no plan.
    Magic,
    /// It is of another version.
    Version(u32),
    /// Its blocks are of another size, in bytes.
    BlockSize(u32),
    /// The disk's size in bytes is 0 or no multiple of a sector.
    DiskSize(u64),
    /// The number of blocks does not fit the disk's size.
    BlockCount(u64),
    /// The region to write is not made of whole blocks of the disk.
    WriteRegion {
        /// Its offset in bytes.
        offset: u64,
        /// Its length in bytes.
        bytes: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the plan is cut short"),
            Self::Magic => f.write_str("this is no plan"),
            Self::Version(version) => write!(f, "the plan has unknown version {version}"),
            Self::BlockSize(bytes) => write!(f, "the plan has blocks of {bytes} bytes"),
            Self::DiskSize(bytes) => write!(f, "the plan is for a disk of {bytes} bytes"),
            Self::BlockCount(blocks) => write!(f, "the plan has {blocks} blocks, too many or few"),
            Self::WriteRegion { offset, bytes } => {
                write!(f, "the plan writes {bytes} bytes at {offset}: no whole blocks")
            }
        }
    }
}

impl core::error::Error for Error {}

/// A disk's size and the region of it that is written: consistent by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    disk_bytes: u64,
    write: Range<u64>,
}

impl Geometry {
    /// A disk of `disk_bytes` bytes, and the bytes `write` of it, which may be empty.
    ///
    /// # Errors
    ///
    /// [`Error::DiskSize`] or [`Error::WriteRegion`].
    pub fn new(disk_bytes: u64, write: Range<u64>) -> Result<Self, Error> {
        if disk_bytes == 0 || !disk_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(Error::DiskSize(disk_bytes));
        }
        let bytes = write.end.saturating_sub(write.start);
        let ends_block = write.end.is_multiple_of(BLOCK_BYTES) || write.end == disk_bytes;
        let whole_blocks = write.start.is_multiple_of(BLOCK_BYTES) && ends_block;
        if write.start > write.end || write.end > disk_bytes || !(whole_blocks || bytes == 0) {
            return Err(Error::WriteRegion { offset: write.start, bytes });
        }
        Ok(Self { disk_bytes, write })
    }

    /// Bytes of the disk: a multiple of [`SECTOR_BYTES`], not 0.
    #[must_use]
    pub const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// The bytes that the guest replaces by their complement: whole blocks, or nothing.
    #[must_use]
    pub fn write_region(&self) -> Range<u64> {
        self.write.clone()
    }

    /// How many blocks the disk has; at least one.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.disk_bytes.div_ceil(BLOCK_BYTES)
    }

    /// The bytes of the disk that block number `index` holds; empty beyond the last block.
    #[must_use]
    pub fn block(&self, index: u64) -> Range<u64> {
        let start = index.saturating_mul(BLOCK_BYTES).min(self.disk_bytes);
        start..start.saturating_add(BLOCK_BYTES).min(self.disk_bytes)
    }

    /// Whether block number `index` is in the region that is written.
    #[must_use]
    pub fn is_written(&self, index: u64) -> bool {
        let block = self.block(index);
        !block.is_empty() && self.write.contains(&block.start)
    }

    /// Bytes of a plan for this disk.
    #[must_use]
    pub const fn plan_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.blocks().saturating_mul(DIGEST_BYTES as u64)
    }

    /// The header of a plan for this disk; the digests of [`blocks`](Self::blocks) blocks follow it.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(BLOCK_BYTES as u32).to_le_bytes());
        header[16..24].copy_from_slice(&self.blocks().to_le_bytes());
        header[24..32].copy_from_slice(&self.disk_bytes.to_le_bytes());
        header[32..40].copy_from_slice(&self.write.start.to_le_bytes());
        header[40..48].copy_from_slice(&(self.write.end - self.write.start).to_le_bytes());
        header
    }
}

/// The digest of one block's content.
#[must_use]
pub fn digest(block: &[u8]) -> Digest {
    Digest(Sha256::digest(block).into())
}

/// What the guest writes instead of `content`: every bit the other way round.
pub fn complement(content: &mut [u8]) {
    for byte in content {
        *byte = !*byte;
    }
}

/// A plan that was read and checked.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    geometry: Geometry,
    digests: &'a [u8],
}

impl<'a> Plan<'a> {
    /// Reads a plan from bytes that may be anything.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Error::Truncated)?;
        if header[..8] != MAGIC {
            return Err(Error::Magic);
        }
        let version = word32(header, 8);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let block_bytes = word32(header, 12);
        if u64::from(block_bytes) != BLOCK_BYTES {
            return Err(Error::BlockSize(block_bytes));
        }
        let (offset, length) = (word64(header, 32), word64(header, 40));
        let end = offset.checked_add(length).ok_or(Error::WriteRegion { offset, bytes: length })?;
        let geometry = Geometry::new(word64(header, 24), offset..end)?;
        let blocks = word64(header, 16);
        if blocks != geometry.blocks() {
            return Err(Error::BlockCount(blocks));
        }
        let digests = usize::try_from(blocks)
            .ok()
            .and_then(|blocks| rest.get(..blocks.checked_mul(DIGEST_BYTES)?))
            .ok_or(Error::Truncated)?;
        Ok(Self { geometry, digests })
    }

    /// The disk's size and the region to write.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The blocks in order: number and digest.
    pub fn digests(&self) -> impl Iterator<Item = (u64, Digest)> + use<'a> {
        let (digests, _) = self.digests.as_chunks();
        (0..).zip(digests.iter().map(|digest| Digest(*digest)))
    }
}

fn word32(header: &[u8; HEADER_BYTES], offset: usize) -> u32 {
    let bytes = header[offset..].first_chunk();
    u32::from_le_bytes(*bytes.expect("the header's fields are within the header"))
}

fn word64(header: &[u8; HEADER_BYTES], offset: usize) -> u64 {
    let bytes = header[offset..].first_chunk();
    u64::from_le_bytes(*bytes.expect("the header's fields are within the header"))
}

#[cfg(test)]
mod tests;
