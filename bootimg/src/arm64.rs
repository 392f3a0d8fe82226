//! The header of an arm64 `Image` (`Documentation/arch/arm64/booting.rst` of Linux).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `magic`: "ARM\x64".
const MAGIC: [u8; 4] = *b"ARM\x64";

/// The boundary on which a boot loader puts an Image, `text_offset` apart.
pub const ALIGNMENT: u64 = 2 << 20;

/// The header's size in bytes.
pub const HEADER_BYTES: usize = size_of::<RawHeader>();

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    code: [U32; 2],
    text_offset: U64,
    image_size: U64,
    flags: U64,
    reserved: [U64; 3],
    magic: [u8; 4],
    pe_header: U32,
}

/// What a boot loader wants to know of an Image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the Image goes, in bytes above a 2 MiB boundary.
    pub text_offset: u64,
    /// Memory that it occupies, `.bss` included, in bytes; 0 in Images older than Linux 3.17.
    pub image_size: u64,
    /// Byte order, page size, placement.
    pub flags: u64,
}

impl Header {
    /// Reads the header; `None` if there is none.
    #[must_use]
    pub fn parse(image: &[u8]) -> Option<Self> {
        let (raw, _) = RawHeader::ref_from_prefix(image).ok()?;
        (raw.magic == MAGIC).then(|| Self {
            text_offset: raw.text_offset.get(),
            image_size: raw.image_size.get(),
            flags: raw.flags.get(),
        })
    }

    /// Changes `image_size` in an Image; `None`, and nothing changed, if it has no header.
    #[cfg(feature = "std")]
    pub(crate) fn set_image_size(image: &mut [u8], bytes: u64) -> Option<()> {
        let (raw, _) = RawHeader::mut_from_prefix(image).ok()?;
        (raw.magic == MAGIC).then(|| raw.image_size.set(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_linux_has_them() {
        let mut image = [0_u8; HEADER_BYTES];
        assert_eq!(Header::parse(&image), None);
        image[8..16].copy_from_slice(&1_u64.to_le_bytes());
        image[16..24].copy_from_slice(&2_u64.to_le_bytes());
        image[24..32].copy_from_slice(&3_u64.to_le_bytes());
        image[56..60].copy_from_slice(&0x644d_5241_u32.to_le_bytes());
        let header = Header { text_offset: 1, image_size: 2, flags: 3 };
        assert_eq!(Header::parse(&image), Some(header));
        assert_eq!(Header::parse(&image[..63]), None);
    }
}
