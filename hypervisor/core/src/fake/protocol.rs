//! Whether a stream of events keeps the rules: of the architecture for tables and TLBs, and ours for
//! locks and for pages that change hands.
//!
//! The stream may come from the fake machine or from a trace of a boot; it has to start with the
//! machine. The checker shares no code with what it checks but the types of the events: it keeps its own
//! copy of all tables, reads them with the independent [`walker`], and remembers of each translation
//! that was taken away how far its invalidation has come. It believes the worst of the hardware: from
//! the moment that a vCPU is loaded, and for the host always, whatever is in the tables is in a TLB.
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
mod memory;
pub mod rule;
mod space;

use core::fmt;
use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

use shared_abi::addr::{PageRange, Pfn};

use super::walker::{self, Meaning};
use crate::event::{Barrier, Event, Scope};
use crate::geometry::Geometry;
use crate::lock::LockId;
use crate::machine::{Space, Vmid};
use cpu::CpuState;
use memory::{Memory, Past};
pub use rule::Rule;
use space::{ROOT_TABLES, Removal, Run, SpaceState, Unpublished};

/// The first rule that a stream breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The number of the event that broke it, from 0 on.
    pub at: usize,
    /// The CPU.
    pub cpu: usize,
    /// The event.
    pub event: Event,
    /// What happened before it, the last first.
    pub before: Vec<(usize, Event)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, at, cpu, event, before } = self;
        write!(f, "event {at}, CPU {cpu}: {event}\n  breaks: {rule}\n  before it:")?;
        for (cpu, event) in before {
            write!(f, "\n    CPU {cpu}: {event}")?;
        }
        Ok(())
    }
}

/// The host's VMID.
const HOST: u8 = 0;

/// Events that a violation shows.
const SHOWN: usize = 12;

/// Checks a whole stream.
///
/// # Errors
///
/// The first [`Violation`].
pub fn check<G: Geometry>(events: &[(usize, Event)]) -> Result<(), Violation> {
    Checker::new(G::INDEX_BITS).observe_all(events)
}

/// Where a table is in a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attached {
    vmid: u8,
    level: u32,
    /// The first IPA page that it translates.
    ipa: u64,
}

/// What a stream has said so far.
#[derive(Clone, Debug)]
pub struct Checker {
    bits: u32,
    seen: usize,
    recent: Vec<(usize, Event)>,
    memory: Memory,
    spaces: BTreeMap<u8, SpaceState>,
    attached: BTreeMap<u64, Attached>,
    cpus: BTreeMap<usize, CpuState>,
}

