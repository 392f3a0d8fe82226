//! Payload files: what one is, and where it goes in guest memory.
//!
//! | starts with | is |
//! | --- | --- |
//! | ELF magic | a static AArch64 ELF, or refused |
//! | `ARM\x64` at byte 56 | an arm64 `Image`, at RAM + 2 MiB + `text_offset` |
//! | nothing, gzip, zboot, PE for another machine | refused |
//! | anything else | a flat binary, at RAM + 2 MiB, entered at its first byte |

use alloc::vec::Vec;

use bootimg::arm64;
use shared_abi::addr::{Gfn, Ipa, PageRange};

use crate::machine::{PAYLOAD_BASE, PLACEMENT};

mod elf;
#[cfg(test)]
mod tests;

/// What a payload file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A static AArch64 ELF.
    Elf,
    /// An arm64 `Image`.
    Image,
    /// Anything else.
    Flat,
}

/// Bytes of the payload file and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Address of the first byte.
    pub ipa: Ipa,
    /// What the file has for it.
    pub data: &'a [u8],
    /// Memory that it takes; what `data` does not fill is zero.
    pub memory_bytes: u64,
}

/// A payload placed in guest memory; all of it lies in RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// What the file is.
    pub kind: Kind,
    /// Its parts, by ascending address; none overlaps another.
    pub segments: Vec<Segment<'a>>,
    /// Where vCPU 0 starts.
    pub entry: Ipa,
    /// One past its last byte in memory.
    pub end: Ipa,
}

/// Why a file is no payload. The messages say what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// No bytes.
    #[error("the payload is an empty file")]
    Empty,
    /// gzip magic.
    #[error("the payload is gzip-compressed: decompress it first")]
    Gzip,
    /// A compressed EFI application.
    #[error("the payload is an EFI zboot image: extract the Image in it first")]
    Zboot,
    /// A PE/COFF file whose machine field is not AArch64's.
    #[error("the payload is a PE file for another machine ({0:#x})")]
    ForeignPe(u16),
    /// An ELF file that is cut short or makes no sense.
    #[error("the payload is a damaged ELF file")]
    DamagedElf,
    /// An ELF file of 32 bits.
    #[error("the payload is a 32-bit ELF file")]
    Elf32,
    /// An ELF file of the other byte order.
    #[error("the payload is a big-endian ELF file")]
    BigEndianElf,
    /// An ELF file for another machine.
    #[error("the payload is an ELF file for another machine ({0})")]
    ForeignElf(u16),
    /// An ELF file that is no program.
    #[error("the payload is an ELF file but no executable (type {0})")]
    NoExecutable(u16),
    /// An ELF program that needs a dynamic loader or libraries.
    #[error("the payload is a dynamically linked ELF file: link it statically")]
    DynamicElf,
    /// An ELF program whose entry point is in none of its segments.
    #[error("the payload's entry point {0:#x} is outside its segments")]
    EntryOutside(u64),
    /// Two segments that claim the same memory.
    #[error("the payload's segments overlap at {0}")]
    Overlap(Ipa),
    /// An Image for big-endian CPUs.
    #[error("the payload is a big-endian Image")]
    BigEndianImage,
    /// An Image whose text offset is not below 2 MiB, or not a multiple of 4 KiB.
    #[error("the payload is an Image with a bad text offset ({0:#x})")]
    BadTextOffset(u64),
    /// A payload that does not lie in RAM.
    #[error("the payload needs memory up to {end:#x}, the guest's ends at {ram_end}")]
    TooLarge {
        /// Where the payload would end.
        end: u64,
        /// Where RAM ends.
        ram_end: Ipa,
    },
    /// A payload linked below RAM.
    #[error("the payload starts at {0:#x}, below the guest's memory")]
    BelowRam(u64),
}

impl<'a> Payload<'a> {
    /// Finds out what a file is and places it in `ram`.
    ///
    /// # Errors
    ///
    /// [`PayloadError`] for a file that is not acceptable or does not fit.
    pub fn place(file: &'a [u8], ram: PageRange<Gfn>) -> Result<Self, PayloadError> {
        match detect(file)? {
            Kind::Elf => elf::place(file, ram),
            Kind::Image => image(file, ram),
            Kind::Flat => single(Kind::Flat, PAYLOAD_BASE, file, file.len() as u64, ram),
        }
    }
}

