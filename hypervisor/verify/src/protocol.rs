//! The protocol checker: checks a stream of events against the architecture's rules for tables and TLBs, and against
//! the core's rules for locks and for pages that change owner.
//!
//! The stream comes from the fake machine or from the trace of a boot, and must start when the machine does. The
//! checker shares only the event types with the code that it checks. It keeps its own copy of all tables, reads them
//! with the independent [`walker`](crate::oracle::walker), and tracks how far the invalidation of each removed
//! translation has come. It assumes the worst of the hardware: a TLB holds every translation that the tables hold,
//! for the host always, and for a VM as soon as one of its vCPUs is loaded.
//!
//! ```text
//! protocol::check::<Granule4K>(&machine.take_trace())?;   // all at once, or:
//! let mut checker = Checker::new(Granule4K::INDEX_BITS);
//! checker.observe_all(&machine.take_trace())?;            // step by step
//! ```

#![expect(
    clippy::arithmetic_side_effects,
    reason = "a checker for tests: page numbers are below 2^52, events fewer than memory holds"
)]

mod cpu;
mod entry;
mod maintenance;
mod memory;
mod pages;
pub mod rule;
mod space;
mod tables;

use core::fmt;
use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

use hyp_core::machine::event::Event;
use hyp_core::machine::geometry::Geometry;
use hyp_trace::InWords;

use cpu::CpuState;
use memory::PageHistory;
pub use rule::Rule;
use space::SpaceState;
use tables::Attached;

/// The first violation of a rule in a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The number of the event that broke it, from 0.
    pub at: usize,
    /// The CPU.
    pub cpu: usize,
    /// The event.
    pub event: Event,
    /// The events before it, the last one first.
    pub before: Vec<(usize, Event)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, at, cpu, event, before } = self;
        write!(f, "event {at}, CPU {cpu}: {}\n  breaks: {rule}\n  before it:", InWords(*event))?;
        for (cpu, event) in before {
            write!(f, "\n    CPU {cpu}: {}", InWords(*event))?;
        }
        Ok(())
    }
}

/// The host's VMID.
const HOST: u8 = 0;

/// The number of events that a violation shows.
const SHOWN: usize = 12;

/// Checks a whole stream, from the start of the machine.
///
/// # Errors
///
/// The first [`Violation`].
pub fn check<G: Geometry>(events: &[(usize, Event)]) -> Result<(), Violation> {
    Checker::new(G::INDEX_BITS).observe_all(events)
}

/// Checks a stream of events. It holds the machine's state, derived from the events so far.
#[derive(Clone, Debug)]
pub struct Checker {
    bits: u32,
    seen: usize,
    recent: Vec<(usize, Event)>,
    memory: PageHistory,
    spaces: BTreeMap<u8, SpaceState>,
    attached: BTreeMap<u64, Attached>,
    cpus: BTreeMap<usize, CpuState>,
}

impl Checker {
    /// Makes a checker for tables with `bits` index bits per level.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        Self {
            bits,
            seen: 0,
            recent: Vec::new(),
            memory: PageHistory::default(),
            spaces: BTreeMap::new(),
            attached: BTreeMap::new(),
            cpus: BTreeMap::new(),
        }
    }

    /// The number of events so far.
    #[must_use]
    pub const fn seen(&self) -> usize {
        self.seen
    }

    /// Checks the next events.
    ///
    /// # Errors
    ///
    /// Returns the first [`Violation`]. Do not use the checker after an error.
    pub fn observe_all(&mut self, events: &[(usize, Event)]) -> Result<(), Violation> {
        let mut events = events.iter();
        events.try_for_each(|(cpu, event)| self.observe(*cpu, *event))
    }

    /// Checks the event that comes next.
    ///
    /// # Errors
    ///
    /// As [`Self::observe_all`].
    pub fn observe(&mut self, cpu: usize, event: Event) -> Result<(), Violation> {
        let result = self.apply(cpu, event).map_err(|rule| Violation {
            rule,
            at: self.seen,
            cpu,
            event,
            before: self.recent.iter().rev().take(SHOWN).copied().collect(),
        });
        self.seen += 1;
        if self.recent.len() >= 2 * SHOWN {
            self.recent.drain(..SHOWN);
        }
        self.recent.push((cpu, event));
        result
    }

    fn apply(&mut self, cpu: usize, event: Event) -> Result<(), Rule> {
        match event {
            Event::Stage2Id(space) => self.space(space),
            Event::Write { table, index, value } => self.write(cpu, table.0, index, value),
            Event::Barrier(barrier) => {
                self.barrier(cpu, barrier);
                Ok(())
            }
            Event::Tlbi { vmid, scope } => self.invalidate(cpu, vmid, scope),
            Event::Wipe(pages) => self.wipe(cpu, pages),
            Event::Clean(pages) => self.clean(cpu, pages),
            Event::Taken(lock) => self.take(cpu, lock),
            Event::Released(lock) => self.release(cpu, lock),
            Event::CallBegin(_) | Event::CallEnd(_) => self.holds_nothing(cpu),
            Event::Load(vmid, vcpu) => self.load(cpu, vmid, vcpu.0),
            Event::Put(vmid, vcpu) => {
                let space = self.spaces.get_mut(&vmid.0).ok_or(Rule::Stream)?;
                space.loaded.remove(&vcpu.0).map(|_| ()).ok_or(Rule::Stream)
            }
            Event::Enter(vttbr) => self.enter(cpu, vttbr),
            Event::Dropped(_) => Err(Rule::Stream),
        }
    }

    fn cpu(&mut self, cpu: usize) -> &mut CpuState {
        self.cpus.entry(cpu).or_default()
    }

    /// Returns true if a TLB may still hold a removed translation to these pages, in an address space other than
    /// `but`.
    fn remembered(&self, first: u64, end: u64, but: &[u8]) -> bool {
        let mut spaces = self.spaces.iter();
        spaces.any(|(vmid, space)| !but.contains(vmid) && space.remembers(first, end))
    }

    /// Returns the checker's state for a message.
    #[must_use]
    pub fn summary(&self) -> String {
        let leaves: usize = self.spaces.values().map(|space| space.leaves.len()).sum();
        std::format!(
            "{} events, {} spaces, {} tables in use, {leaves} leaves",
            self.seen,
            self.spaces.len(),
            self.attached.len()
        )
    }
}
