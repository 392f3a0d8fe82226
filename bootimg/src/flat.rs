//! Turns what the linker made into the bytes that lie in memory.
//!
//! Cloister's bare-metal binaries are position-independent ELF files whose first bytes are an arm64
//! Image header. Their own first instructions relocate them and clear `.bss`, so loading them means
//! copying segments to where they are linked, from 0 on.

use elf::ElfBytes;
use elf::abi::{EM_AARCH64, ET_DYN, PT_INTERP, PT_LOAD};
use elf::endian::AnyEndian;
use elf::file::Class;

use crate::arm64;
use crate::manifest::MAX_MEMORY_BYTES;

/// An arm64 Image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlatImage {
    bytes: Vec<u8>,
    memory_bytes: u64,
}

/// Why a file can't be made an arm64 Image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlatError {
    /// It is something else.
    #[error("it is neither an ELF file nor an arm64 Image")]
    NeitherElfNorImage,
    /// The ELF file is damaged.
    #[error("it is a damaged ELF file: {0}")]
    Elf(String),
    /// The ELF file is for another machine, or needs a loader that no bare machine has.
    #[error("it is no static position-independent ELF file for little-endian AArch64")]
    OtherMachine,
    /// A segment is not where an Image can have it.
    #[error("its segment at {0:#x} overlaps another or lies beyond what an image may occupy")]
    Segment(u64),
    /// The ELF file's first bytes are no arm64 Image header.
    #[error("it has no arm64 Image header at its start: link it with bare-rt/image.ld")]
    NoHeader,
    /// The header's size is none that the content fits in.
    #[error("its arm64 Image header states {stated} bytes of memory, and it needs {needed}")]
    ImageSize {
        /// What the header says.
        stated: u64,
        /// What the segments need.
        needed: u64,
    },
}

impl FlatImage {
    /// Makes an arm64 Image of an ELF file, or takes one as it is.
    ///
    /// # Errors
    ///
    /// [`FlatError`] for anything that is neither, or that the boot image has no room for.
    pub fn new(file: &[u8]) -> Result<Self, FlatError> {
        let (bytes, needed) = if file.starts_with(&elf::abi::ELFMAGIC) {
            load_segments(file)?
        } else if arm64::Header::parse(file).is_some() {
            (file.to_vec(), file.len() as u64)
        } else {
            return Err(FlatError::NeitherElfNorImage);
        };
        let header = arm64::Header::parse(&bytes).ok_or(FlatError::NoHeader)?;
        let stated = header.image_size;
        if stated < needed || stated > MAX_MEMORY_BYTES || header.text_offset != 0 {
            return Err(FlatError::ImageSize { stated, needed });
        }
        Ok(Self { bytes, memory_bytes: stated })
    }

    /// The bytes that are loaded.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory that it needs, from its first byte on: no less than its bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}

/// The bytes of the segments as they lie in memory from address 0 on, and the memory that they need.
fn load_segments(file: &[u8]) -> Result<(Vec<u8>, u64), FlatError> {
    let damaged = |error: elf::ParseError| FlatError::Elf(error.to_string());
    let elf = ElfBytes::<AnyEndian>::minimal_parse(file).map_err(damaged)?;
    let header = &elf.ehdr;
    let segments = elf.segments().ok_or(FlatError::OtherMachine)?;
    let fits = header.class == Class::ELF64
        && header.endianness == AnyEndian::Little
        && header.e_machine == EM_AARCH64
        && header.e_type == ET_DYN
        && header.e_entry == 0
        && segments.iter().all(|segment| segment.p_type != PT_INTERP);
    if !fits {
        return Err(FlatError::OtherMachine);
    }

    let mut bytes = Vec::new();
    let mut needed = 0;
    for segment in segments.iter().filter(|segment| segment.p_type == PT_LOAD) {
        let start = segment.p_vaddr;
        let end = start.checked_add(segment.p_memsz).filter(|end| *end <= MAX_MEMORY_BYTES);
        let (Some(end), true) = (end, start >= needed && segment.p_filesz <= segment.p_memsz) else {
            return Err(FlatError::Segment(start));
        };
        let content = elf.segment_data(&segment).map_err(damaged)?;
        let start = usize::try_from(start).map_err(|_| FlatError::Segment(start))?;
        if !content.is_empty() {
            bytes.resize(start, 0);
            bytes.extend_from_slice(content);
        }
        needed = end;
    }
    Ok((bytes, needed))
}

#[cfg(test)]
mod tests;
