use super::*;

const RAM: Range<u64> = 0x4000_0000..0x5000_0000;

fn layout() -> Layout {
    Layout {
        text: 0x4020_0000..0x4020_5000,
        rodata: 0x4020_5000..0x4020_7000,
        data: 0x4020_7000..0x4040_0000,
    }
}

fn stage1() -> Stage1 {
    Stage1::with_tables(Tables::leaked(20), &layout()).unwrap()
}

fn attributes(stage1: &Stage1, address: u64) -> Option<El1Attributes> {
    let address = address as usize;
    let mut found = Vec::new();
    stage1
        .mapping
        .walk_range(&MemoryRegion::new(address, address + PAGE_SIZE), &mut |_, descriptor, _| {
            found.push((descriptor.is_valid(), descriptor.flags()));
            Ok(())
        })
        .unwrap();
    let [(valid, flags)] = found[..] else {
        panic!("{found:?}");
    };
    valid.then_some(flags - El1Attributes::TABLE_OR_PAGE)
}

#[test]
fn nothing_is_writable_and_executable() {
    let mut stage1 = stage1();
    stage1.map_ram(RAM).unwrap();
    stage1.map_device(0x0900_0000..0x0900_1000).unwrap();
    for (address, expected) in [
        (RAM.start, DATA),
        (0x4020_0000, TEXT),
        (0x4020_4000, TEXT),
        (0x4020_5000, RODATA),
        (0x4020_7000, DATA),
        (0x4040_0000, DATA),
        (RAM.end - 0x1000, DATA),
        (0x0900_0000, DEVICE),
    ] {
        assert_eq!(attributes(&stage1, address), Some(expected), "{address:#x}");
    }
    assert_eq!(attributes(&stage1, RAM.end), None);
    assert_eq!(attributes(&stage1, 0x0900_1000), None);
}

#[test]
fn a_device_is_never_mapped_over_ram_nor_the_other_way_round() {
    let mut stage1 = stage1();
    stage1.map_ram(RAM).unwrap();
    for range in [0x4000_0000..0x4000_1000, 0x4020_0000..0x4020_1000, 0x4fff_f000..0x5000_1000] {
        assert_eq!(stage1.map_device(range.clone()), Err(Error::Mapped(range.clone())));
    }
    stage1.map_device(0x0a00_0000..0x0a00_1000).unwrap();
    stage1.map_device(0x0a00_0000..0x0a00_2000).unwrap();
    let range = 0x0a00_0000..0x0a20_0000;
    assert_eq!(stage1.map_ram(range.clone()), Err(Error::Mapped(range)));
    assert_eq!(attributes(&stage1, 0x4020_0000), Some(TEXT));
}

#[test]
fn ranges_are_whole_pages_below_the_limit() {
    let mut stage1 = stage1();
    for range in [
        0x0900_0000..0x0900_0000,
        0x0900_0001..0x0900_1000,
        0x0900_0000..0x0900_0fff,
        0x0..0x80_0000_1000,
        0xffff_ffff_ffff_f000..u64::MAX,
    ] {
        assert_eq!(stage1.map_device(range.clone()), Err(Error::Range(range.clone())));
    }
}

#[test]
fn running_out_of_tables_is_an_error() {
    let mut stage1 = stage1();
    let refused = (1..100_u64)
        .map(|gigabyte| stage1.map_device(gigabyte << 31..(gigabyte << 31) + 0x1000))
        .find_map(Result::err);
    assert_eq!(refused, Some(Error::OutOfTables));
}

#[test]
fn there_is_one_set_of_tables() {
    assert!(Stage1::new(&layout()).is_ok());
    assert_eq!(Stage1::new(&layout()).err(), Some(Error::Taken));
}
