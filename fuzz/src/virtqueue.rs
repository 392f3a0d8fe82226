//! The device side of a virtqueue, against a driver that writes anything into its rings, and writes on
//! while the device reads.
//!
//! What holds: the device touches no page that the guest has not shared; it writes to its used ring and
//! to buffers of the chain in hand that a descriptor, as the device read it, says are for it to write,
//! and to nothing else; the length that it reports is no longer than those; and a doorbell is worth so
//! much work and no more.

use std::cell::RefCell;
use std::convert::Infallible;

use host::memory::{Fault, GuestMemory, HostMemory};
use host::virtio::Served;
use host::virtio::block::{Block, BlockBackend, DiskError, SECTOR_BYTES};
use host::virtio::console;
use host::virtio::queue::{Areas, MAX_SIZE, Queue, QueueError};
use host::vm::pages::{PageMap, Run};
use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE, Pa, PageRange, Pfn};

use crate::input::Input;

/// The guest has 16 pages, in physical pages that are in another order.
const PAGES: u64 = 16;
const GUEST: Ipa = Ipa(0x4000_0000);
const FIRST: Pfn = Pfn(0x8_0000);
const SECTORS: usize = 8;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const DESCRIPTOR_BYTES: u64 = 16;

/// Runs the target on an input: a byte for the kind of device, then steps.
pub fn run(data: &[u8]) {
    /// A doorbell may cost a copy of megabytes.
    const MAX_DOORBELLS: u32 = 4;
    let mut input = Input::new(data);
    let mut device = Device::new(input.u8());
    let memory = Memory::default();
    let pages = page_map();
    let mut queue = None;
    let mut available = 0_u16;
    let mut areas = AREAS;
    let mut doorbells = 0;
    while !input.is_empty() && doorbells < MAX_DOORBELLS {
        match input.u8() % 8 {
            0 => {
                let at = input.u16();
                let length = input.u8();
                let bytes = input.bytes(length.into()).to_vec();
                memory.0.borrow_mut().poke(at, &bytes);
            }
            1 => {
                // A write that another vCPU does while the device works.
                let race =
                    Race { after: input.u8().into(), at: input.u16(), bytes: input.u64().to_le_bytes() };
                memory.0.borrow_mut().races.push(race);
            }
            2 => {
                areas = Areas {
                    size: u32::try_from(input.number()).unwrap_or(u32::MAX),
                    descriptors: place(&mut input),
                    driver: place(&mut input),
                    device: place(&mut input),
                };
                queue = Queue::new(&areas).ok();
                available = 0;
                check_areas(&areas, queue.as_ref());
            }
            3 => {
                let page = input.u8() % 16;
                memory.0.borrow_mut().private ^= 1 << page;
            }
            4 => {
                let (index, buffer) = (input.u8(), place(&mut input));
                let (length, flags) = (input.number(), u16::from(input.u8()));
                let mut bytes = buffer.0.to_le_bytes().to_vec();
                bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
                bytes.extend(flags.to_le_bytes());
                bytes.extend(u16::from(input.u8()).to_le_bytes());
                let at = areas.descriptors.0.wrapping_add(DESCRIPTOR_BYTES * u64::from(index));
                memory.0.borrow_mut().poke(offset(Ipa(at)), &bytes);
            }
            5 => {
                let slot = u64::from(available) % u64::from(areas.size.max(1));
                available = available.wrapping_add(1);
                let head = u16::from(input.u8()).to_le_bytes();
                let mut state = memory.0.borrow_mut();
                state.poke(offset(Ipa(areas.driver.0.wrapping_add(4 + 2 * slot))), &head);
                let index = offset(Ipa(areas.driver.0.wrapping_add(2)));
                state.poke(index, &available.to_le_bytes());
            }
            _ => {
                if let Some(ready) = &mut queue {
                    doorbells += 1;
                    memory.0.borrow_mut().begin(&areas);
                    let served = device.serve(ready, &GuestMemory::new(&pages, &memory));
                    memory.0.borrow_mut().end(&served);
                    if served.is_err() {
                        queue = None;
                    }
                }
            }
        }
    }
    device.check();
}

/// Where an honest driver would have its areas.
const AREAS: Areas =
    Areas { size: 8, descriptors: GUEST, driver: Ipa(GUEST.0 + 0x1000), device: Ipa(GUEST.0 + 0x2000) };

/// An address, in the guest's memory as a rule.
fn place(input: &mut Input<'_>) -> Ipa {
    match input.u8() {
        0xff => Ipa(input.u64()),
        high => Ipa(GUEST.0 + (u64::from(high) << 8) + u64::from(input.u8())),
    }
}