/// What a file is, by its first bytes.
fn detect(file: &[u8]) -> Result<Kind, PayloadError> {
    const GZIP: &[u8] = b"\x1f\x8b";
    const DOS: &[u8] = b"MZ";
    /// `include/linux/pe.h` and `zboot-header.S` of Linux: "zimg" behind the DOS magic.
    const ZBOOT: &[u8] = b"MZ\0\0zimg";

    if file.is_empty() {
        Err(PayloadError::Empty)
    } else if file.starts_with(elf::MAGIC) {
        Ok(Kind::Elf)
    } else if file.starts_with(GZIP) {
        Err(PayloadError::Gzip)
    } else if file.starts_with(ZBOOT) {
        Err(PayloadError::Zboot)
    } else if arm64::Header::parse(file).is_some() {
        Ok(Kind::Image)
    } else if let Some(machine) = file.starts_with(DOS).then(|| pe_machine(file)).flatten()
        && machine != PE_AARCH64
    {
        Err(PayloadError::ForeignPe(machine))
    } else {
        Ok(Kind::Flat)
    }
}

/// `IMAGE_FILE_MACHINE_ARM64` of the PE/COFF specification.
const PE_AARCH64: u16 = 0xaa64;

/// The machine field of a PE file, behind the signature that the DOS header points to.
fn pe_machine(file: &[u8]) -> Option<u16> {
    const E_LFANEW: usize = 0x3c;
    let offset: [u8; 4] = file.get(E_LFANEW..)?.get(..4)?.try_into().ok()?;
    let header = file.get(usize::try_from(u32::from_le_bytes(offset)).ok()?..)?;
    let machine = header.strip_prefix(b"PE\0\0")?.get(..2)?;
    Some(u16::from_le_bytes(machine.try_into().ok()?))
}

/// Places an arm64 `Image` (`Documentation/arch/arm64/booting.rst` of Linux).
fn image(file: &[u8], ram: PageRange<Gfn>) -> Result<Payload<'_>, PayloadError> {
    /// What an Image without a size (before Linux 3.17) is loaded with.
    const LEGACY_TEXT_OFFSET: u64 = 0x8_0000;
    const BIG_ENDIAN: u64 = 1;

    let header = arm64::Header::parse(file).ok_or(PayloadError::Empty)?;
    if header.flags & BIG_ENDIAN != 0 {
        return Err(PayloadError::BigEndianImage);
    }
    let (offset, bytes) = match header.image_size {
        0 => (LEGACY_TEXT_OFFSET, file.len() as u64),
        size => (header.text_offset, size.max(file.len() as u64)),
    };
    let base = Ipa(PAYLOAD_BASE.0 + offset % PLACEMENT);
    if offset >= PLACEMENT || base.page_offset() != 0 {
        return Err(PayloadError::BadTextOffset(offset));
    }
    single(Kind::Image, base, file, bytes, ram)
}

/// A payload of one part, entered at its first byte.
fn single(
    kind: Kind,
    base: Ipa,
    data: &[u8],
    memory_bytes: u64,
    ram: PageRange<Gfn>,
) -> Result<Payload<'_>, PayloadError> {
    let end = in_ram(base.0, memory_bytes, ram)?;
    let segment = Segment { ipa: base, data, memory_bytes };
    Ok(Payload { kind, segments: Vec::from([segment]), entry: base, end })
}

/// Where `bytes` bytes from `start` on end, if they are all in RAM.
fn in_ram(start: u64, bytes: u64, ram: PageRange<Gfn>) -> Result<Ipa, PayloadError> {
    let ram_end = ram.end().base();
    if start < ram.first().base().0 {
        return Err(PayloadError::BelowRam(start));
    }
    let end = start.saturating_add(bytes);
    if end > ram_end.0 {
        return Err(PayloadError::TooLarge { end, ram_end });
    }
    Ok(Ipa(end))
}
