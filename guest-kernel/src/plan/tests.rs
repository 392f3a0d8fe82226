use super::*;
use proptest::prelude::*;

/// A plan for `disk`, as the tool writes it.
fn plan_of(disk: &[u8], write: Range<u64>) -> Vec<u8> {
    let geometry = Geometry::new(disk.len() as u64, write).unwrap();
    let mut plan = geometry.header().to_vec();
    for block in disk.chunks(BLOCK_BYTES as usize) {
        plan.extend_from_slice(&digest(block).0);
    }
    assert_eq!(plan.len() as u64, geometry.plan_bytes());
    plan
}

fn disk(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 7) as u8).collect()
}

#[test]
fn a_plan_reads_back_as_it_was_written() {
    let disk = disk(2 * BLOCK_BYTES as usize + 512);
    let mut bytes = plan_of(&disk, BLOCK_BYTES..disk.len() as u64);
    bytes.extend_from_slice(&[0; 100]);
    let plan = Plan::parse(&bytes).unwrap();
    let geometry = plan.geometry();
    assert_eq!(geometry.disk_bytes(), disk.len() as u64);
    assert_eq!(geometry.blocks(), 3);
    assert_eq!(geometry.block(2), 2 * BLOCK_BYTES..2 * BLOCK_BYTES + SECTOR_BYTES);
    assert!(geometry.block(3).is_empty());
    assert_eq!([0, 1, 2, 3].map(|index| geometry.is_written(index)), [false, true, true, false]);
    let digests: Vec<_> = plan.digests().collect();
    assert_eq!(digests.len(), 3);
    for (index, expected) in digests {
        let block = geometry.block(index);
        assert_eq!(digest(&disk[block.start as usize..block.end as usize]), expected);
    }
}

#[test]
fn each_bad_field_is_named() {
    let good = plan_of(&disk(BLOCK_BYTES as usize), 0..0);
    assert!(Plan::parse(&good).is_ok());
    type Case = (usize, &'static [u8], Error);
    let cases: [Case; 7] = [
        (0, b"X", Error::Magic),
        (8, &[2], Error::Version(2)),
        (12, &[1], Error::BlockSize(0x1_0001)),
        (16, &[2], Error::BlockCount(2)),
        (24, &[1], Error::DiskSize(BLOCK_BYTES + 1)),
        (32, &[0xff; 8], Error::WriteRegion { offset: u64::MAX, bytes: 0 }),
        (40, &[1], Error::WriteRegion { offset: 0, bytes: 1 }),
    ];
    for (offset, patch, expected) in cases {
        let mut bytes = good.clone();
        bytes[offset..offset + patch.len()].copy_from_slice(patch);
        assert_eq!(Plan::parse(&bytes).err(), Some(expected));
    }
    for length in 0..good.len() {
        assert_eq!(Plan::parse(&good[..length]).err(), Some(Error::Truncated));
    }
}

#[test]
fn a_region_is_whole_blocks_of_the_disk() {
    let disk = 3 * BLOCK_BYTES;
    for write in [0..0, 0..disk, BLOCK_BYTES..2 * BLOCK_BYTES] {
        assert!(Geometry::new(disk, write).is_ok());
    }
    for write in
        [0..1, 1..BLOCK_BYTES, 2 * BLOCK_BYTES..disk + BLOCK_BYTES, BLOCK_BYTES..u64::MAX, disk + 1..disk + 1]
    {
        assert!(Geometry::new(disk, write.clone()).is_err(), "{write:?}");
    }
    assert_eq!(Geometry::new(0, 0..0), Err(Error::DiskSize(0)));
    assert_eq!(Geometry::new(513, 0..0), Err(Error::DiskSize(513)));
}

#[test]
fn the_complement_of_the_complement_is_the_content() {
    let mut content = disk(1000);
    complement(&mut content);
    assert_eq!(content[1], !7);
    complement(&mut content);
    assert_eq!(content, disk(1000));
}

proptest! {
    #[test]
    fn any_bytes_parse_or_are_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        keep in 0..=48_usize,
    ) {
        // A good header up to `keep`, so that the checks behind the magic are reached.
        let mut bytes = bytes;
        let header = Geometry::new(3 * 512, 0..3 * 512).unwrap().header();
        let keep = keep.min(bytes.len());
        bytes[..keep].copy_from_slice(&header[..keep]);
        if let Ok(plan) = Plan::parse(&bytes) {
            prop_assert_eq!(plan.digests().count() as u64, plan.geometry().blocks());
            let end = plan.geometry().block(plan.geometry().blocks() - 1).end;
            prop_assert_eq!(end, plan.geometry().disk_bytes());
        }
    }

    #[test]
    fn headers_round_trip(sectors in 1..10_000_u64, from in 0..100_u64, to in 0..100_u64) {
        let disk = sectors * SECTOR_BYTES;
        let write = (from * BLOCK_BYTES).min(disk)..(to * BLOCK_BYTES).min(disk);
        if let Ok(geometry) = Geometry::new(disk, write) {
            let mut bytes = geometry.header().to_vec();
            bytes.resize(geometry.plan_bytes() as usize, 0xa5);
            let plan = Plan::parse(&bytes).unwrap();
            prop_assert_eq!(plan.geometry(), &geometry);
        }
    }
}
