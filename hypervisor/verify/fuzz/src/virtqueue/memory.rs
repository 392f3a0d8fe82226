//! The guest's memory. It checks each access of the device.

use std::cell::RefCell;

use host::memory::{Fault, HostMemory};
use host::virtio::Served;
use host::virtio::queue::{Areas, QueueError};
use host::vm::pages::{GuestRun, PageMap};
use shared_abi::addr::{Gfn, PAGE_SIZE, Pa, PageRange, Pfn};

use super::{AREAS, DESCRIPTOR_BYTES, GUEST, WRITE};

/// The number of guest pages. Their physical pages are in another order.
const PAGES: u64 = 16;
const FIRST: Pfn = Pfn(0x8_0000);

fn page_of(guest: u64) -> u64 {
    (7 * guest + 3) % PAGES
}

pub(super) fn page_map() -> PageMap {
    let ram = PageRange::<Gfn>::new(GUEST.page(), PAGES).expect("some pages");
    let mut map = PageMap::new(ram).expect("memory for a few words");
    for page in 0..PAGES {
        map.insert(GuestRun { gfn: Gfn(GUEST.page().0 + page), pfn: Pfn(FIRST.0 + page_of(page)), pages: 1 });
    }
    map
}

/// A guest's write that happens after a number of device accesses.
#[derive(Debug)]
pub(super) struct Race {
    pub(super) after: u64,
    pub(super) at: u16,
    pub(super) bytes: [u8; 8],
}

/// The current chain, as the device has read it.
#[derive(Debug, Default)]
struct InHand {
    head: Option<u64>,
    /// The ranges of guest memory that the device may write: start and exclusive end offsets.
    writable: Vec<(u64, u64)>,
}

#[derive(Debug)]
pub(super) struct State {
    /// The content, by guest address.
    ram: Vec<u8>,
    /// The guest pages that are not shared, as a bit mask.
    pub(super) private: u16,
    pub(super) races: Vec<Race>,
    areas: Areas,
    chain: InHand,
    descriptors_read: u64,
    pushed: u64,
    /// A buffer overlaps the used ring, so a write there may be for either.
    ambiguous: bool,
}

/// The guest's memory. It checks each access of the device.
#[derive(Debug)]
pub(super) struct Memory(pub(super) RefCell<State>);

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
    /// Writes as the guest.
    pub(super) fn poke(&mut self, at: u16, bytes: &[u8]) {
        for (byte, place) in bytes.iter().zip(&mut self.ram[usize::from(at)..]) {
            *place = *byte;
        }
    }

    pub(super) fn begin(&mut self, areas: &Areas) {
        self.areas = *areas;
        self.chain = InHand::default();
        self.descriptors_read = 0;
        self.pushed = 0;
        self.ambiguous = false;
    }

    pub(super) fn end(&self, served: &Result<Served, QueueError>) {
        let size = u64::from(self.areas.size);
        assert!(self.pushed <= size, "one doorbell serves more chains than the queue has");
        assert!(self.descriptors_read <= size * size + size, "the device follows descriptors without end");
        if let Ok(served) = served {
            assert!(served.requests <= size);
            assert!(self.ambiguous || served.requests == self.pushed);
        }
    }

    /// Returns the range of guest memory behind a physical address, if the guest shares it.
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

    /// Records a read of the device, if it is a descriptor.
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

    /// Returns the used ring: its start and exclusive end offsets.
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
        // Adjacent buffers count as one, and a page boundary splits a write.
        let covered = (start..end).all(|byte| {
            let mut windows = self.chain.writable.iter();
            windows.any(|(first, end)| *first <= byte && byte < *end)
        });
        assert!(covered, "the device writes {start:#x} to {end:#x}, for which it has no buffer");
    }

    /// Checks a write to the used ring: an element, or the index.
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
            // An element that a page boundary splits.
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
