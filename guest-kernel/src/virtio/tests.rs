//! The drivers against a device that lies (virtio 1.3, 2.7): whatever it writes into what is shared, a
//! request ends, as done or as an error, and a device that breaks the protocol is not asked again.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error as DriverError, PhysAddr};
use virtio_guard::{AccessPlatform, GuardedTransport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::console::VirtioConsole;
use super::disk::{Disk, Error};
use super::hal;
use crate::shared::SharedPool;
use crate::time;

const SECTOR: usize = 512;
/// The size of the disk driver's queue.
const QUEUE_SIZE: u32 = 16;
const MODERN: u64 = virtio_guard::feature::VERSION_1 | virtio_guard::feature::ACCESS_PLATFORM;

/// Where the driver has put a queue.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    size: u32,
    descriptors: PhysAddr,
    driver: PhysAddr,
    device: PhysAddr,
    /// Requests that the device has seen.
    seen: u16,
    /// What it has used.
    used: u16,
}

/// A descriptor as the device finds it.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;

fn read<V: Copy>(address: u64) -> V {
    let from = core::ptr::with_exposed_provenance::<V>(address as usize);
    // SAFETY: the tests read what the driver told them of its queues and buffers, plain integers all.
    unsafe { from.read_unaligned() }
}

fn write<V: Copy>(address: u64, value: V) {
    let to = core::ptr::with_exposed_provenance_mut::<V>(address as usize);
    // SAFETY: as in `read`; a device may write to them at any time.
    unsafe { to.write_unaligned(value) };
}

impl Queue {
    fn descriptor(&self, index: u16) -> Descriptor {
        let at = self.descriptors + 16 * u64::from(index);
        Descriptor { address: read(at), length: read(at + 8), flags: read(at + 12), next: read(at + 14) }
    }

    /// The head and the buffers of the next request, if there is one.
    fn take(&mut self) -> Option<(u16, Vec<Descriptor>)> {
        if read::<u16>(self.driver + 2) == self.seen {
            return None;
        }
        let slot = u64::from(self.seen) % u64::from(self.size);
        let head: u16 = read(self.driver + 4 + 2 * slot);
        self.seen = self.seen.wrapping_add(1);
        let mut chain = vec![self.descriptor(head)];
        while let Some(last) = chain.last().filter(|last| last.flags & NEXT != 0) {
            chain.push(self.descriptor(last.next));
        }
        Some((head, chain))
    }

    fn put(&mut self, id: u32, length: u32) {
        let slot = u64::from(self.used) % u64::from(self.size);
        write(self.device + 4 + 8 * slot, id);
        write(self.device + 8 + 8 * slot, length);
        self.used = self.used.wrapping_add(1);
        write(self.device + 2, self.used);
    }
}

/// What the device does about a request: it may do anything to the queue.
type Behaviour = fn(&mut Queue, u16, &[Descriptor]);

/// A device whose registers say what a test wants them to say.
#[derive(Clone)]
struct Device(Rc<RefCell<State>>);

struct State {
    kind: DeviceType,
    max_queue_size: u32,
    capacity: u64,
    queues: [Queue; 2],
    behaviour: Behaviour,
    requests: usize,
}

impl Device {
    fn new(kind: DeviceType, behaviour: Behaviour) -> Self {
        Self(Rc::new(RefCell::new(State {
            kind,
            max_queue_size: 256,
            capacity: 64,
            queues: [Queue::default(); 2],
            behaviour,
            requests: 0,
        })))
    }

    fn guarded(&self) -> GuardedTransport<Self> {
        GuardedTransport::new(self.clone(), AccessPlatform::Required).unwrap()
    }

    fn requests(&self) -> usize {
        self.0.borrow().requests
    }
}

impl Transport for Device {
    fn device_type(&self) -> DeviceType {
        self.0.borrow().kind
    }
    fn read_device_features(&mut self) -> u64 {
        MODERN
    }
    fn write_driver_features(&mut self, _: u64) {}
    fn max_queue_size(&mut self, _: u16) -> u32 {
        self.0.borrow().max_queue_size
    }
    fn notify(&mut self, queue: u16) {
        let state = &mut *self.0.borrow_mut();
        let behaviour = state.behaviour;
        let queue = &mut state.queues[usize::from(queue)];
        while let Some((head, chain)) = queue.take() {
            state.requests += 1;
            behaviour(queue, head, &chain);
        }
    }
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::FEATURES_OK
    }
    fn set_status(&mut self, _: DeviceStatus) {}
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver: PhysAddr,
        device: PhysAddr,
    ) {
        self.0.borrow_mut().queues[usize::from(queue)] =
            Queue { size, descriptors, driver, device, ..Queue::default() };
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, _: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<V> {
        let mut config = [0; 64];
        config[..8].copy_from_slice(&self.0.borrow().capacity.to_le_bytes());
        Ok(V::read_from_prefix(&config[offset..]).unwrap().0)
    }
    fn write_config_space<V: IntoBytes + Immutable>(&mut self, _: usize, _: V) -> virtio_drivers::Result<()> {
        Err(DriverError::Unsupported)
    }
}

