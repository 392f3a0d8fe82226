use super::*;
use crate::machine::{RAM_BASE, ram};
use shared_abi::addr::PAGE_SIZE;

fn place(file: &[u8]) -> Result<Payload<'_>, PayloadError> {
    Payload::place(file, ram(64 << 20).unwrap())
}

/// An arm64 Image of one page.
fn image_file(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
    let mut file = vec![0; 4096];
    file[8..16].copy_from_slice(&text_offset.to_le_bytes());
    file[16..24].copy_from_slice(&image_size.to_le_bytes());
    file[24..32].copy_from_slice(&flags.to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

/// A program header: type, file offset, address, file size, memory size.
type Header = (u32, u64, u64, u64, u64);

/// A 64-bit little-endian ELF file of 4 KiB with these program headers.
fn elf_file(kind: u16, machine: u16, entry: u64, headers: &[Header]) -> Vec<u8> {
    const EHDR_BYTES: usize = 64;
    const PHDR_BYTES: usize = 56;
    let mut file = vec![0; 4096];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &kind.to_le_bytes());
    put(18, &machine.to_le_bytes());
    put(20, &1_u32.to_le_bytes());
    put(24, &entry.to_le_bytes());
    put(32, &(EHDR_BYTES as u64).to_le_bytes());
    put(52, &(EHDR_BYTES as u16).to_le_bytes());
    put(54, &(PHDR_BYTES as u16).to_le_bytes());
    put(56, &(headers.len() as u16).to_le_bytes());
    for (n, (kind, offset, address, in_file, in_memory)) in headers.iter().enumerate() {
        let at = EHDR_BYTES + n * PHDR_BYTES;
        put(at, &kind.to_le_bytes());
        for (field, value) in
            [offset, address, address, in_file, in_memory, &PAGE_SIZE].into_iter().enumerate()
        {
            put(at + 8 + 8 * field, &value.to_le_bytes());
        }
    }
    file
}

const AARCH64: u16 = 183;
const EXEC: u16 = 2;
const DYN: u16 = 3;
const LOAD: u32 = 1;
const INTERP: u32 = 3;

#[test]
fn what_is_no_payload_is_named() {
    assert_eq!(place(b""), Err(PayloadError::Empty));
    assert_eq!(place(b"\x1f\x8b\x08"), Err(PayloadError::Gzip));
    assert_eq!(place(b"MZ\0\0zimg"), Err(PayloadError::Zboot));
    let mut pe = vec![0; 256];
    pe[..2].copy_from_slice(b"MZ");
    pe[0x3c] = 0x80;
    pe[0x80..0x86].copy_from_slice(b"PE\0\0\x64\x86");
    assert_eq!(place(&pe), Err(PayloadError::ForeignPe(0x8664)));
    pe[0x3c..0x40].fill(0xff);
    assert_eq!(place(&pe).map(|payload| payload.kind), Ok(Kind::Flat));
}

#[test]
fn a_flat_binary_starts_at_its_first_byte() {
    let payload = place(b"x").unwrap();
    assert_eq!(payload.kind, Kind::Flat);
    assert_eq!(payload.entry, Ipa(0x4020_0000));
    assert_eq!(payload.end, Ipa(0x4020_0001));
}

#[test]
fn an_image_takes_the_memory_that_it_asks_for() {
    let file = image_file(0x1000, 0x10_0000, 0xa);
    let payload = place(&file).unwrap();
    assert_eq!(payload.kind, Kind::Image);
    assert_eq!(payload.entry, Ipa(0x4020_1000));
    assert_eq!(payload.end, Ipa(0x4030_1000));
    let old = image_file(0, 0, 0);
    assert_eq!(place(&old).unwrap().entry, Ipa(0x4028_0000));
}

#[test]
fn bad_images_are_refused() {
    assert_eq!(place(&image_file(0, 0x1000, 1)), Err(PayloadError::BigEndianImage));
    for offset in [1, 0x20_0000, u64::MAX] {
        let file = image_file(offset, 0x1000, 0);
        assert_eq!(place(&file), Err(PayloadError::BadTextOffset(offset)));
    }
    for size in [64 << 20, u64::MAX] {
        let file = image_file(0, size, 0);
        assert!(matches!(place(&file), Err(PayloadError::TooLarge { .. })));
    }
}

#[test]
fn an_executable_goes_where_it_was_linked() {
    let base = RAM_BASE.0 + 0x8_0000;
    let file = elf_file(
        EXEC,
        AARCH64,
        base + 8,
        &[(LOAD, 0x800, base + 0x2000, 0x10, 0x3000), (LOAD, 0x400, base, 0x100, 0x100)],
    );
    let payload = place(&file).unwrap();
    assert_eq!(payload.kind, Kind::Elf);
    assert_eq!(payload.entry, Ipa(base + 8));
    assert_eq!(payload.end, Ipa(base + 0x5000));
    assert_eq!(payload.segments[0].ipa, Ipa(base));
    assert_eq!(payload.segments[0].data.len(), 0x100);
}

#[test]
fn a_position_independent_executable_goes_above_2_mib() {
    let file = elf_file(DYN, AARCH64, 0x1010, &[(LOAD, 0, 0x1000, 0x100, 0x100)]);
    let payload = place(&file).unwrap();
    assert_eq!(payload.segments[0].ipa, PAYLOAD_BASE);
    assert_eq!(payload.entry, Ipa(PAYLOAD_BASE.0 + 0x10));
}

#[test]
fn bad_elf_files_are_refused() {
    let base = RAM_BASE.0;
    let good = (LOAD, 0, base, 0x100, 0x100);
    let refused = |kind, machine, entry, headers: &[Header]| {
        place(&elf_file(kind, machine, entry, headers)).unwrap_err()
    };
    assert_eq!(refused(EXEC, 62, base, &[good]), PayloadError::ForeignElf(62));
    assert_eq!(refused(1, AARCH64, base, &[good]), PayloadError::NoExecutable(1));
    assert_eq!(refused(DYN, AARCH64, 0, &[good, (INTERP, 0, 0, 8, 8)]), PayloadError::DynamicElf);
    assert_eq!(refused(EXEC, AARCH64, base + 0x100, &[good]), PayloadError::EntryOutside(base + 0x100));
    assert_eq!(refused(EXEC, AARCH64, base, &[]), PayloadError::DamagedElf);
    assert_eq!(
        refused(EXEC, AARCH64, base, &[good, (LOAD, 0, base + 0xff, 1, 1)]),
        PayloadError::Overlap(Ipa(base + 0xff))
    );
    assert_eq!(refused(EXEC, AARCH64, 0x1000, &[(LOAD, 0, 0x1000, 1, 1)]), PayloadError::BelowRam(0x1000));
    for (address, size) in [(base + (64 << 20) - 1, 2), (u64::MAX, 1), (base, u64::MAX)] {
        assert!(matches!(
            refused(EXEC, AARCH64, address, &[(LOAD, 0, address, 1, size)]),
            PayloadError::TooLarge { .. }
        ));
    }
    assert_eq!(refused(EXEC, AARCH64, base, &[(LOAD, 4096, base, 1, 1)]), PayloadError::DamagedElf);
    assert_eq!(refused(EXEC, AARCH64, base, &[(LOAD, 0, base, 2, 1)]), PayloadError::DamagedElf);

    let file = elf_file(EXEC, AARCH64, base, &[good]);
    for bytes in 4..120 {
        assert!(place(&file[..bytes]).is_err(), "{bytes} bytes");
    }
    let mut narrow = file.clone();
    narrow[4] = 1;
    assert!(place(&narrow).is_err());
    let mut big_endian = file;
    big_endian[5] = 2;
    assert!(place(&big_endian).is_err());
}