impl Checker {
    /// A checker for tables of `bits` index bits per level.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        Self {
            bits,
            seen: 0,
            recent: Vec::new(),
            memory: Memory::default(),
            spaces: BTreeMap::new(),
            attached: BTreeMap::new(),
            cpus: BTreeMap::new(),
        }
    }

    /// How many events it has seen.
    #[must_use]
    pub const fn seen(&self) -> usize {
        self.seen
    }

    /// Takes in the events that come next.
    ///
    /// # Errors
    ///
    /// The first [`Violation`]; what the checker says after one means nothing.
    pub fn observe_all(&mut self, events: &[(usize, Event)]) -> Result<(), Violation> {
        let mut events = events.iter();
        events.try_for_each(|(cpu, event)| self.observe(*cpu, *event))
    }

    /// Takes in the event that comes next.
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
            Event::Space(space) => self.space(space),
            Event::Write { table, index, value } => self.write(cpu, table.0, index, value),
            Event::Barrier(barrier) => {
                self.barrier(cpu, barrier);
                Ok(())
            }
            Event::Tlbi { vmid, scope } => self.invalidate(cpu, vmid, scope),
            Event::Wipe(pages) => self.wipe(pages),
            Event::Clean(pages) => self.clean(pages),
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

    /// New tables: the VMID is theirs from now on.
    fn space(&mut self, space: Space) -> Result<(), Rule> {
        let vmid = space.vmid.0;
        if self.spaces.get(&vmid).is_some_and(|old| !old.reusable) {
            return Err(Rule::VmidReuse);
        }
        let lock = match usize::from(vmid).checked_sub(1) {
            None => LockId::Host,
            Some(place) => LockId::Place(place),
        };
        self.attached.retain(|_, attached| attached.vmid != vmid);
        let root = space.root.page().0;
        self.spaces.insert(vmid, SpaceState::new(root, lock));
        for which in 0..ROOT_TABLES {
            let ipa = which * (walker::pages_covered(self.bits, 1) << self.bits);
            let level = 1;
            self.attach(root + which, Attached { vmid, level, ipa })?;
        }
        Ok(())
    }

    fn write(&mut self, cpu: usize, table: u64, index: usize, value: u64) -> Result<(), Rule> {
        if !self.memory.is_table(table) {
            let reached = |space: &SpaceState| !space.over && space.maps(table, table + 1);
            if self.remembered(table, table + 1, None) {
                return Err(Rule::GoneBeforeReuse);
            }
            if !self.memory.is_wiped(table) || self.spaces.values().any(reached) {
                return Err(Rule::TablePage);
            }
        } else if self.remembered(table, table + 1, None) {
            // A table that was taken out is walked until it has left the TLBs.
            return Err(Rule::GoneBeforeReuse);
        }
        let Some(at) = self.attached.get(&table).copied() else {
            self.memory.write(table, index, value);
            return Ok(());
        };
        let space = self.spaces.get_mut(&at.vmid).ok_or(Rule::Stream)?;
        let lock = space.lock;
        space.changed = true;
        if !self.cpu(cpu).holds(lock) {
            return Err(Rule::UnderLock);
        }
        let old = self.memory.write(table, index, value);
        let covered = walker::pages_covered(self.bits, at.level);
        let ipa = at.ipa + index as u64 * covered;
        match (self.meaning(at.level, old), self.meaning(at.level, value)) {
            (Meaning::Fault, Meaning::Fault) => Ok(()),
            (Meaning::Fault, meaning) => {
                let space = self.spaces.get_mut(&at.vmid).ok_or(Rule::Stream)?;
                let mut removals = space.removals.iter();
                if removals.any(|removal| removal.overlaps(ipa, covered)) {
                    return Err(Rule::BreakBeforeMake);
                }
                space.unpublished = Some(Unpublished::Written(cpu));
                self.add(at, ipa, value, meaning)
            }
            (meaning, Meaning::Fault) => self.remove(cpu, at, ipa, meaning),
            _ if old == value => Ok(()),
            _ => Err(Rule::BreakBeforeMake),
        }
    }

    fn meaning(&self, level: u32, value: u64) -> Meaning {
        walker::meaning(self.bits, level, value)
    }

    /// Whether a space, other than one, may still translate to these pages by what is gone.
    fn remembered(&self, first: u64, end: u64, but: Option<u8>) -> bool {
        let mut spaces = self.spaces.iter();
        spaces.any(|(vmid, space)| Some(*vmid) != but && space.remembers(first, end))
    }

    /// A descriptor became valid, in a table that is walked.
    fn add(&mut self, at: Attached, ipa: u64, value: u64, meaning: Meaning) -> Result<(), Rule> {
        /// Bits 1 and 0 of a descriptor that names a table.
        const TABLE: u64 = 0b11;
        match meaning {
            Meaning::Fault => Ok(()),
            Meaning::Table(table) if value != table.base().0 | TABLE => Err(Rule::Descriptor),
            Meaning::Table(table) => {
                let level = at.level + 1;
                self.attach(table.0, Attached { level, ipa, ..at })
            }
            Meaning::Leaf(leaf) => {
                if !leaf.plain || !leaf.usable {
                    return Err(Rule::Descriptor);
                }
                let pages = walker::pages_covered(self.bits, at.level);
                let to = leaf.page.0;
                self.map(at.vmid, Run { ipa, pages, to })
            }
        }
    }

    /// A table is walked from now on, and all that it leads to.
    fn attach(&mut self, table: u64, at: Attached) -> Result<(), Rule> {
        if !self.memory.is_table(table) && !self.memory.is_wiped(table) {
            return Err(Rule::TablePage);
        }
        if self.attached.insert(table, at).is_some() {
            return Err(Rule::TablePage);
        }
        if let Some(space) = self.spaces.get_mut(&at.vmid) {
            space.tables += 1;
        }
        let covered = walker::pages_covered(self.bits, at.level);
        for (index, value, meaning) in self.memory.meanings(self.bits, at.level, table) {
            self.add(at, at.ipa + index as u64 * covered, value, meaning)?;
        }
        Ok(())
    }

    /// A run of pages is mapped from now on.
    fn map(&mut self, vmid: u8, run: Run) -> Result<(), Rule> {
        let (first, end) = (run.to, run.to + run.pages);
        if self.remembered(first, end, Some(vmid)) {
            return Err(Rule::GoneBeforeReuse);
        }
        if !self.memory.tables_in(first, end).is_empty() {
            return Err(Rule::HandOver);
        }
        for (_, _, past) in self.memory.past.values(first, end) {
            if matches!(past, Past::LeftBy(by) if by != vmid) {
                return Err(Rule::HandOver);
            }
        }
        self.memory.past.set(first, end, None);
        let space = self.spaces.get_mut(&vmid).ok_or(Rule::Stream)?;
        space.leaves.insert(run.to, run);
        Ok(())
    }

    /// A descriptor became invalid, in a table that is walked.
    fn remove(&mut self, cpu: usize, at: Attached, ipa: u64, meaning: Meaning) -> Result<(), Rule> {
        let pages = walker::pages_covered(self.bits, at.level);
        let mut removal = Removal::new(cpu, ipa, pages);
        self.detach(at, ipa, meaning, &mut removal);
        let over = self.spaces.get(&at.vmid).is_some_and(|space| space.over);
        for run in removal.runs.iter().filter(|_| !over) {
            let left = Some(Past::LeftBy(at.vmid));
            self.memory.past.set(run.to, run.to + run.pages, left);
        }
        let space = self.spaces.get_mut(&at.vmid).ok_or(Rule::Stream)?;
        for run in &removal.runs {
            space.leaves.remove(&run.to);
        }
        space.tables -= removal.tables.len() as u64;
        if !space.quiet {
            space.removals.push(removal);
        }
        Ok(())
    }

    /// What a descriptor led to is not walked any more.
    fn detach(&mut self, at: Attached, ipa: u64, meaning: Meaning, removal: &mut Removal) {
        match meaning {
            Meaning::Fault => {}
            Meaning::Leaf(leaf) => removal.runs.push(Run {
                ipa,
                pages: walker::pages_covered(self.bits, at.level),
                to: leaf.page.0,
            }),
            Meaning::Table(table) => {
                let level = at.level + 1;
                let at = Attached { level, ipa, ..at };
                self.attached.remove(&table.0);
                removal.tables.push(table.0);
                let covered = walker::pages_covered(self.bits, level);
                for (index, _, meaning) in self.memory.meanings(self.bits, level, table.0) {
                    self.detach(at, ipa + index as u64 * covered, meaning, removal);
                }
            }
        }
    }

    fn barrier(&mut self, cpu: usize, barrier: Barrier) {
        let mut complete = false;
        for space in self.spaces.values_mut() {
            match barrier {
                Barrier::DsbIshst => complete |= !space.wait(cpu, false).is_empty(),
                Barrier::DsbIsh => complete |= !space.wait(cpu, true).is_empty(),
                Barrier::DsbNsh => {}
                Barrier::Isb => space.synchronize(cpu),
            }
        }
        let cpu = self.cpu(cpu);
        cpu.owes_isb |= complete;
        cpu.barrier(barrier);
    }

    fn invalidate(&mut self, cpu: usize, vmid: Vmid, scope: Scope) -> Result<(), Rule> {
        if let Scope::CombinedHere | Scope::InstructionsHere = scope {
            self.cpu(cpu).forget(vmid.0, scope);
            return Ok(());
        }
        let used = match self.spaces.get_mut(&vmid.0) {
            Some(space) => space.invalidate(cpu, scope)?,
            None => false,
        };
        let meant = |space: &SpaceState| {
            let mut removals = space.removals.iter();
            removals.any(|removal| match scope {
                Scope::Ipa(page) => removal.cpu == cpu && removal.covers(page),
                _ => removal.cpu == cpu,
            })
        };
        if !used && scope != Scope::Combined && self.spaces.values().any(meant) {
            return Err(Rule::RightVmid);
        }
        Ok(())
    }

    fn wipe(&mut self, pages: PageRange<Pfn>) -> Result<(), Rule> {
        let (first, end) = (pages.first().0, pages.end().0);
        if self.remembered(first, end, None) {
            return Err(Rule::GoneBeforeReuse);
        }
        for (table, at) in self.attached.extract_if(first..end, |_, _| true) {
            let space = self.spaces.get_mut(&at.vmid).ok_or(Rule::Stream)?;
            if !space.over {
                return Err(Rule::GoneBeforeReuse);
            }
            self.memory.drop_table(table);
        }
        for table in self.memory.tables_in(first, end) {
            self.memory.drop_table(table);
        }
        self.memory.past.set(first, end, Some(Past::Wiped));
        Ok(())
    }

    fn clean(&mut self, pages: PageRange<Pfn>) -> Result<(), Rule> {
        let (first, end) = (pages.first().0, pages.end().0);
        if self.remembered(first, end, None) {
            return Err(Rule::GoneBeforeReuse);
        }
        // Cleaning makes what the host wrote visible. What a guest left is not gone by it, unless the
        // page was the host's all the time.
        for (first, end, past) in self.memory.past.values(first, end) {
            let Past::LeftBy(by) = past else { continue };
            let host = self.spaces.get(&HOST);
            let lent = |page: &u64| host.is_some_and(|host| host.maps(*page, page + 1));
            for page in (first..end).filter(|page| by == HOST || lent(page)) {
                self.memory.past.set(page, page + 1, Some(Past::Cleaned));
            }
        }
        Ok(())
    }

    fn take(&mut self, cpu: usize, lock: LockId) -> Result<(), Rule> {
        if self.cpus.values().any(|cpu| cpu.holds(lock)) {
            return Err(Rule::LockOrder);
        }
        self.cpu(cpu).take(lock)
    }

    fn release(&mut self, cpu: usize, lock: LockId) -> Result<(), Rule> {
        self.cpu(cpu).release(lock)?;
        for space in self.spaces.values_mut().filter(|space| space.lock == lock) {
            space.changed = false;
            space.owes(cpu)?;
        }
        if self.cpu(cpu).owes_isb {
            return Err(Rule::Synchronized);
        }
        Ok(())
    }

    fn holds_nothing(&mut self, cpu: usize) -> Result<(), Rule> {
        if self.cpu(cpu).is_free() { Ok(()) } else { Err(Rule::LockHeld) }
    }

    fn load(&mut self, cpu: usize, vmid: Vmid, vcpu: u32) -> Result<(), Rule> {
        let forgot = self.cpu(cpu).take_forgotten(vmid.0);
        let space = self.spaces.get_mut(&vmid.0).ok_or(Rule::Stream)?;
        if space.loaded.insert(vcpu, cpu).is_some() {
            return Err(Rule::OneCpu);
        }
        let last = space.last.insert(cpu, vcpu);
        if last.is_some_and(|last| last != vcpu) && !forgot {
            return Err(Rule::PreviousVcpu);
        }
        (space.quiet, space.reusable, space.over) = (false, false, false);
        Ok(())
    }

    fn enter(&mut self, cpu: usize, vttbr: u64) -> Result<(), Rule> {
        /// VTTBR_EL2: VMID from bit 48, CnP in bit 0, the table's address between.
        const VMID_SHIFT: u32 = 48;
        const ADDRESS: u64 = 0x0000_ffff_ffff_fffe;
        self.holds_nothing(cpu)?;
        for space in self.spaces.values() {
            space.owes(cpu)?;
        }
        let vmid = u8::try_from(vttbr >> VMID_SHIFT).map_err(|_| Rule::Vttbr)?;
        let space = self.spaces.get(&vmid).ok_or(Rule::Vttbr)?;
        let root = Pfn(space.root).base().0;
        let here = vmid == HOST || space.loaded.values().any(|on| *on == cpu);
        if vttbr & 1 != 0 || vttbr & ADDRESS != root || !here {
            return Err(Rule::Vttbr);
        }
        Ok(())
    }

    /// What the checker knows, for a message.
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