/// The pool is one for all drivers: a test at a time has it, and has a new one.
fn pool() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    time::meanwhile(|| ());
    hal::set_pool(SharedPool::new(None).unwrap());
    turn
}

/// Fills what the request wants to read with 0xd1, and says that all is well.
fn answer(chain: &[Descriptor]) {
    let (status, data) = chain.split_last().unwrap();
    for buffer in data.iter().filter(|buffer| buffer.flags & WRITE != 0) {
        for at in 0..u64::from(buffer.length) {
            write(buffer.address + at, 0xd1_u8);
        }
    }
    write(status.address, 0_u8);
}

fn honest(queue: &mut Queue, head: u16, chain: &[Descriptor]) {
    answer(chain);
    let written = chain.iter().map(|buffer| buffer.length).sum();
    queue.put(head.into(), written);
}

fn disk(behaviour: Behaviour) -> (Device, Disk<GuardedTransport<Device>>) {
    let device = Device::new(DeviceType::Block, behaviour);
    let disk = Disk::new(device.guarded()).unwrap();
    (device, disk)
}

/// Reads a sector; what came is the device's word, but no neighbour of the buffer is touched.
fn read_sector(disk: &mut Disk<GuardedTransport<Device>>) -> Result<[u8; SECTOR], Error> {
    let mut memory = [0x77; 3 * SECTOR];
    let outcome = disk.read(0, &mut memory[SECTOR..2 * SECTOR]);
    assert!(memory[..SECTOR].iter().all(|byte| *byte == 0x77));
    assert!(memory[2 * SECTOR..].iter().all(|byte| *byte == 0x77));
    outcome.map(|()| memory[SECTOR..2 * SECTOR].try_into().unwrap())
}

#[test]
fn an_honest_device_is_believed() {
    let _pool = pool();
    let (_, mut disk) = disk(honest);
    for _ in 0..3 * QUEUE_SIZE {
        assert_eq!(read_sector(&mut disk), Ok([0xd1; SECTOR]));
    }
}

#[test]
fn a_queue_is_as_large_as_the_driver_wants_or_there_is_none() {
    let _pool = pool();
    for (size, there) in [
        (0, false),
        (3, false),
        (QUEUE_SIZE - 1, false),
        (QUEUE_SIZE, true),
        (0x1_0000, true),
        (0x1_0001, true),
        (u32::MAX, true),
    ] {
        let device = Device::new(DeviceType::Block, honest);
        device.0.borrow_mut().max_queue_size = size;
        let disk = Disk::new(device.guarded());
        assert_eq!(disk.is_ok(), there, "{size:#x}");
        if let Ok(mut disk) = disk {
            assert_eq!(device.0.borrow().queues[0].size, QUEUE_SIZE);
            assert_eq!(read_sector(&mut disk), Ok([0xd1; SECTOR]));
        }
    }
}

#[test]
fn a_used_length_is_no_length() {
    let _pool = pool();
    for behaviour in [
        (|queue, head, chain| {
            answer(chain);
            queue.put(head.into(), u32::MAX);
        }) as Behaviour,
        |queue, head, chain| {
            answer(chain);
            queue.put(head.into(), 0);
        },
    ] {
        let (_, mut disk) = disk(behaviour);
        for _ in 0..2 * QUEUE_SIZE {
            assert_eq!(read_sector(&mut disk), Ok([0xd1; SECTOR]));
        }
    }
}

#[test]
fn a_wrong_id_ends_it() {
    let _pool = pool();
    for behaviour in [
        (|queue, head, _| queue.put(u32::from(head) + 1, 1)) as Behaviour,
        |queue, _, _| queue.put(0xffff, 1),
        |queue, _, _| queue.put(u32::MAX, 1),
    ] {
        let (device, mut disk) = disk(behaviour);
        let wrong = Err(Error::Device(DriverError::WrongToken));
        assert_eq!(read_sector(&mut disk), wrong);
        assert_eq!(read_sector(&mut disk), Err(Error::Broken));
        assert_eq!(device.requests(), 1, "it is not asked again");
    }
}

/// The index says that more was used than was ever asked for: what the ring holds there answers nothing.
#[test]
fn an_index_that_jumps_ends_in_an_error() {
    let _pool = pool();
    for jump in [1, 5, 0x7fff, 0x8000, 0xfffe] {
        let device = Device::new(DeviceType::Block, honest);
        let mut disk = Disk::new(device.guarded()).unwrap();
        assert_eq!(read_sector(&mut disk), Ok([0xd1; SECTOR]));
        // The next entry names no request.
        let queue = device.0.borrow().queues[0];
        for slot in 1..u64::from(queue.size) {
            write(queue.device + 4 + 8 * slot, 9_u32);
        }
        write(queue.device + 2, queue.used.wrapping_add(jump));
        device.0.borrow_mut().behaviour = |_, _, _| ();
        let wrong = Err(Error::Device(DriverError::WrongToken));
        assert_eq!(read_sector(&mut disk), wrong, "{jump:#x}");
        assert_eq!(read_sector(&mut disk), Err(Error::Broken));
    }
}

