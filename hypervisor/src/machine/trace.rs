//! The trace (feature `trace`): each CPU records its events in a ring of its own. The shipped hypervisor has no
//! trace.
//!
//! A ring that is half full is drained to the hypervisor's console, one line per event, as soon as its CPU holds no
//! lock. Power-off drains the rest. All CPUs share one sequence of numbers, so that a reader can restore one order:
//! an event under a lock precedes those of the lock's next holder, and a CPU's put of a vCPU precedes another CPU's
//! load.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use heapless::Vec;
use hyp_core::limits::MAX_CPUS;
use hyp_core::machine::event::{Event, kind};
use shared_abi::addr::PAGE_SIZE;
use spin::Once;
use spin::mutex::TicketMutex;

use super::console;
use crate::arch;

/// The number of events in a ring: many times the number that one CPU records under one lock.
const CAPACITY: usize = 1 << 15;
/// The size of a ring in bytes: whole pages.
pub(crate) const RING_BYTES: u64 = (CAPACITY * size_of::<RingEntry>()) as u64;

const _: () = assert!(RING_BYTES.is_multiple_of(PAGE_SIZE));

/// True if the rings exist and take events.
static ON: AtomicBool = AtomicBool::new(false);
/// The number of the next event.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// For each CPU, its affinity fields and its ring.
static RINGS: Once<Vec<(u64, TicketMutex<Ring>), MAX_CPUS>> = Once::new();

/// An event with its number. Any bytes are a valid entry.
#[derive(Clone, Copy)]
#[repr(C)]
struct RingEntry {
    number: u64,
    words: [u64; 2],
}

/// The events of one CPU since the last drain.
struct Ring {
    cpu: usize,
    entries: &'static mut [RingEntry],
    used: usize,
    /// The number of events that were lost because the ring was full.
    dropped: u64,
    /// The number of the core's locks that the CPU holds.
    held: usize,
}

/// Gives each of `cpus` (affinity fields) a ring, and starts the trace. This is called once.
///
/// # Safety
///
/// `memory` is the address of mapped RAM that no other code uses, [`RING_BYTES`] for each of the `cpus`.
pub(crate) unsafe fn start(memory: u64, cpus: &[u64]) {
    RINGS.call_once(|| {
        let ring = |(cpu, affinity): (usize, &u64)| {
            let first = memory + cpu as u64 * RING_BYTES;
            let first = core::ptr::with_exposed_provenance_mut(first as usize);
            let ring = TicketMutex::new(Ring {
                cpu,
                // SAFETY: the caller gives `RING_BYTES` of mapped RAM for each CPU, which no other code uses. Each
                // CPU's part is used once, and any bytes are a valid entry.
                entries: unsafe { core::slice::from_raw_parts_mut(first, CAPACITY) },
                used: 0,
                dropped: 0,
                held: 0,
            });
            (*affinity, ring)
        };
        cpus.iter().enumerate().take(MAX_CPUS).map(ring).collect()
    });
    ON.store(true, Ordering::Relaxed);
}

/// Stops the trace and drains all rings, before power-off.
pub(crate) fn finish() {
    if ON.swap(false, Ordering::Relaxed) {
        for (_, ring) in RINGS.get().into_iter().flatten() {
            ring.lock().drain(print);
        }
    }
}

/// Puts an event into the ring of this CPU.
pub(crate) fn record(event: Event) {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    let mut rings = RINGS.get().into_iter().flatten();
    if let Some((_, ring)) = rings.find(|(affinity, _)| *affinity == arch::affinity()) {
        let mut ring = ring.lock();
        ring.push(event.encode());
        if ring.held == 0 && ring.used >= CAPACITY / 2 {
            ring.drain(print);
        }
    }
}

/// Prints a line of the trace, which `hyp_trace` parses.
fn print(cpu: usize, entry: &RingEntry) {
    let [first, second] = entry.words;
    console::line(&format_args!("{} {cpu:x} {:x} {first:x} {second:x}", kind::LINE, entry.number));
}

impl Ring {
    fn push(&mut self, words: [u64; 2]) {
        match words[0] & kind::MASK {
            kind::TAKEN => self.held += 1,
            kind::RELEASED => self.held = self.held.saturating_sub(1),
            _ => {}
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        match self.entries.get_mut(self.used) {
            Some(entry) => {
                *entry = RingEntry { number, words };
                self.used += 1;
            }
            None => self.dropped += 1,
        }
    }

    /// Passes all events to `take` in order, and empties the ring.
    fn drain(&mut self, take: impl Fn(usize, &RingEntry)) {
        for entry in self.entries.iter().take(self.used) {
            take(self.cpu, entry);
        }
        self.used = 0;
        if self.dropped != 0 {
            let dropped = core::mem::take(&mut self.dropped);
            self.push(Event::Dropped(dropped).encode());
        }
    }
}
