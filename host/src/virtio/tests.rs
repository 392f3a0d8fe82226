//! Hand-made rings against the device side: what an honest driver does, and what a hostile one tries.

use proptest::prelude::*;
use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE, PageRange, Pfn};
use shared_abi::vcpu::AccessSize;

use super::block::{self, Block};
use super::console;
use super::feature;
use super::mmio::{Event, Registers};
use super::queue::{Areas, MAX_SIZE, Queue, QueueError};
use crate::memory::{GuestFault, GuestMemory, HostMemory};
use crate::testing::{FIRST, Machine, Printed, RamDisk};
use crate::vm::pages::{PageMap, Run};

const DESCRIPTORS: Ipa = Ipa(0x4000_0000);
const DRIVER: Ipa = Ipa(0x4000_1000);
const DEVICE: Ipa = Ipa(0x4000_2000);
const DATA: Ipa = Ipa(0x4001_0000);
/// The guest's pages end here.
const END: Ipa = Ipa(0x4010_0000);

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A descriptor: address, length, flags, next.
type Descriptor = (Ipa, u32, u16, u16);

/// A guest's memory, and the driver's side of one queue in it.
struct Driver {
    machine: Machine,
    pages: PageMap,
    available: u16,
}

impl Driver {
    fn new() -> Self {
        let mut pages = PageMap::new(PageRange::<Gfn>::new(DESCRIPTORS.page(), 0x100).unwrap()).unwrap();
        pages.insert(Run {
            gfn: DESCRIPTORS.page(),
            pfn: Pfn(FIRST),
            pages: END.page().0 - DESCRIPTORS.page().0,
        });
        let driver = Self { machine: Machine::new(), pages, available: 0 };
        for page in [DESCRIPTORS, DRIVER, DEVICE] {
            driver.put(page, &[0; PAGE_SIZE as usize]);
        }
        driver
    }

