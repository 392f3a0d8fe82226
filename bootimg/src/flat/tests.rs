use super::*;

/// A segment of a made-up ELF file.
struct Segment {
    address: u64,
    content: Vec<u8>,
    memory_bytes: u64,
}

/// An ELF file as the linker makes them here, with these segments.
fn elf_file(machine: u16, segments: &[Segment]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const ENTRY: u64 = 56;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(ET_DYN.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend(0_u64.to_le_bytes()); // e_entry
    file.extend(HEADER.to_le_bytes()); // e_phoff
    file.extend(0_u64.to_le_bytes()); // e_shoff
    file.extend(0_u32.to_le_bytes()); // e_flags
    for half in [HEADER as u16, ENTRY as u16, segments.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = HEADER + ENTRY * segments.len() as u64;
    for segment in segments {
        file.extend(PT_LOAD.to_le_bytes());
        file.extend(5_u32.to_le_bytes());
        let bytes = segment.content.len() as u64;
        for word in [offset, segment.address, segment.address, bytes, segment.memory_bytes, 4096] {
            file.extend(word.to_le_bytes());
        }
        offset += bytes;
    }
    for segment in segments {
        file.extend(&segment.content);
    }
    file
}

fn image_header(image_size: u64) -> Vec<u8> {
    let mut header = vec![0; arm64::HEADER_BYTES];
    header[16..24].copy_from_slice(&image_size.to_le_bytes());
    header[56..60].copy_from_slice(b"ARM\x64");
    header
}

fn text_and_data(image_size: u64) -> [Segment; 2] {
    [
        Segment { address: 0, content: image_header(image_size), memory_bytes: 64 },
        Segment { address: 0x1000, content: vec![0xdd; 16], memory_bytes: 0x2000 },
    ]
}

#[test]
fn segments_lie_where_they_are_linked() {
    let image = FlatImage::new(&elf_file(EM_AARCH64, &text_and_data(0x3000))).unwrap();
    assert_eq!(image.memory_bytes(), 0x3000);
    assert_eq!(image.bytes().len(), 0x1010, ".bss is not in the file");
    assert_eq!(image.bytes()[..64], image_header(0x3000));
    assert!(image.bytes()[64..0x1000].iter().all(|byte| *byte == 0));
    assert_eq!(image.bytes()[0x1000..], [0xdd; 16]);
}

#[test]
fn an_image_stays_as_it_is() {
    let image = FlatImage::new(&image_header(4096)).unwrap();
    assert_eq!(image.bytes(), image_header(4096));
    assert_eq!(image.memory_bytes(), 4096);
}

#[test]
fn other_files_are_refused() {
    assert_eq!(FlatImage::new(b"#!/bin/sh\n"), Err(FlatError::NeitherElfNorImage));
    assert_eq!(FlatImage::new(&elf_file(62, &text_and_data(0x3000))), Err(FlatError::OtherMachine));
    let mut fixed_address = elf_file(EM_AARCH64, &text_and_data(0x3000));
    fixed_address[16] = 2;
    assert_eq!(FlatImage::new(&fixed_address), Err(FlatError::OtherMachine));
    let no_header = [Segment { address: 0, content: vec![0; 64], memory_bytes: 64 }];
    assert_eq!(FlatImage::new(&elf_file(EM_AARCH64, &no_header)), Err(FlatError::NoHeader));
}

#[test]
fn a_header_that_forgets_bss_is_refused() {
    assert_eq!(
        FlatImage::new(&elf_file(EM_AARCH64, &text_and_data(0x1010))),
        Err(FlatError::ImageSize { stated: 0x1010, needed: 0x3000 })
    );
}

#[test]
fn segments_out_of_order_or_out_of_bounds_are_refused() {
    for (address, memory_bytes) in [(0x20, 0x2000), (u64::MAX, 0x2000), (0x1000, u64::MAX), (0x1000, 8)] {
        let mut segments = text_and_data(0x3000);
        segments[1].address = address;
        segments[1].memory_bytes = memory_bytes;
        assert_eq!(FlatImage::new(&elf_file(EM_AARCH64, &segments)), Err(FlatError::Segment(address)));
    }
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let file = elf_file(EM_AARCH64, &text_and_data(0x3000));
    for length in 0..file.len() {
        assert!(FlatImage::new(&file[..length]).is_err(), "{length} bytes");
    }
}
