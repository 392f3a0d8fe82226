//! Hand-made rings against the device side: what an honest driver does, and what a hostile one tries.

mod block;
mod queue;
mod registers;

use proptest::prelude::*;
use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE, PageRange, Pfn};

use super::block::Block;
use super::console;
use super::queue::{Areas, Queue};
use crate::memory::{GuestMemory, HostMemory};
use crate::testing::{FIRST, FakeMachine, Printed, RamDisk};
use crate::vm::pages::{GuestRun, PageMap};
use block::header;

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
    machine: FakeMachine,
    pages: PageMap,
    available: u16,
}

impl Driver {
    fn new() -> Self {
        let mut pages = PageMap::new(PageRange::<Gfn>::new(DESCRIPTORS.page(), 0x100).unwrap()).unwrap();
        pages.insert(GuestRun {
            gfn: DESCRIPTORS.page(),
            pfn: Pfn(FIRST),
            pages: END.page().0 - DESCRIPTORS.page().0,
        });
        let driver = Self { machine: FakeMachine::new(), pages, available: 0 };
        for page in [DESCRIPTORS, DRIVER, DEVICE] {
            driver.put(page, &[0; PAGE_SIZE as usize]);
        }
        driver
    }

    fn memory(&self) -> GuestMemory<'_, FakeMachine> {
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
