//! The fake machine: a `Machine` in memory that records every operation that the core asks of it.
//!
//! Pages hold bytes, and tables are pages. The TLBs ([`tlb`]) are the worst that the architecture allows: they keep
//! every translation that was ever valid until an invalidation names it. The independent [`walker`] decodes the
//! tables, and a [`Checker`] checks each event as it is recorded.

mod memory;
pub mod tlb;

use std::cell::Cell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use hyp_core::cpu::registers::VcpuContext;
use hyp_core::machine::event::{Barrier, Event, Scope};
use hyp_core::machine::geometry::{Geometry, Granule4K};
use hyp_core::machine::maintenance::Maintenance;
use hyp_core::machine::{ContextPage, Frames, Machine, Removed, Stage2Id, TableRef};
use shared_abi::addr::Pfn;

use crate::oracle::walker;
use crate::protocol::Checker;
use memory::FakeMemory;
use tlb::Tlb;

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pages: FakeMemory,
    contexts: HashMap<u64, VcpuContext>,
    events: Vec<(usize, Event)>,
    /// The address space in VTTBR_EL2 of each CPU during maintenance.
    selected: HashMap<usize, Stage2Id>,
    tlb: Tlb,
    /// Checks each event as it is recorded.
    checker: Option<Checker>,
    /// Pages that are filled with this byte are not wiped. Tests use it to show that a check notices a missing wipe.
    left_unwiped: Option<u8>,
}

