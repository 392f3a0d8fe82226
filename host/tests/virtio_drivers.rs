//! The device side against somebody else's driver side: `virtio-drivers`, behind the wrapper that the
//! guest uses too. The guest's memory is this process's, at its own addresses.

#![expect(
    unsafe_code,
    reason = "virtio-drivers' Hal is an unsafe trait, and its buffers are reached by address"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use host::memory::{Fault, GuestMemory, HostMemory};
use host::virtio::block::{self, Block, BlockBackend, DiskError, SECTOR_BYTES};
use host::virtio::mmio::{Event, Registers};
use host::vm::pages::{GuestRun, PageMap};
use shared_abi::addr::{Gfn, Pa, PageRange};
use shared_abi::vcpu::AccessSize;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal, PAGE_SIZE, PhysAddr};
use virtio_guard::{AccessPlatform, GuardedTransport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Memory that is where it is.
struct Process;

impl HostMemory for Process {
    fn read(&self, from: Pa, into: &mut [u8]) -> Result<(), Fault> {
        let from = ptr::with_exposed_provenance::<u8>(from.0 as usize);
        // SAFETY: the driver gave the address of a live buffer or ring of at least this length.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn write(&self, to: Pa, from: &[u8]) -> Result<(), Fault> {
        let to = ptr::with_exposed_provenance_mut::<u8>(to.0 as usize);
        // SAFETY: the driver gave the address of a live, writable buffer or ring of this length.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        Ok(())
    }
}

/// What the device may reach: what the driver has allocated for it and shared.
struct Reachable {
    pages: PageMap,
    /// The guest page that comes next.
    next: u64,
}

/// Pages of guest-physical addresses: 4 GiB.
const WINDOW_PAGES: u64 = 1 << 20;

thread_local! {
    static REACHABLE: RefCell<Reachable> = RefCell::new(Reachable {
        pages: PageMap::new(PageRange::<Gfn>::new(Gfn(0), WINDOW_PAGES).unwrap()).unwrap(),
        next: 1,
    });
}

/// Lets the device reach these bytes, at the guest-physical address that is answered.
fn make_reachable(address: u64, bytes: usize) -> PhysAddr {
    let first = Pa(address).page();
    let pages = Pa(address + bytes as u64 + PAGE_SIZE as u64 - 1).page().0 - first.0;
    REACHABLE.with_borrow_mut(|reachable| {
        let gfn = Gfn(reachable.next);
        reachable.next += pages;
        reachable.pages.insert(GuestRun { gfn, pfn: first, pages });
        gfn.base().0 + Pa(address).page_offset()
    })
}

struct ProcessHal;

fn pages_layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).unwrap()
}

