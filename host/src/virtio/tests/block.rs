//! The disk's requests.

use shared_abi::addr::{Ipa, PAGE_SIZE, Pfn};

use super::{DATA, DESCRIPTORS, Driver, END, WRITE, queue};
use crate::memory::HostMemory;
use crate::testing::{FIRST, RamDisk};
use crate::virtio::block::Block;
use crate::virtio::queue::QueueError;

/// A request's header: type and sector.
pub(super) fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const BUFFER: Ipa = Ipa(DATA.0 + 0x1000);
const STATUS: Ipa = Ipa(DATA.0 + 0x100);

/// Serves one request; its status, and how many bytes were written.
fn serve(
    driver: &mut Driver,
    block: &mut Block<RamDisk>,
    header: [u8; 16],
    data: &[(Ipa, u32, u16)],
) -> (u8, u32) {
    driver.put(DATA, &header);
    driver.put(STATUS, &[0xff]);
    let mut buffers = vec![(DATA, 16, 0)];
    buffers.extend(data);
    buffers.push((STATUS, 1, WRITE));
    driver.available = 0;
    driver.chain(&buffers, 16);
    let mut queue = queue(16);
    let served = block.serve(&mut queue, &driver.memory()).unwrap();
    assert_eq!((served.requests, served.interrupt), (1, true));
    let (head, written) = driver.used(0, 16);
    assert_eq!(head, 0);
    (driver.get::<1>(STATUS)[0], written)
}

#[test]
fn blocks_are_read_and_written() {
    let mut driver = Driver::new();
    let mut block = Block::new(RamDisk::new(512));
    let bytes = 200 * 512;
    let split = [(BUFFER, 700, WRITE), (Ipa(BUFFER.0 + 700), bytes - 700, WRITE)];
    assert_eq!(serve(&mut driver, &mut block, header(IN, 3), &split), (0, bytes + 1));
    let expected = RamDisk::new(512).bytes[3 * 512..][..bytes as usize].to_vec();
    let mut read = vec![0; bytes as usize];
    driver.memory().read(BUFFER, &mut read).unwrap();
    assert!(read == expected);

    driver.put(BUFFER, &[0x77; 512]);
    assert_eq!(serve(&mut driver, &mut block, header(OUT, 511), &[(BUFFER, 512, 0)]), (0, 1));
    driver.put(BUFFER, &[0; 512]);
    assert_eq!(serve(&mut driver, &mut block, header(IN, 511), &[(BUFFER, 512, WRITE)]), (0, 513));
    assert_eq!(driver.get(BUFFER), [0x77; 512]);
    assert_eq!(serve(&mut driver, &mut block, header(FLUSH, 0), &[]), (0, 1));
    assert_eq!(serve(&mut driver, &mut block, header(GET_ID, 0), &[(BUFFER, 20, WRITE)]), (0, 21));
    assert_eq!(&driver.get::<9>(BUFFER), b"cloister\0");
}

#[test]
fn requests_that_can_not_be_are_errors() {
    const IO_ERROR: u8 = 1;
    const UNSUPPORTED: u8 = 2;
    let mut driver = Driver::new();
    let mut block = Block::new(RamDisk::new(8));
    for (header, buffer) in [
        (header(IN, 8), (BUFFER, 512, WRITE)),
        (header(IN, 7), (BUFFER, 1024, WRITE)),
        (header(IN, u64::MAX), (BUFFER, 512, WRITE)),
        (header(IN, 0), (BUFFER, 511, WRITE)),
        (header(IN, 0), (BUFFER, u32::MAX, WRITE)),
        (header(OUT, 8), (BUFFER, 512, 0)),
        (header(IN, 0), (END, 512, WRITE)),
        (header(OUT, 0), (END, 512, 0)),
    ] {
        assert_eq!(serve(&mut driver, &mut block, header, &[buffer]).0, IO_ERROR, "{header:?}");
    }
    let (status, _) = serve(&mut driver, &mut block, header(11, 0), &[(BUFFER, 512, 0)]);
    assert_eq!(status, UNSUPPORTED);

    let before = RamDisk::new(8);
    let mut read_only = Block::new(RamDisk { read_only: true, ..before });
    let (status, _) = serve(&mut driver, &mut read_only, header(OUT, 0), &[(BUFFER, 512, 0)]);
    assert_eq!(status, IO_ERROR);
    let mut broken = Block::new(RamDisk { broken: true, ..RamDisk::new(8) });
    for (kind, flags) in [(IN, WRITE), (OUT, 0)] {
        let buffer = [(BUFFER, 512, flags)];
        assert_eq!(serve(&mut driver, &mut broken, header(kind, 0), &buffer).0, IO_ERROR);
    }
    assert_eq!(serve(&mut driver, &mut broken, header(FLUSH, 0), &[]).0, IO_ERROR);
}

#[test]
fn a_private_buffer_is_never_written() {
    let mut driver = Driver::new();
    let mut block = Block::new(RamDisk::new(8));
    let page = FIRST + (BUFFER.0 - DESCRIPTORS.0) / PAGE_SIZE;
    driver.machine.0.borrow_mut().private.insert(page);
    let (status, _) = serve(&mut driver, &mut block, header(IN, 0), &[(BUFFER, 512, WRITE)]);
    assert_eq!(status, 1);
    driver.machine.0.borrow_mut().private.clear();
    let mut content = [0; 512];
    driver.machine.read(Pfn(page).base(), &mut content).unwrap();
    assert_eq!(content, [0xee; 512]);
}

#[test]
fn a_request_without_header_or_status_breaks_the_queue() {
    for buffers in [
        &[(DATA, 16, 0)][..],
        &[(DATA, 15, 0), (STATUS, 1, WRITE)],
        &[(STATUS, 1, WRITE)],
        &[(DATA, 16, 0), (STATUS, 0, WRITE)],
    ] {
        let mut driver = Driver::new();
        driver.chain(buffers, 4);
        let mut block = Block::new(RamDisk::new(8));
        let refused = block.serve(&mut queue(4), &driver.memory()).unwrap_err();
        assert_eq!(refused, QueueError::Malformed);
    }
}