fn offset(ipa: Ipa) -> u16 {
    u16::try_from(ipa.0.wrapping_sub(GUEST.0) & 0xffff).expect("16 bits")
}

/// Which sizes and areas make a queue (virtio 1.3, 2.7).
fn check_areas(areas: &Areas, queue: Option<&Queue>) {
    let size = u64::from(areas.size);
    let sound = size.is_power_of_two()
        && size <= MAX_SIZE.into()
        && [
            (areas.descriptors, 16, 16 * size),
            (areas.driver, 2, 4 + 2 * size),
            (areas.device, 4, 4 + 8 * size),
        ]
        .iter()
        .all(|(area, alignment, bytes)| {
            area.0.is_multiple_of(*alignment) && area.0.checked_add(*bytes).is_some()
        });
    assert_eq!(queue.is_some(), sound, "{areas:?}");
}

fn page_of(guest: u64) -> u64 {
    (7 * guest + 3) % PAGES
}

fn page_map() -> PageMap {
    let ram = PageRange::<Gfn>::new(GUEST.page(), PAGES).expect("some pages");
    let mut map = PageMap::new(ram).expect("memory for a few words");
    for page in 0..PAGES {
        map.insert(Run { gfn: Gfn(GUEST.page().0 + page), pfn: Pfn(FIRST.0 + page_of(page)), pages: 1 });
    }
    map
}

/// A write of the guest's that comes after so many accesses of the device's.
#[derive(Debug)]
struct Race {
    after: u64,
    at: u16,
    bytes: [u8; 8],
}

/// What the device has read of the chain in hand.
#[derive(Debug, Default)]
struct InHand {
    head: Option<u64>,
    /// Offsets in guest memory that the device may write: first, and one past the last.
    writable: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct State {
    /// By guest address.
    ram: Vec<u8>,
    /// Guest pages that the guest has not shared, a bit each.
    private: u16,
    races: Vec<Race>,
    areas: Areas,
    chain: InHand,
    descriptors_read: u64,
    pushed: u64,
    /// A buffer lies in the used ring: what is written there may be either's.
    ambiguous: bool,
}

/// The guest's memory, which looks at what the device does.
#[derive(Debug)]
struct Memory(RefCell<State>);

impl Default for Memory {
    fn default() -> Self {
        Self(RefCell::new(State {
            ram: vec![0; usize::try_from(PAGES * PAGE_SIZE).expect("small")],
            private: 0,
            races: Vec::new(),
            areas: AREAS,
            chain: InHand::default(),
            descriptors_read: 0,
            pushed: 0,
            ambiguous: false,
        }))
    }
}

impl State {
    /// The guest writes.
    fn poke(&mut self, at: u16, bytes: &[u8]) {
        for (byte, place) in bytes.iter().zip(&mut self.ram[usize::from(at)..]) {
            *place = *byte;
        }
    }

    fn begin(&mut self, areas: &Areas) {
        self.areas = *areas;
        self.chain = InHand::default();
        self.descriptors_read = 0;
        self.pushed = 0;
        self.ambiguous = false;
    }

    fn end(&self, served: &Result<Served, QueueError>) {
        let size = u64::from(self.areas.size);
        assert!(self.pushed <= size, "more chains than a doorbell is worth");
        assert!(self.descriptors_read <= size * size + size, "a walk without an end");
        if let Ok(served) = served {
            assert!(served.requests <= size);
            assert!(self.ambiguous || served.requests == self.pushed);
        }
    }

    /// The range of guest memory behind a physical one, if the guest shares it.
    fn shared(&mut self, pa: Pa, bytes: usize) -> Result<std::ops::Range<usize>, Fault> {
        let frame = pa.page().0.wrapping_sub(FIRST.0);
        let page = (0..PAGES).find(|page| page_of(*page) == frame);
        let page = page.unwrap_or_else(|| panic!("the device is at {pa}, which is not the guest's"));
        assert!(pa.page_offset() + bytes as u64 <= PAGE_SIZE, "it runs into the next page");
        if self.private & (1 << page) != 0 {
            return Err(Fault(pa));
        }
        let start = usize::try_from(page * PAGE_SIZE + pa.page_offset()).expect("small");
        Ok(start..start + bytes)
    }