// SAFETY: the memory is zeroed, page aligned, and nobody else's until it is given back.
unsafe impl Hal for ProcessHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the size is not zero.
        let memory = NonNull::new(unsafe { alloc_zeroed(pages_layout(pages)) }).unwrap();
        let address = memory.as_ptr().expose_provenance() as u64;
        (make_reachable(address, pages * PAGE_SIZE), memory)
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the caller got it from `dma_alloc` with the same number of pages.
        unsafe { dealloc(vaddr.as_ptr(), pages_layout(pages)) };
        0
    }

    unsafe fn mmio_phys_to_virt(_paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        unreachable!("only the PCI transport maps registers")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        let address = buffer.cast::<u8>().as_ptr().expose_provenance() as u64;
        make_reachable(address, buffer.len())
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// A disk in memory.
struct RamDisk(Rc<RefCell<Vec<u8>>>);

impl BlockBackend for RamDisk {
    fn sectors(&self) -> u64 {
        (self.0.borrow().len() / SECTOR_BYTES) as u64
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let start = sector as usize * SECTOR_BYTES;
        into.copy_from_slice(&self.0.borrow()[start..start + into.len()]);
        Ok(())
    }

    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        let start = sector as usize * SECTOR_BYTES;
        self.0.borrow_mut()[start..start + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Offsets of registers (virtio 1.3, 4.2.2).
mod register {
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(super) const QUEUE_NUM: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC: u64 = 0x080;
    pub(super) const QUEUE_DRIVER: u64 = 0x090;
    pub(super) const QUEUE_DEVICE: u64 = 0x0a0;
    pub(super) const CONFIG: u64 = 0x100;
}

/// The transport that a driver sees: our registers, served at each doorbell.
struct Emulated {
    registers: Registers,
    device: Block<RamDisk>,
}

impl Emulated {
    fn read(&self, offset: u64) -> u32 {
        self.registers.read(offset, AccessSize::Word) as u32
    }

    fn write(&mut self, offset: u64, value: u32) {
        if let Event::Doorbell(queue) = self.registers.write(offset, AccessSize::Word, value.into()) {
            let queue = self.registers.queue(queue).unwrap();
            let served = REACHABLE.with_borrow(|reachable| {
                let memory = GuestMemory::new(&reachable.pages, &Process);
                self.device.serve(queue, &memory).unwrap()
            });
            if served.interrupt {
                self.registers.used_buffers();
            }
        }
    }

    fn write_address(&mut self, offset: u64, address: PhysAddr) {
        self.write(offset, address as u32);
        self.write(offset + 4, (address >> 32) as u32);
    }
}

impl Transport for Emulated {
    fn device_type(&self) -> DeviceType {
        DeviceType::try_from(self.read(register::DEVICE_ID)).unwrap()
    }

    fn read_device_features(&mut self) -> u64 {
        self.write(register::DEVICE_FEATURES_SEL, 0);
        let low = self.read(register::DEVICE_FEATURES);
        self.write(register::DEVICE_FEATURES_SEL, 1);
        u64::from(self.read(register::DEVICE_FEATURES)) << 32 | u64::from(low)
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.write(register::DRIVER_FEATURES_SEL, 0);
        self.write(register::DRIVER_FEATURES, driver_features as u32);
        self.write(register::DRIVER_FEATURES_SEL, 1);
        self.write(register::DRIVER_FEATURES, (driver_features >> 32) as u32);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.write(register::QUEUE_SEL, queue.into());
        self.read(register::QUEUE_NUM_MAX)
    }

    fn notify(&mut self, queue: u16) {
        self.write(register::QUEUE_NOTIFY, queue.into());
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.read(register::STATUS))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.write(register::STATUS, status.bits());
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.write(register::QUEUE_SEL, queue.into());
        self.write(register::QUEUE_NUM, size);
        self.write_address(register::QUEUE_DESC, descriptors);
        self.write_address(register::QUEUE_DRIVER, driver_area);
        self.write_address(register::QUEUE_DEVICE, device_area);
        self.write(register::QUEUE_READY, 1);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.write(register::QUEUE_SEL, queue.into());
        self.write(register::QUEUE_READY, 0);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.write(register::QUEUE_SEL, queue.into());
        self.read(register::QUEUE_READY) == 1
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let status = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACK, status);
        InterruptStatus::from_bits_truncate(status)
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let mut value = T::new_zeroed();
        for (byte, at) in value.as_mut_bytes().iter_mut().zip(offset as u64..) {
            *byte = self.registers.read(register::CONFIG + at, AccessSize::Byte) as u8;
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _offset: usize,
        _value: T,
    ) -> virtio_drivers::Result<()> {
        Err(Error::Unsupported)
    }
}

fn driver(disk: &Rc<RefCell<Vec<u8>>>) -> VirtIOBlk<ProcessHal, GuardedTransport<Emulated>> {
    let device = Block::new(RamDisk(Rc::clone(disk)));
    let emulated = Emulated {
        registers: Registers::new(block::DEVICE_ID, device.features(), block::QUEUES, device.config()),
        device,
    };
    VirtIOBlk::new(GuardedTransport::new(emulated, AccessPlatform::Required).unwrap()).unwrap()
}

#[test]
fn a_disk_is_read_written_and_flushed() {
    const SECTORS: usize = 1024;
    let content: Vec<u8> = (0..SECTORS * SECTOR_BYTES).map(|n| (n / 511) as u8).collect();
    let disk = Rc::new(RefCell::new(content.clone()));
    let mut driver = driver(&disk);
    assert_eq!(driver.capacity(), SECTORS as u64);
    assert!(!driver.readonly());

    let mut all = vec![0; content.len()];
    driver.read_blocks(0, &mut all).unwrap();
    assert!(all == content);

    let written = [0xa5; 8 * SECTOR_BYTES];
    for block in (0..SECTORS).step_by(16) {
        driver.write_blocks(block, &written).unwrap();
    }
    driver.flush().unwrap();
    let mut back = [0; 8 * SECTOR_BYTES];
    driver.read_blocks(SECTORS - 16, &mut back).unwrap();
    assert!(back == written);
    assert!(driver.ack_interrupt().contains(InterruptStatus::QUEUE_INTERRUPT));

    let mut id = [0; 20];
    assert_eq!(driver.device_id(&mut id), Ok(8));
    assert_eq!(&id[..8], b"cloister");
}

#[test]
fn what_is_beyond_the_end_is_an_error() {
    let disk = Rc::new(RefCell::new(vec![0x11; 8 * SECTOR_BYTES]));
    let mut driver = driver(&disk);
    let mut sector = [0; SECTOR_BYTES];
    assert_eq!(driver.read_blocks(8, &mut sector), Err(Error::IoError));
    assert_eq!(driver.write_blocks(7, &[0; 2 * SECTOR_BYTES]), Err(Error::IoError));
    assert_eq!(driver.read_blocks(7, &mut sector), Ok(()));
    assert_eq!(sector, [0x11; SECTOR_BYTES]);
}