    fn memory(&self) -> GuestMemory<'_, Machine> {
        GuestMemory::new(&self.pages, &self.machine)
    }

    fn put(&self, at: Ipa, bytes: &[u8]) {
        self.memory().write(at, bytes).unwrap();
    }

    fn get<const N: usize>(&self, at: Ipa) -> [u8; N] {
        self.memory().read_bytes(at).unwrap()
    }

    fn describe(&self, index: u16, (ipa, bytes, flags, next): Descriptor) {
        let mut raw = ipa.0.to_le_bytes().to_vec();
        raw.extend(bytes.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend(next.to_le_bytes());
        self.put(Ipa(DESCRIPTORS.0 + 16 * u64::from(index)), &raw);
    }

    /// Makes a chain available that starts at `head`.
    fn offer(&mut self, head: u16, size: u16) {
        let slot = u64::from(self.available % size);
        self.put(Ipa(DRIVER.0 + 4 + 2 * slot), &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.put(Ipa(DRIVER.0 + 2), &self.available.to_le_bytes());
    }

    /// Offers the descriptors as one chain from descriptor 0 on.
    fn chain(&mut self, buffers: &[(Ipa, u32, u16)], size: u16) {
        for (index, (ipa, bytes, flags)) in (0..).zip(buffers) {
            let more = usize::from(index) + 1 < buffers.len();
            let next = if more { NEXT } else { 0 };
            self.describe(index, (*ipa, *bytes, flags | next, index + 1));
        }
        self.offer(0, size);
    }

    /// The last element that the device used: head, bytes written.
    fn used(&self, index: u16, size: u16) -> (u32, u32) {
        assert_eq!(u16::from_le_bytes(self.get(Ipa(DEVICE.0 + 2))), index + 1);
        let at = DEVICE.0 + 4 + 8 * u64::from(index % size);
        let head = u32::from_le_bytes(self.get(Ipa(at)));
        (head, u32::from_le_bytes(self.get(Ipa(at + 4))))
    }
}

fn queue(size: u16) -> Queue {
    Queue::new(&Areas { size: size.into(), descriptors: DESCRIPTORS, driver: DRIVER, device: DEVICE })
        .unwrap()
}

#[test]
fn a_queue_has_a_power_of_two_of_descriptors() {
    for size in [0, 3, 6, u32::from(MAX_SIZE) + 1, 0x1_0000, 0x1_0001, u32::MAX] {
        let areas = Areas { size, descriptors: DESCRIPTORS, driver: DRIVER, device: DEVICE };
        assert_eq!(Queue::new(&areas).unwrap_err(), QueueError::Size(size));
    }
}

#[test]
fn areas_are_aligned_and_end() {
    let good = Areas { size: 8, descriptors: DESCRIPTORS, driver: DRIVER, device: DEVICE };
    let bad = [
        Areas { descriptors: Ipa(DESCRIPTORS.0 + 8), ..good },
        Areas { driver: Ipa(DRIVER.0 + 1), ..good },
        Areas { device: Ipa(DEVICE.0 + 2), ..good },
        Areas { descriptors: Ipa(u64::MAX - 15), ..good },
        Areas { driver: Ipa(u64::MAX - 1), ..good },
        Areas { device: Ipa(u64::MAX - 3), ..good },
    ];
    for areas in bad {
        assert!(matches!(Queue::new(&areas), Err(QueueError::Area(_))), "{areas:?}");
    }
}

#[test]
fn a_chain_that_does_not_end_is_refused() {
    let mut driver = Driver::new();
    driver.describe(0, (DATA, 1, NEXT, 1));
    driver.describe(1, (DATA, 1, NEXT, 0));
    driver.offer(0, 4);
    let refused = queue(4).pop(&driver.memory()).unwrap_err();
    assert_eq!(refused, QueueError::Endless);
}

#[test]
fn an_index_is_inside_the_table() {
    let mut driver = Driver::new();
    driver.offer(4, 4);
    let refused = queue(4).pop(&driver.memory()).unwrap_err();
    assert_eq!(refused, QueueError::NoDescriptor(4));

    let mut driver = Driver::new();
    driver.describe(0, (DATA, 1, NEXT, 0xffff));
    driver.offer(0, 4);
    let refused = queue(4).pop(&driver.memory()).unwrap_err();
    assert_eq!(refused, QueueError::NoDescriptor(0xffff));
}

#[test]
fn the_available_index_does_not_jump() {
    for jump in [5_u16, 0x8000, 0xffff] {
        let driver = Driver::new();
        driver.put(Ipa(DRIVER.0 + 2), &jump.to_le_bytes());
        let refused = queue(4).pop(&driver.memory()).unwrap_err();
        assert_eq!(refused, QueueError::IndexJump(jump));
    }
}

#[test]
fn buffers_are_in_order_and_end() {
    let cases = [
        ((DATA, 1, INDIRECT, 0), QueueError::Flags(INDIRECT)),
        ((DATA, 1, 0x80, 0), QueueError::Flags(0x80)),
        ((Ipa(u64::MAX), 1, 0, 0), QueueError::Buffer(Ipa(u64::MAX))),
    ];
    for (descriptor, error) in cases {
        let mut driver = Driver::new();
        driver.describe(0, descriptor);
        driver.offer(0, 4);
        assert_eq!(queue(4).pop(&driver.memory()).unwrap_err(), error);
    }
    let mut driver = Driver::new();
    driver.chain(&[(DATA, 1, WRITE), (DATA, 1, 0)], 4);
    let refused = queue(4).pop(&driver.memory()).unwrap_err();
    assert_eq!(refused, QueueError::Order);
}

#[test]
fn a_queue_outside_shared_memory_is_refused() {
    let driver = Driver::new();
    driver.machine.0.borrow_mut().private.insert(FIRST + 1);
    let refused = queue(4).pop(&driver.memory()).unwrap_err();
    assert_eq!(refused, QueueError::Memory(GuestFault::Private(Ipa(DRIVER.0 + 2))));

    let mut areas = Areas { size: 4, descriptors: DESCRIPTORS, driver: END, device: DEVICE };
    let driver = Driver::new();
    let refused = Queue::new(&areas).unwrap().pop(&driver.memory()).unwrap_err();
    assert_eq!(refused, QueueError::Memory(GuestFault::Absent(Ipa(END.0 + 2))));
    areas.driver = Ipa(0);
    assert!(Queue::new(&areas).unwrap().pop(&driver.memory()).is_err());
}

#[test]
fn indices_wrap_around() {
    let mut driver = Driver::new();
    let mut queue = queue(4);
    driver.describe(2, (DATA, 1, 0, 0));
    for round in 0..0x1_0010_u32 {
        driver.offer(2, 4);
        let chain = queue.pop(&driver.memory()).unwrap().unwrap();
        queue.push(chain.head, round, &driver.memory()).unwrap();
    }
    assert_eq!(driver.used(0xf, 4), (2, 0x1_000f));
    assert!(queue.pop(&driver.memory()).unwrap().is_none());
}

#[test]
fn memory_is_reached_across_pages() {
    let driver = Driver::new();
    let at = Ipa(DATA.0 + PAGE_SIZE - 3);
    driver.put(at, &[1, 2, 3, 4, 5, 6]);
    assert_eq!(driver.get(at), [1, 2, 3, 4, 5, 6]);
    driver.machine.0.borrow_mut().private.insert(FIRST + 0x11);
    let fault = driver.memory().write(at, &[0; 6]).unwrap_err();
    assert_eq!(fault, GuestFault::Private(Ipa(DATA.0 + PAGE_SIZE)));
    let last = Ipa(END.0 - 1);
    let fault = driver.memory().read(last, &mut [0; 2]).unwrap_err();
    assert_eq!(fault, GuestFault::Absent(END));
    let mut pages = PageMap::new(PageRange::<Gfn>::new(Gfn(0), 1).unwrap()).unwrap();
    pages.insert(Run { gfn: Gfn(0), pfn: Pfn(FIRST), pages: 1 });
    assert!(GuestMemory::new(&pages, &driver.machine).read(Ipa(u64::MAX), &mut [0; 2]).is_err());
}

/// A request's header: type and sector.
fn header(kind: u32, sector: u64) -> [u8; 16] {
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

#[test]
fn the_console_prints_what_is_sent() {
    let mut driver = Driver::new();
    let printed = Printed::default();
    let text: Vec<u8> = (0..2000).map(|n| n as u8).collect();
    driver.put(DATA, &text);
    driver.chain(&[(DATA, 1500, 0), (Ipa(DATA.0 + 1500), 500, 0)], 4);
    let served = console::transmit(&mut queue(4), &driver.memory(), &mut printed.clone()).unwrap();
    assert_eq!(*printed.0.borrow(), text);
    assert_eq!((served.copied_bytes, served.requests, served.interrupt), (2000, 1, true));

    let mut driver = Driver::new();
    driver.put(DRIVER, &1_u16.to_le_bytes());
    driver.chain(&[(DATA, 1, 0)], 4);
    let served = console::transmit(&mut queue(4), &driver.memory(), &mut printed.clone()).unwrap();
    assert!(!served.interrupt);

    let mut driver = Driver::new();
    driver.chain(&[(DATA, u32::MAX, 0)], 4);
    assert!(console::transmit(&mut queue(4), &driver.memory(), &mut printed.clone()).is_err());
}

/// Registers as a driver uses them (virtio 1.3, 4.2.2).
mod register {
    pub(super) const DEVICE_FEATURES: u64 = 0x10;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(super) const QUEUE_SEL: u64 = 0x30;
    pub(super) const QUEUE_NUM: u64 = 0x38;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const QUEUE_NOTIFY: u64 = 0x50;
    pub(super) const INTERRUPT_STATUS: u64 = 0x60;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x80;
}

fn write(registers: &mut Registers, offset: u64, value: u32) -> Event {
    registers.write(offset, AccessSize::Word, value.into())
}

fn read(registers: &Registers, offset: u64) -> u64 {
    registers.read(offset, AccessSize::Word)
}

/// Negotiates features; the status that the driver reads back.
fn negotiate(registers: &mut Registers, features: u64) -> u64 {
    write(registers, register::STATUS, 0);
    write(registers, register::STATUS, 3);
    for half in 0..2 {
        write(registers, register::DRIVER_FEATURES_SEL, half);
        let word = (features >> (32 * half)) & 0xffff_ffff;
        registers.write(register::DRIVER_FEATURES, AccessSize::Word, word);
    }
    write(registers, register::STATUS, 0xb);
    read(registers, register::STATUS)
}

fn registers() -> Registers {
    Registers::new(block::DEVICE_ID, 0, block::QUEUES, vec![1, 2, 3])
}

#[test]
fn features_are_offered_and_required() {
    let mut registers = registers();
    write(&mut registers, register::DEVICE_FEATURES_SEL, 1);
    assert_eq!(read(&registers, register::DEVICE_FEATURES), 0b11);
    write(&mut registers, register::DEVICE_FEATURES_SEL, 2);
    assert_eq!(read(&registers, register::DEVICE_FEATURES), 0);
    assert_eq!(negotiate(&mut registers, feature::REQUIRED), 0xb);
    for features in [0, feature::VERSION_1, feature::ACCESS_PLATFORM, feature::REQUIRED | 1 << 28, u64::MAX] {
        assert_eq!(negotiate(&mut registers, features), 3, "{features:#x}");
        write(&mut registers, register::STATUS, 0xf);
        assert_eq!(read(&registers, register::STATUS), 3, "{features:#x}");
    }
}

#[test]
fn a_bad_queue_needs_a_reset() {
    let mut registers = registers();
    negotiate(&mut registers, feature::REQUIRED);
    write(&mut registers, register::QUEUE_NUM, 3);
    assert_eq!(write(&mut registers, register::QUEUE_READY, 1), Event::Interrupt);
    assert_eq!(read(&registers, register::QUEUE_READY), 0);
    assert_eq!(read(&registers, register::STATUS), 0x4b);
    assert_eq!(read(&registers, register::INTERRUPT_STATUS), 2);
    write(&mut registers, register::STATUS, 0);
    assert_eq!(read(&registers, register::STATUS), 0);
    assert_eq!(read(&registers, register::INTERRUPT_STATUS), 0);
}

#[test]
fn a_doorbell_counts_once_the_driver_is_ready() {
    let mut registers = registers();
    assert_eq!(write(&mut registers, register::QUEUE_READY, 1), Event::None);
    negotiate(&mut registers, feature::REQUIRED);
    write(&mut registers, register::QUEUE_NUM, 8);
    write(&mut registers, register::QUEUE_DESC_LOW, 0x1000);
    assert_eq!(write(&mut registers, register::QUEUE_READY, 1), Event::None);
    assert_eq!(read(&registers, register::QUEUE_READY), 1);
    assert_eq!(write(&mut registers, register::QUEUE_NOTIFY, 0), Event::None);
    assert!(registers.queue(0).is_none());
    write(&mut registers, register::STATUS, 0xf);
    assert_eq!(write(&mut registers, register::QUEUE_NOTIFY, 0), Event::Doorbell(0));
    for other in [1, u32::MAX] {
        assert_eq!(write(&mut registers, register::QUEUE_NOTIFY, other), Event::None);
    }
    assert!(registers.queue(0).is_some());
    registers.needs_reset();
    assert!(registers.queue(0).is_none());
    assert_eq!(write(&mut registers, register::QUEUE_NOTIFY, 0), Event::None);
}

#[test]
fn no_access_to_registers_panics() {
    let mut registers = registers();
    for queue in [0, 1, u32::MAX] {
        write(&mut registers, register::QUEUE_SEL, queue);
        for offset in 0..0x1000 {
            for size in [AccessSize::Byte, AccessSize::Half, AccessSize::Word, AccessSize::Double] {
                registers.write(offset, size, size.mask());
                let _ = registers.read(offset, size);
            }
        }
    }
    assert_eq!(registers.read(0x100, AccessSize::Double), 0x03_0201);
    assert_eq!(registers.read(0x101, AccessSize::Byte), 2);
    assert_eq!(registers.read(0xfff, AccessSize::Double), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest writes into its rings, the device stays within what is shared.
    #[test]
    fn rings_of_anything_do_no_harm(
        raw in proptest::collection::vec(
            (0_u64..0x20_0000, 0_u32..0x3000, 0_u16..8, 0_u16..10),
            8,
        ),
        heads in proptest::collection::vec(0_u16..10, 8),
        ahead in 0_u16..10,
        request in (0_u32..10, 0_u64..80),
    ) {
        let driver = Driver::new();
        let private = FIRST + 0x20;
        driver.put(DATA, &header(request.0, request.1));
        driver.machine.0.borrow_mut().private.insert(private);
        for (index, (offset, bytes, flags, next)) in (0..).zip(&raw) {
            driver.describe(index, (Ipa(DESCRIPTORS.0 + offset), *bytes, *flags, *next));
        }
        for (slot, head) in (0..).zip(&heads) {
            driver.put(Ipa(DRIVER.0 + 4 + 2 * slot), &head.to_le_bytes());
        }
        driver.put(Ipa(DRIVER.0 + 2), &ahead.to_le_bytes());
        let mut block = Block::new(RamDisk::new(64));
        let _ = block.serve(&mut queue(8), &driver.memory());
        let _ = console::transmit(&mut queue(8), &driver.memory(), &mut Printed::default());
        driver.machine.0.borrow_mut().private.clear();
        let mut content = [0; 4096];
        driver.machine.read(Pfn(private).base(), &mut content).unwrap();
        prop_assert_eq!(content, [0xee; 4096]);
    }
}