std::thread_local! {
    /// The CPU that this thread plays at the moment.
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Runs `f` as CPU `cpu`: events of this thread are recorded as that CPU's.
pub fn on_cpu<R>(cpu: usize, f: impl FnOnce() -> R) -> R {
    let before = CPU.replace(cpu);
    let result = f();
    CPU.set(before);
    result
}

impl State {
    #[expect(clippy::panic, reason = "a test stops where a rule is broken, with the culprit on its stack")]
    fn tell(&mut self, event: Event) {
        let cpu = CPU.get();
        self.events.push((cpu, event));
        if let Some(mut checker) = self.checker.take() {
            if let Err(violation) = checker.observe(cpu, event) {
                panic!("{violation}");
            }
            self.checker = Some(checker);
        }
    }

    fn page(&mut self, page: u64) -> &mut [u8; 4096] {
        self.pages.page(page)
    }

    fn entry(&self, page: u64, index: usize) -> u64 {
        self.pages.entry(page, index)
    }

    fn translations<G: Geometry>(&self, stage2_id: Stage2Id) -> tlb::Map {
        let read = |page, index| self.entry(page, index);
        tlb::translations(G::INDEX_BITS, G::IPA_PAGES, &read, stage2_id)
    }
}

/// The fake machine, of any geometry.
#[cfg(not(feature = "seeded-bugs"))]
pub type Fake<G = Granule4K> = FaultlessFake<G>;
/// The fake machine, of any geometry, with bugs that can be switched on.
#[cfg(feature = "seeded-bugs")]
pub type Fake<G = Granule4K> = crate::seeded::SeededMachine<FaultlessFake<G>>;

/// The fake machine, without bugs to be switched on.
#[derive(Debug)]
pub struct FaultlessFake<G = Granule4K> {
    state: Mutex<State>,
    jostling: AtomicBool,
    geometry: PhantomData<fn() -> G>,
}

impl<G> Default for FaultlessFake<G> {
    fn default() -> Self {
        Self { state: Mutex::default(), jostling: AtomicBool::new(false), geometry: PhantomData }
    }
}

#[cfg(feature = "seeded-bugs")]
impl<G: Geometry> Fake<G> {
    /// [`FaultlessFake::checked`], with bugs that can be switched on.
    pub fn checked() -> Self {
        Self::new(FaultlessFake::checked())
    }

    /// [`FaultlessFake::fill`]: here too, as [`Machine::fill`] would be found first otherwise.
    pub fn fill(&self, page: Pfn, byte: u8) {
        FaultlessFake::fill(self, page, byte);
    }
}

impl<G: Geometry> FaultlessFake<G> {
    /// Makes a machine that stops the test at the first event that breaks a rule of the
    /// [`protocol`](crate::protocol).
    pub fn checked() -> Self {
        let machine = Self::default();
        machine.state().checker = Some(Checker::new(G::INDEX_BITS));
        machine
    }

    /// Stops checking the rules.
    pub fn stop_checking(&self) {
        self.state().checker = None;
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the events recorded since the last call.
    pub fn take_events(&self) -> Vec<Event> {
        let asked = |event: &Event| {
            !matches!(
                event,
                Event::Taken(_) | Event::Released(_) | Event::Stage2Id(_) | Event::Load(..) | Event::Put(..)
            )
        };
        let trace = self.take_trace().into_iter();
        trace.map(|(_, event)| event).filter(asked).collect()
    }

    /// Takes the events recorded since the last call, each with the CPU that caused it ([`on_cpu`]).
    pub fn take_trace(&self) -> Vec<(usize, Event)> {
        core::mem::take(&mut self.state().events)
    }

    /// Fills a page, as its owner would.
    pub fn fill(&self, page: Pfn, byte: u8) {
        self.state().pages.fill(page.0, byte);
    }

    /// From now on, does not wipe pages that are filled with this byte. A test that claims to check wipes must then
    /// fail.
    pub fn leave_unwiped(&self, byte: u8) {
        self.state().left_unwiped = Some(byte);
    }

    /// From now on, yields the thread wherever a lock changes hands, so that threads interleave more.
    pub fn jostle(&self) {
        self.jostling.store(true, Ordering::Relaxed);
    }

    /// Returns the byte that fills the page, or `None` if its bytes differ.
    pub fn uniform_byte(&self, page: Pfn) -> Option<u8> {
        self.state().pages.uniform_byte(page.0)
    }

    /// Translates an IPA page of `stage2_id` by the tables as they are now.
    pub fn walk(&self, stage2_id: Stage2Id, page: u64) -> Option<walker::Translation> {
        let state = self.state();
        walker::walk(G::INDEX_BITS, &|page, index| state.entry(page, index), stage2_id.root, page)
    }

    /// From now on, assumes that a CPU runs in `stage2_id`: the TLBs hold its translations as soon as they are valid.
    pub fn watch(&self, stage2_id: Stage2Id) {
        let mut state = self.state();
        state.tlb.watch(stage2_id);
        Self::refill(&mut state);
    }

    /// From now on, assumes that no CPU runs in `stage2_id`.
    pub fn unwatch(&self, stage2_id: Stage2Id) {
        self.state().tlb.unwatch(stage2_id);
    }

    /// Returns the translation that the TLBs hold for an IPA page of `stage2_id`.
    pub fn remembered(&self, stage2_id: Stage2Id, page: u64) -> Option<walker::Translation> {
        self.state().tlb.get(stage2_id, page)
    }

    /// Returns the translations of every IPA page of `stage2_id`: by the tables as they are now, and as the TLBs hold
    /// them.
    pub fn translations(&self, stage2_id: Stage2Id) -> (tlb::Map, tlb::Map) {
        let state = self.state();
        let found = state.translations::<G>(stage2_id);
        let remembered = state.tlb.map(stage2_id).cloned();
        (found, remembered.unwrap_or_default())
    }

    /// Returns the violations of break-before-make so far.
    pub fn violations(&self) -> Vec<tlb::StaleTranslation> {
        self.state().tlb.violations()
    }

    fn refill(state: &mut State) {
        let mut tlb = core::mem::take(&mut state.tlb);
        tlb.refill(|stage2_id| state.translations::<G>(stage2_id));
        state.tlb = tlb;
    }
}

impl<G: Geometry> Machine for FaultlessFake<G> {
    type Geometry = G;

    fn read_entry(&self, table: TableRef, index: usize) -> u64 {
        assert!(
            self.state().pages.exists(table.page().0),
            "a table is read that nobody made: {:?}",
            table.page()
        );
        assert!(index < G::ENTRIES, "read of entry {index}, which is beyond the table");
        self.state().entry(table.page().0, index)
    }

    fn write_entry(&self, table: TableRef, index: usize, value: u64) {
        assert!(index < G::ENTRIES, "write of entry {index}, which is beyond the table");
        let mut state = self.state();
        let bytes = state.page(table.page().0);
        let (entries, _) = bytes.as_chunks_mut::<8>();
        if let Some(entry) = entries.get_mut(index) {
            *entry = value.to_le_bytes();
        }
        state.tell(Event::Write { table: table.page(), index, value });
    }

    fn fill(&self, table: TableRef, first: u64, step: u64) {
        let reached = self.state().checker.as_ref().is_some_and(|checker| checker.walks(table.page()));
        assert!(!reached, "fill of a table that walkers can reach");
        let mut next = first;
        for index in 0..G::ENTRIES {
            self.write_entry(table, index, next);
            next = next.wrapping_add(step);
        }
    }

    fn wipe(&self, pages: &Frames) {
        let mut state = self.state();
        for page in pages.range().iter() {
            let left = state.left_unwiped;
            if left.is_none() || state.pages.uniform_byte(page.0) != left {
                state.pages.fill(page.0, 0);
            }
            state.contexts.remove(&page.0);
        }
        state.tell(Event::Wipe(pages.range()));
    }

    fn clean(&self, pages: &Frames) {
        self.state().tell(Event::Clean(pages.range()));
    }

    fn with_page<R>(&self, pages: &Frames, index: u64, f: impl FnOnce(&[u8; 4096]) -> R) -> R {
        let page = pages.range().first().0.saturating_add(index);
        f(self.state().page(page))
    }

    fn put_context(&self, context_page: &mut ContextPage, context: VcpuContext) {
        self.state().contexts.insert(context_page.page().0, context);
    }

    #[expect(clippy::expect_used, reason = "the fake stops a test that reads a context before it is written")]
    fn with_context<R>(&self, context_page: &mut ContextPage, f: impl FnOnce(&mut VcpuContext) -> R) -> R {
        let mut state = self.state();
        let context = state.contexts.get_mut(&context_page.page().0);
        f(context.expect("the vCPU has registers"))
    }

    fn publish(&self) {
        Maintenance::publish(self);
    }

    fn invalidate(&self, stage2_id: Stage2Id, removed: &[Removed]) {
        Maintenance::invalidate(self, stage2_id, removed.iter().map(|leaf| leaf.page));
    }

    fn invalidate_all(&self, stage2_id: Stage2Id) {
        Maintenance::invalidate_all(self, stage2_id);
    }

    fn forget_previous_vcpu(&self, stage2_id: Stage2Id) {
        Maintenance::forget_previous_vcpu(self, stage2_id);
    }

    fn event(&self, event: impl FnOnce() -> Event) {
        self.state().tell(event());
        if self.jostling.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
    }
}

impl<G: Geometry> Maintenance for FaultlessFake<G> {
    fn barrier(&self, barrier: Barrier) {
        let mut state = self.state();
        state.tell(Event::Barrier(barrier));
        // ISB ends each maintenance sequence: every earlier write is visible from here on.
        if barrier == Barrier::Isb {
            Self::refill(&mut state);
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "the fake stops a test that invalidates outside of an address space"
    )]
    fn forget(&self, scope: Scope) {
        let mut state = self.state();
        let stage2_id = *state.selected.get(&CPU.get()).expect("a space is selected");
        state.tell(Event::Tlbi { vmid: stage2_id.vmid, scope });
        match scope {
            Scope::Ipa(page) => state.tlb.forget_leaf(G::INDEX_BITS, stage2_id, page),
            Scope::All => state.tlb.forget(stage2_id, 0, G::IPA_PAGES),
            Scope::Combined | Scope::CombinedHere | Scope::InstructionsHere => {}
        }
    }

    fn in_stage2(&self, stage2_id: Stage2Id, f: impl FnOnce()) {
        self.state().selected.insert(CPU.get(), stage2_id);
        f();
        self.state().selected.remove(&CPU.get());
    }
}
