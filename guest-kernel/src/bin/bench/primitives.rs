//! The primitives, one after the other, and then the report.
//!
//! Interrupts are masked throughout, and memory is taken in whole regions that nothing else touches.

use alloc::alloc::{Layout, alloc};
use alloc::vec::Vec;

use bare_rt::el1::lock::IrqMasked;
use guest_kernel::{Failure, Guest, println};
use shared_abi::addr::PAGE_SIZE;
use shared_abi::bench::Operation;
use shared_abi::kvm::function;
use shared_abi::record::Record;

use crate::stopwatch::{self, Span};

/// Samples of what is small.
const MANY: usize = 64;
/// Samples of what is large.
const FEW: usize = 8;
/// Bytes of a block, and of its pages.
const BLOCK: u64 = 2 << 20;
const BLOCK_PAGES: u64 = BLOCK / PAGE_SIZE;
/// Pages of the megabyte that is no block, and how far into a block it starts.
const MEGABYTE_PAGES: u64 = 256;
const MEGABYTE_OFFSET: u64 = 64 * PAGE_SIZE;
/// UARTFR of a PL011: reading it has no effect (Arm DDI 0183, 3.3.3).
const UART_FLAGS: u64 = 0x18;
/// Bit 0 of MEMINFO's x1: MEM_SHARE and MEM_UNSHARE take ranges.
const RANGES: u64 = 1 << 0;

/// What was timed; nothing is reported before all is done.
struct Log(Vec<(Operation, Span)>);

impl Log {
    /// With room for all samples, in memory that is there.
    fn new() -> Self {
        let capacity = Operation::ALL.len() * MANY;
        let mut samples = alloc::vec![(Operation::Empty, Span::default()); capacity];
        samples.clear();
        Self(samples)
    }

    fn add(&mut self, operation: Operation, span: Span) {
        self.0.push((operation, span));
    }

    fn report(&self) {
        for (operation, span) in &self.0 {
            let sample = Record::Sample { operation: *operation, start: span.start, end: span.end, units: 1 };
            println!("{sample}");
        }
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    let uart = guest.machine().uart.ok_or("there is no PL011")?;
    if !guest.is_protected() {
        return Err("sharing is measured in a protected VM".into());
    }
    let mut log = Log::new();
    let masked = IrqMasked::new();
    for _ in 0..MANY {
        log.add(Operation::Empty, stopwatch::empty());
        log.add(Operation::Control, stopwatch::control());
    }
    for _ in 0..MANY {
        let (span, _) = stopwatch::hypercall(function::FEATURES, [0; 3]);
        log.add(Operation::NullHypercall, span);
    }
    first_touches(&mut log)?;
    for _ in 0..MANY {
        // SAFETY: the register is a PL011's, which the library has mapped.
        let span = unsafe { stopwatch::read_register(uart + UART_FLAGS) };
        log.add(Operation::MmioExit, span);
    }
    pages(&mut log)?;
    ranges(&mut log)?;
    drop(masked);
    log.report();
    Ok(())
}

/// Touches pages that are not there, each of which the host brings alone.
///
/// A VMM may bring more than the page that was touched, and ours does: 2 MiB if all of that is absent,
/// else what is absent above. So the pages are touched from the last one downwards, where the first
/// of the block are there and the one above as well.
fn first_touches(log: &mut Log) -> Result<(), Failure> {
    let region = region(2 * MANY as u64 * PAGE_SIZE, PAGE_SIZE)?;
    let last = region + (2 * MANY as u64 - 1) * PAGE_SIZE;
    for index in 0..MANY as u64 {
        // SAFETY: the page is in `region`, which the allocator gave to this function and which holds no
        // value. Stage 1 maps all RAM; the host brings the page at the touch.
        let span = unsafe { stopwatch::store_zero(last - index * PAGE_SIZE) };
        log.add(Operation::FirstTouch, span);
    }
    Ok(())
}

/// Shares single pages, and takes them back, in a block that is in pieces already: its first page stays
/// shared meanwhile.
fn pages(log: &mut Log) -> Result<(), Failure> {
    let block = present_block()?;
    let share = |page| stopwatch::hypercall(function::MEM_SHARE, [block + page * PAGE_SIZE, 0, 0]);
    let unshare = |page| stopwatch::hypercall(function::MEM_UNSHARE, [block + page * PAGE_SIZE, 0, 0]);
    accepted(share(0))?;
    for page in 1..=MANY as u64 {
        log.add(Operation::MemShare, accepted(share(page))?);
        log.add(Operation::MemUnshare, accepted(unshare(page))?);
    }
    accepted(unshare(0))?;
    Ok(())
}

/// Shares ranges and takes them back: the same one again and again, as a driver does with its buffers.
fn ranges(log: &mut Log) -> Result<(), Failure> {
    let (_, [_, announced]) = stopwatch::hypercall(function::MEMINFO, [0; 3]);
    let at_once = if announced & RANGES != 0 { BLOCK_PAGES } else { 1 };
    let megabyte = present_block()? + MEGABYTE_OFFSET;
    let block = present_block()?;
    for _ in 0..FEW {
        let span = round_trip(megabyte, MEGABYTE_PAGES, at_once)?;
        log.add(Operation::ShareUnshare1M, span);
    }
    for _ in 0..FEW {
        let span = round_trip(block, BLOCK_PAGES, at_once)?;
        log.add(Operation::ShareUnshare2MAligned, span);
    }
    Ok(())
}

/// Shares so many pages from `first` on and takes them back, at most `at_once` in one call.
fn round_trip(first: u64, pages: u64, at_once: u64) -> Result<Span, Failure> {
    let begin = stopwatch::empty();
    for call in [function::MEM_SHARE, function::MEM_UNSHARE] {
        let mut done = 0;
        while done < pages {
            // A range call is told how many pages; a call for one page is told nothing.
            let wanted = if at_once == 1 { 0 } else { at_once.min(pages - done) };
            let (_, [status, reached]) = stopwatch::hypercall(call, [first + done * PAGE_SIZE, wanted, 0]);
            let reached = if at_once == 1 { 1 } else { reached };
            if status != 0 || reached == 0 {
                return Err("a range was refused".into());
            }
            done += reached;
        }
    }
    let end = stopwatch::empty();
    Ok(Span { start: begin.end, end: end.end })
}

/// The span of a call that was not refused.
fn accepted((span, [status, _]): (Span, [u64; 2])) -> Result<Span, Failure> {
    if status == 0 { Ok(span) } else { Err("a page was refused".into()) }
}

/// A block that the host has brought, whole.
fn present_block() -> Result<u64, Failure> {
    let block = region(BLOCK, BLOCK)?;
    // SAFETY: `region` is memory that the allocator gave to this function alone, mapped by stage 1, without a
    // value.
    let _ = unsafe { stopwatch::store_zero(block) };
    Ok(block)
}

/// Memory that is nobody else's from now on, not touched yet.
fn region(bytes: u64, align: u64) -> Result<u64, Failure> {
    let layout = Layout::from_size_align(bytes as usize, align as usize)?;
    // SAFETY: the callers ask for at least a page, so that the size is not 0.
    let memory = unsafe { alloc(layout) };
    if memory.is_null() {
        return Err("the heap is too small".into());
    }
    Ok(memory.expose_provenance() as u64)
}
