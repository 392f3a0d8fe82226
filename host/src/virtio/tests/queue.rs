//! The rings, and the memory that they are in.

use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE, PageRange, Pfn};

use super::{DATA, DESCRIPTORS, DEVICE, DRIVER, Driver, END, INDIRECT, NEXT, WRITE, queue};
use crate::memory::{GuestFault, GuestMemory};
use crate::testing::FIRST;
use crate::virtio::queue::{Areas, MAX_SIZE, Queue, QueueError};
use crate::vm::pages::{GuestRun, PageMap};

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
    pages.insert(GuestRun { gfn: Gfn(0), pfn: Pfn(FIRST), pages: 1 });
    assert!(GuestMemory::new(&pages, &driver.machine).read(Ipa(u64::MAX), &mut [0; 2]).is_err());
}
