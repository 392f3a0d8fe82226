//! A machine in memory that records what it is asked to do.
//!
//! Pages hold bytes, tables are pages, and TLBs are modelled as badly behaved as the architecture
//! allows ([`tlb`]): they remember every translation that was ever valid until they are told not to.
//! The independent [`walker`] says what the tables mean.

pub mod tlb;

use std::boxed::Box;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use shared_abi::addr::{PageRange, Pfn};

use crate::geometry::{Geometry, Granule4K};
use crate::machine::{Frames, Machine, Removed, Space, TableRef, VcpuClaim};
use crate::vcpu::VcpuContext;
use tlb::Tlb;

pub use crate::oracle::walker;

/// Something that the core asked of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An entry was written.
    Write {
        /// The table's page.
        table: Pfn,
        /// Which entry.
        index: usize,
        /// What it was before.
        old: u64,
        /// What it is now.
        new: u64,
    },
    /// Pages were zeroed and cleaned.
    Wipe(PageRange<Pfn>),
    /// Pages were cleaned and instruction caches invalidated.
    Clean(PageRange<Pfn>),
    /// Barriers after entries became valid.
    Publish,
    /// TLB maintenance by IPA.
    Invalidate(Space, Vec<Removed>),
    /// TLB maintenance for a whole VMID.
    InvalidateAll(Space),
    /// Local maintenance before another vCPU of the same VM runs.
    ForgetPreviousVcpu(Space),
}

#[derive(Debug, Default)]
struct State {
    pages: HashMap<u64, Box<[u8; 4096]>>,
    contexts: HashMap<u64, VcpuContext>,
    events: Vec<Event>,
    tlb: Tlb,
}

impl State {
    fn page(&mut self, page: u64) -> &mut [u8; 4096] {
        self.pages
            .entry(page)
            .or_insert_with(|| Box::new([0; 4096]))
    }

    fn entry(&self, page: u64, index: usize) -> u64 {
        self.pages.get(&page).map_or(0, |bytes| {
            let (entries, _) = bytes.as_chunks::<8>();
            entries
                .get(index)
                .map_or(0, |bytes| u64::from_le_bytes(*bytes))
        })
    }
}

/// The fake machine, of any geometry.
#[derive(Debug)]
pub struct Fake<G = Granule4K> {
    state: Mutex<State>,
    geometry: PhantomData<fn() -> G>,
}

impl<G> Default for Fake<G> {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            geometry: PhantomData,
        }
    }
}

impl<G: Geometry> Fake<G> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was recorded since the last time.
    pub fn take_events(&self) -> Vec<Event> {
        core::mem::take(&mut self.state().events)
    }

    /// Fills a page, as its owner would.
    pub fn fill(&self, page: Pfn, byte: u8) {
        self.state().page(page.0).fill(byte);
    }

    /// The byte that all of a page consists of, if it does.
    pub fn uniform_byte(&self, page: Pfn) -> Option<u8> {
        let mut state = self.state();
        let bytes = state.page(page.0);
        let first = *bytes.first()?;
        bytes.iter().all(|byte| *byte == first).then_some(first)
    }

    /// What `space` makes of an IPA page, by the tables as they are.
    pub fn walk(&self, space: Space, page: u64) -> Option<walker::Translation> {
        let state = self.state();
        walker::walk(
            G::INDEX_BITS,
            &|page, index| state.entry(page, index),
            space.root,
            page,
        )
    }

    /// From now on somebody may run in `space`: its translations are in the TLBs as soon as they are
    /// valid.
    pub fn watch(&self, space: Space) {
        let mut state = self.state();
        state.tlb.watch(space);
        Self::refill(&mut state);
    }

    /// Nobody runs in `space` any more.
    pub fn unwatch(&self, space: Space) {
        self.state().tlb.unwatch(space);
    }

    /// What the TLBs remember of an IPA page of `space`.
    pub fn remembered(&self, space: Space, page: u64) -> Option<walker::Translation> {
        self.state().tlb.get(space, page)
    }

    /// Rules of break-before-make that were broken.
    pub fn violations(&self) -> Vec<tlb::Violation> {
        self.state().tlb.violations()
    }

    fn refill(state: &mut State) {
        let mut tlb = core::mem::take(&mut state.tlb);
        tlb.refill(G::IPA_PAGES, |space, page| {
            walker::walk(
                G::INDEX_BITS,
                &|page, index| state.entry(page, index),
                space.root,
                page,
            )
        });
        state.tlb = tlb;
    }
}

impl<G: Geometry> Machine for Fake<G> {
    type Geometry = G;

    fn read_entry(&self, table: TableRef, index: usize) -> u64 {
        self.state().entry(table.page().0, index)
    }

    fn write_entry(&self, table: TableRef, index: usize, value: u64) {
        let mut state = self.state();
        let old = state.entry(table.page().0, index);
        let bytes = state.page(table.page().0);
        let (entries, _) = bytes.as_chunks_mut::<8>();
        if let Some(entry) = entries.get_mut(index) {
            *entry = value.to_le_bytes();
        }
        state.events.push(Event::Write {
            table: table.page(),
            index,
            old,
            new: value,
        });
    }

    fn wipe(&self, pages: &Frames) {
        let mut state = self.state();
        for page in pages.range().iter() {
            state.page(page.0).fill(0);
            state.contexts.remove(&page.0);
        }
        state.events.push(Event::Wipe(pages.range()));
    }

    fn clean(&self, pages: &Frames) {
        self.state().events.push(Event::Clean(pages.range()));
    }

    fn with_page<R>(&self, pages: &Frames, index: u64, f: impl FnOnce(&[u8; 4096]) -> R) -> R {
        let page = pages.range().first().0.saturating_add(index);
        f(self.state().page(page))
    }

    fn put_context(&self, claim: &mut VcpuClaim, context: VcpuContext) {
        self.state().contexts.insert(claim.page().0, context);
    }

    #[expect(
        clippy::expect_used,
        reason = "a fake stops the test that asks for registers which were never put"
    )]
    fn with_context<R>(&self, claim: &mut VcpuClaim, f: impl FnOnce(&mut VcpuContext) -> R) -> R {
        let mut state = self.state();
        let context = state.contexts.get_mut(&claim.page().0);
        f(context.expect("the vCPU has registers"))
    }

    fn publish(&self) {
        let mut state = self.state();
        state.events.push(Event::Publish);
        Self::refill(&mut state);
    }

    fn invalidate(&self, space: Space, removed: &[Removed]) {
        let mut state = self.state();
        state
            .events
            .push(Event::Invalidate(space, removed.to_vec()));
        for leaf in removed {
            state.tlb.forget(space, leaf.page, G::span(leaf.level));
        }
        Self::refill(&mut state);
    }

    fn invalidate_all(&self, space: Space) {
        let mut state = self.state();
        state.events.push(Event::InvalidateAll(space));
        state.tlb.forget(space, 0, G::IPA_PAGES);
        Self::refill(&mut state);
    }

    fn forget_previous_vcpu(&self, space: Space) {
        self.state().events.push(Event::ForgetPreviousVcpu(space));
    }
}