    /// The device has read a descriptor, if that is what it was.
    fn note_read(&mut self, start: u64, bytes: &[u8]) {
        let table = self.areas.descriptors.0.wrapping_sub(GUEST.0);
        let Ok(raw) = bytes.try_into().map(u128::from_le_bytes) else {
            return;
        };
        let Some(place) = start.checked_sub(table) else {
            return;
        };
        let index = place / DESCRIPTOR_BYTES;
        if !place.is_multiple_of(DESCRIPTOR_BYTES) || index >= self.areas.size.into() {
            return;
        }
        self.descriptors_read += 1;
        self.chain.head.get_or_insert(index);
        let flags = u16::try_from(raw >> 96 & 0xffff).expect("16 bits");
        if flags & WRITE != 0 {
            let first = u64::try_from(raw & u128::from(u64::MAX)).expect("64 bits");
            let length = u64::try_from(raw >> 64 & 0xffff_ffff).expect("32 bits");
            let first = first.wrapping_sub(GUEST.0);
            let end = first.saturating_add(length);
            let (ring, ring_end) = self.ring();
            self.ambiguous |= first < ring_end && ring < end;
            self.chain.writable.push((first, end));
        }
    }

    /// The used ring: its first offset, and one past its last.
    fn ring(&self) -> (u64, u64) {
        let first = self.areas.device.0.wrapping_sub(GUEST.0);
        (first, first.saturating_add(4 + 8 * u64::from(self.areas.size)))
    }

    fn note_write(&mut self, start: u64, bytes: &[u8]) {
        let end = start + bytes.len() as u64;
        let (ring, ring_end) = self.ring();
        if start >= ring && end <= ring_end {
            if !self.ambiguous {
                self.note_used(start - ring, bytes);
            }
            return;
        }
        // The buffers may adjoin, and a page border cuts what is written.
        let covered = (start..end).all(|byte| {
            let mut windows = self.chain.writable.iter();
            windows.any(|(first, end)| *first <= byte && byte < *end)
        });
        assert!(covered, "the device writes {start:#x} to {end:#x}, for which it has no buffer");
    }

    /// A write to the used ring: an element, or the index after it.
    fn note_used(&mut self, place: u64, bytes: &[u8]) {
        match (place, bytes) {
            (2, [_, _]) => {
                assert!(self.chain.head.is_some(), "no chain was taken");
                self.pushed += 1;
                self.chain = InHand::default();
            }
            (4.., [a, b, c, d, e, f, g, h]) if (place - 4).is_multiple_of(8) => {
                let head = u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
                let written = u64::from(u32::from_le_bytes([*e, *f, *g, *h]));
                assert_eq!(Some(head), self.chain.head);
                let windows = self.chain.writable.iter();
                let room: u64 = windows.map(|(first, end)| end - first).sum();
                assert!(written <= room, "{written} bytes were written into {room}");
            }
            // An element that a page border cuts.
            (4.., _) if bytes.len() < 8 => {}
            _ => panic!("the device writes {bytes:?} at {place:#x} of its used ring"),
        }
    }

    fn after_access(&mut self) {
        let mut due = Vec::new();
        self.races.retain_mut(|race| {
            let now = race.after == 0;
            race.after = race.after.saturating_sub(1);
            if now {
                due.push((race.at, race.bytes));
            }
            !now
        });
        for (at, bytes) in due {
            self.poke(at, &bytes);
        }
    }
}

impl HostMemory for Memory {
    fn read(&self, from: Pa, into: &mut [u8]) -> Result<(), Fault> {
        let mut state = self.0.borrow_mut();
        let range = state.shared(from, into.len())?;
        into.copy_from_slice(&state.ram[range.clone()]);
        state.note_read(range.start as u64, into);
        state.after_access();
        Ok(())
    }

    fn write(&self, to: Pa, from: &[u8]) -> Result<(), Fault> {
        let mut state = self.0.borrow_mut();
        let range = state.shared(to, from.len())?;
        state.note_write(range.start as u64, from);
        state.ram[range].copy_from_slice(from);
        state.after_access();
        Ok(())
    }
}

/// A disk that checks that it is asked for sectors which it has.
#[derive(Debug)]
struct Disk {
    bytes: Vec<u8>,
    read_only: bool,
}

impl Disk {
    fn range(sector: u64, bytes: usize) -> std::ops::Range<usize> {
        assert!(bytes.is_multiple_of(SECTOR_BYTES));
        let start = usize::try_from(sector).expect("small") * SECTOR_BYTES;
        start..start + bytes
    }
}

impl BlockBackend for Disk {
    fn sectors(&self) -> u64 {
        SECTORS as u64
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        into.copy_from_slice(&self.bytes[Self::range(sector, into.len())]);
        Ok(())
    }

    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        assert!(!self.read_only, "a read-only disk is written to");
        self.bytes[Self::range(sector, from.len())].copy_from_slice(from);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// What is printed, counted.
#[derive(Debug, Default)]
struct Printed(u64);

impl embedded_io::ErrorType for Printed {
    type Error = Infallible;
}

impl embedded_io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[derive(Debug)]
enum Device {
    Block(Block<Disk>),
    Console { printed: Printed, copied: u64 },
}

impl Device {
    fn new(kind: u8) -> Self {
        match kind % 3 {
            0 => Self::Console { printed: Printed::default(), copied: 0 },
            kind => Self::Block(Block::new(Disk {
                bytes: vec![0xd1; SECTORS * SECTOR_BYTES],
                read_only: kind == 2,
            })),
        }
    }

