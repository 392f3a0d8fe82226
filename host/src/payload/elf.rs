//! Static AArch64 ELF files, position dependent and independent.

use alloc::vec::Vec;

use elf::ElfBytes;
use elf::abi::{DT_NEEDED, EM_AARCH64, ET_DYN, ET_EXEC, PT_INTERP, PT_LOAD};
use elf::endian::AnyEndian;
use elf::file::Class;
use elf::parse::ParseError;
use elf::segment::ProgramHeader;
use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE, PageRange};

use super::{Kind, Payload, PayloadError, Segment, in_ram};
use crate::machine::PAYLOAD_BASE;

/// `ELFMAG`.
pub(super) const MAGIC: &[u8] = b"\x7fELF";

impl From<ParseError> for PayloadError {
    fn from(_: ParseError) -> Self {
        Self::DamagedElf
    }
}

/// Places an ELF file: at the physical addresses that it was linked for, or, if it is position
/// independent, with its lowest page at RAM + 2 MiB. Relocations are the program's own to apply.
pub(super) fn place(file: &[u8], ram: PageRange<Gfn>) -> Result<Payload<'_>, PayloadError> {
    let elf = ElfBytes::<AnyEndian>::minimal_parse(file)?;
    let header = &elf.ehdr;
    if header.class != Class::ELF64 {
        return Err(PayloadError::Elf32);
    }
    if header.endianness != AnyEndian::Little {
        return Err(PayloadError::BigEndianElf);
    }
    if header.e_machine != EM_AARCH64 {
        return Err(PayloadError::ForeignElf(header.e_machine));
    }
    if header.e_type != ET_EXEC && header.e_type != ET_DYN {
        return Err(PayloadError::NoExecutable(header.e_type));
    }
    let headers = elf.segments().ok_or(PayloadError::DamagedElf)?;
    if headers.iter().any(|segment| segment.p_type == PT_INTERP) || needs_library(&elf)? {
        return Err(PayloadError::DynamicElf);
    }
    let loads = || headers.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz != 0);
    let lowest = loads().map(|segment| segment.p_paddr).min().ok_or(PayloadError::DamagedElf)?;
    let bias =
        if header.e_type == ET_DYN { PAYLOAD_BASE.0.wrapping_sub(lowest & !(PAGE_SIZE - 1)) } else { 0 };

    let mut segments = Vec::new();
    let mut end = Ipa(0);
    for load in loads() {
        let data = elf.segment_data(&load)?;
        if load.p_memsz < data.len() as u64 {
            return Err(PayloadError::DamagedElf);
        }
        let ipa = Ipa(load.p_paddr.wrapping_add(bias));
        end = end.max(in_ram(ipa.0, load.p_memsz, ram)?);
        segments.push(Segment { ipa, data, memory_bytes: load.p_memsz });
    }
    segments.sort_by_key(|segment| segment.ipa);
    for pair in segments.windows(2) {
        if let [low, high] = pair
            && low.ipa.0 + low.memory_bytes > high.ipa.0
        {
            return Err(PayloadError::Overlap(high.ipa));
        }
    }
    let entry = loads()
        .find_map(|load| entry_in(&load, header.e_entry))
        .ok_or(PayloadError::EntryOutside(header.e_entry))?;
    Ok(Payload { kind: Kind::Elf, segments, entry: Ipa(entry.wrapping_add(bias)), end })
}

/// Whether the file names a library that it wants beside it.
fn needs_library(elf: &ElfBytes<'_, AnyEndian>) -> Result<bool, PayloadError> {
    let dynamic = elf.dynamic()?;
    Ok(dynamic.is_some_and(|table| table.iter().any(|entry| entry.d_tag == DT_NEEDED)))
}

/// The physical address of the entry point, if it is in this segment: the ELF header has a virtual one.
fn entry_in(segment: &ProgramHeader, entry: u64) -> Option<u64> {
    let offset = entry.checked_sub(segment.p_vaddr)?;
    (offset < segment.p_memsz).then(|| segment.p_paddr.wrapping_add(offset))
}
