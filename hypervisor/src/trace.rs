//! The trace (feature `trace`): what each CPU did, as typed events in a ring of its own. No part of the shipped
//! hypervisor.
//!
//! A ring that is half full is drained to the hypervisor's console, a line per event, as soon as its CPU holds no
//! lock; what is left at power-off is drained then. Numbers that all CPUs share bring
//! the events of the CPUs into one order again: what one CPU did under a lock comes before what the
//! next holder did, and that it has put a vCPU before that another has loaded it.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use heapless::Vec;
use hyp_core::limits::MAX_CPUS;
use hyp_core::machine::event::{Event, kind};
use shared_abi::addr::PAGE_SIZE;
use spin::Once;
use spin::mutex::TicketMutex;

use crate::{boot, console, cpu};

/// Events that a ring holds: many times what a CPU does under one lock.
const CAPACITY: usize = 1 << 15;
/// A ring's memory; whole pages.
pub(crate) const RING_BYTES: u64 = (CAPACITY * size_of::<RingEntry>()) as u64;

const _: () = assert!(RING_BYTES.is_multiple_of(PAGE_SIZE));

/// Whether the rings are there, and take events.
static ON: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU64 = AtomicU64::new(0);
static RINGS: Once<Vec<TicketMutex<Ring>, MAX_CPUS>> = Once::new();

/// An event with its number. Any bytes are one.
#[derive(Clone, Copy)]
#[repr(C)]
struct RingEntry {
    number: u64,
    words: [u64; 2],
}

/// The events of one CPU, since they were last drained.
struct Ring {
    cpu: usize,
    entries: &'static mut [RingEntry],
    used: usize,
    /// Events for which there was no room.
    dropped: u64,
    /// Locks of the core that the CPU holds.
    held: usize,
}

/// Gives each CPU a ring, and starts; once.
///
/// # Safety
///
/// `memory` is [`RING_BYTES`] for each of the `cpus` of mapped RAM that nobody else uses.
pub(crate) unsafe fn start(memory: u64, cpus: usize) {
    RINGS.call_once(|| {
        let ring = |cpu: usize| {
            let first = memory + cpu as u64 * RING_BYTES;
            let first = core::ptr::with_exposed_provenance_mut(first as usize);
            TicketMutex::new(Ring {
                cpu,
                // SAFETY: the caller gives `RING_BYTES` of mapped RAM for each CPU, which nobody else uses, and
                // each CPU's part is handed out once; any content is an entry.
                entries: unsafe { core::slice::from_raw_parts_mut(first, CAPACITY) },
                used: 0,
                dropped: 0,
                held: 0,
            })
        };
        (0..cpus.min(MAX_CPUS)).map(ring).collect()
    });
    ON.store(true, Ordering::Relaxed);
}

/// Stops, and hands out all that the rings still hold; at power-off.
pub(crate) fn finish() {
    if ON.swap(false, Ordering::Relaxed) {
        for ring in RINGS.get().into_iter().flatten() {
            ring.lock().drain(print);
        }
    }
}

/// Puts an event into the ring of this CPU.
#[inline(never)]
pub(crate) fn record(event: Event) {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    let own = boot::cpus().iter().position(|id| *id == cpu::affinity());
    let rings = RINGS.get().map_or(&[][..], |rings| rings);
    if let Some(ring) = own.and_then(|own| rings.get(own)) {
        let mut ring = ring.lock();
        ring.push(event.encode());
        if ring.held == 0 && ring.used >= CAPACITY / 2 {
            ring.drain(print);
        }
    }
}

/// A line of the trace; `hyp_trace` reads it.
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

    /// Hands out all events, in their order.
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