#[test]
fn no_answer_is_waited_for_only_so_long() {
    let _pool = pool();
    let (device, mut disk) = disk(|_, _, _| ());
    assert_eq!(read_sector(&mut disk), Err(Error::Timeout));
    assert_eq!(read_sector(&mut disk), Err(Error::Broken));
    assert_eq!(disk.write(0, &[0; SECTOR]), Err(Error::Broken));
    assert_eq!(device.requests(), 1);
}

/// The driver keeps its own descriptors: loops and addresses that the device writes over the shared ones
/// lead nowhere.
#[test]
fn descriptors_that_are_rewritten_do_not_count() {
    let _pool = pool();
    let (_, mut disk) = disk(|queue, head, chain| {
        answer(chain);
        for index in 0..u64::from(queue.size) {
            let at = queue.descriptors + 16 * index;
            write(at, u64::MAX - 7);
            write(at + 8, u32::MAX);
            write(at + 12, NEXT | WRITE);
            // Each names itself as the next.
            write(at + 14, index as u16);
            write(queue.driver + 4 + 2 * index, 0xffff_u16);
        }
        queue.put(head.into(), 1);
        // What the driver does not write anew is left as it was, so the next request is as it says.
        write(queue.driver + 2, queue.seen);
    });
    for _ in 0..2 * QUEUE_SIZE {
        assert_eq!(read_sector(&mut disk), Ok([0xd1; SECTOR]));
    }
}

/// The entry that was looked at is another one when it is taken.
#[test]
fn an_entry_that_changes_after_the_look_ends_it() {
    let _pool = pool();
    let (device, mut disk) = disk(honest);
    let state = Rc::clone(&device.0);
    time::meanwhile(move || {
        let queue = state.borrow().queues[0];
        write(queue.device + 4, 0xffff_u32);
    });
    let wrong = Err(Error::Device(DriverError::WrongToken));
    assert_eq!(read_sector(&mut disk), wrong);
    time::meanwhile(|| ());
    assert_eq!(read_sector(&mut disk), Err(Error::Broken));
    assert_eq!(disk.write(0, &[0; SECTOR]), Err(Error::Broken));
    assert_eq!(device.requests(), 1);
}

#[test]
fn an_index_that_goes_back_after_the_look_ends_it() {
    let _pool = pool();
    let (device, mut disk) = disk(honest);
    let state = Rc::clone(&device.0);
    time::meanwhile(move || write(state.borrow().queues[0].device + 2, 0_u16));
    let gone = Err(Error::Device(DriverError::WrongToken));
    assert_eq!(disk.write(0, &[1; SECTOR]), gone);
    time::meanwhile(|| ());
    assert_eq!(read_sector(&mut disk), Err(Error::Broken));
    assert_eq!(device.requests(), 1);
}

/// A failed request is no broken device.
#[test]
fn a_request_may_fail() {
    let _pool = pool();
    let (device, mut disk) = disk(|queue, head, chain| {
        write(chain.last().unwrap().address, 1_u8);
        queue.put(head.into(), 1);
    });
    for _ in 0..2 * QUEUE_SIZE {
        let failed = Err(Error::Device(DriverError::IoError));
        assert_eq!(read_sector(&mut disk), failed);
    }
    device.0.borrow_mut().behaviour = honest;
    assert_eq!(read_sector(&mut disk), Ok([0xd1; SECTOR]));
}

#[test]
fn a_status_that_is_none_is_a_failure() {
    let _pool = pool();
    let (_, mut disk) = disk(|queue, head, chain| {
        write(chain.last().unwrap().address, 0x5a_u8);
        queue.put(head.into(), 1);
    });
    for _ in 0..2 * QUEUE_SIZE {
        assert!(matches!(read_sector(&mut disk), Err(Error::Device(_))));
    }
}

#[test]
fn a_capacity_is_a_claim() {
    let _pool = pool();
    let device = Device::new(DeviceType::Block, honest);
    device.0.borrow_mut().capacity = u64::MAX;
    let mut disk = Disk::new(device.guarded()).unwrap();
    assert_eq!(disk.bytes(), u64::MAX);
    let mut sector = [0; SECTOR];
    let last = u64::MAX - (SECTOR as u64 - 1);
    assert_eq!(disk.read(last, &mut sector), Err(Error::BeyondEnd));
    assert_eq!(disk.read(last - SECTOR as u64, &mut sector), Ok(()));
}

#[test]
fn a_console_that_lies_prints_no_more() {
    let _pool = pool();
    for behaviour in [(|queue, head, _| queue.put(u32::from(head) ^ 1, 0)) as Behaviour, |_, _, _| ()] {
        let device = Device::new(DeviceType::Console, behaviour);
        let mut console = VirtioConsole::new(device.guarded()).unwrap();
        assert!(console.write(b"hello").is_err());
        assert_eq!(console.write(b"hello"), Err(DriverError::NotReady));
        assert_eq!(device.requests(), 1);
    }
}