    fn serve(&mut self, queue: &mut Queue, memory: &GuestMemory<'_, Memory>) -> Result<Served, QueueError> {
        match self {
            Self::Block(block) => block.serve(queue, memory),
            Self::Console { printed, copied } => {
                let served = console::transmit(queue, memory, printed)?;
                *copied += served.copied_bytes;
                Ok(served)
            }
        }
    }

    fn check(&self) {
        if let Self::Console { printed, copied } = self {
            // More was printed than served only where serving ended in an error.
            assert!(*copied <= printed.0);
        }
    }
}

/// Steps of a seed.
#[derive(Default)]
struct Steps(Vec<u8>);

impl Steps {
    fn new(kind: u8) -> Self {
        Self(vec![kind])
    }

    fn queue(mut self, size: u8, areas: [u8; 3]) -> Self {
        self.0.extend([2, size]);
        self.0.extend(areas.into_iter().flat_map(|page| [page, 0]));
        self
    }

    fn poke(mut self, at: u16, bytes: &[u8]) -> Self {
        self.0.push(0);
        self.0.extend(at.to_le_bytes());
        self.0.push(u8::try_from(bytes.len()).expect("short"));
        self.0.extend(bytes);
        self
    }

    fn describe(mut self, index: u8, page: u8, length: u16, flags: u16, next: u8) -> Self {
        self.0.extend([4, index, page, 0, 0xf1]);
        self.0.extend(length.to_le_bytes());
        self.0.extend([flags.to_le_bytes()[0], next]);
        self
    }

    fn offer(mut self, head: u8) -> Self {
        self.0.extend([5, head]);
        self
    }

    fn race(mut self, after: u8, at: u16, bytes: [u8; 8]) -> Self {
        self.0.extend([1, after]);
        self.0.extend(at.to_le_bytes());
        self.0.extend(bytes);
        self
    }

    fn hide(mut self, page: u8) -> Self {
        self.0.extend([3, page]);
        self
    }

    fn ring(mut self) -> Self {
        self.0.push(6);
        self
    }

    /// A block request of one sector, in descriptors 0 to 2.
    fn request(self, kind: u8, sector: u8, data: u16) -> Self {
        let mut header = [0; 16];
        (header[0], header[8]) = (kind, sector);
        self.poke(0x4000, &header)
            .describe(0, 0x40, 16, NEXT, 1)
            .describe(1, 0x50, 512, NEXT | data, 2)
            .describe(2, 0x60, 1, WRITE, 0)
            .offer(0)
    }
}

/// Inputs to start from.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let honest = [0x00, 0x10, 0x20];
    let block = || Steps::new(1).queue(8, honest);
    let console = || Steps::new(0).queue(8, honest);
    vec![
        ("block-read", block().request(0, 1, WRITE).ring().0),
        ("block-write", block().request(1, 1, 0).ring().0),
        ("block-flush", block().request(4, 0, WRITE).ring().0),
        ("block-id", block().request(8, 0, WRITE).ring().0),
        ("block-unknown", block().request(9, 0, WRITE).ring().0),
        ("block-beyond", block().request(0, 8, WRITE).ring().0),
        ("block-read-only", Steps::new(2).queue(8, honest).request(1, 0, 0).ring().0),
        ("block-private", block().request(0, 1, WRITE).hide(5).ring().0),
        (
            "block-race",
            block().request(0, 1, WRITE).race(3, 0x10, [0xff; 8]).race(5, 0x4000, [0xff; 8]).ring().0,
        ),
        ("console", console().poke(0x4000, b"hello").describe(0, 0x40, 5, 0, 0).offer(0).offer(0).ring().0),
        ("loop", console().describe(0, 0x40, 5, NEXT, 0).offer(0).ring().0),
        ("table-in-buffer", block().request(0, 1, WRITE).describe(1, 0x00, 512, NEXT | WRITE, 2).ring().0),
        ("index-jump", console().poke(0x1002, &[9, 0]).ring().0),
        ("no-size", Steps::new(0).queue(0, honest).ring().0),
        ("odd-size", Steps::new(0).queue(3, honest).ring().0),
        ("misaligned", Steps::new(0).queue(8, [1, 0x10, 0x20]).ring().0),
    ]
}
