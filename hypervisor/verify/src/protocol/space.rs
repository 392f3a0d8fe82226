//! The state of a stage-2 address space, from the event stream: the mappings in its tables, and the removed
//! mappings that TLBs may still hold.

use std::collections::BTreeMap;
use std::vec::Vec;

use hyp_core::machine::event::Scope;
use hyp_core::machine::lock::LockId;

use super::rule::Rule;

/// The number of concatenated tables at the root.
pub(super) const ROOT_TABLES: u64 = 2;

/// A run of IPA pages and the physical pages that it maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MappedRun {
    pub(super) ipa: u64,
    pub(super) pages: u64,
    pub(super) to: u64,
}

impl MappedRun {
    pub(super) const fn reaches(&self, first: u64, end: u64) -> bool {
        self.to < end && first < self.to + self.pages
    }
}

/// The progress of an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The entry is invalid.
    Written,
    /// The write is visible to all walkers.
    Visible,
    /// TLBI by IPA is issued.
    Issued,
    /// TLBI by IPA is complete.
    Waited,
    /// TLBI of the combined entries, or of all entries, is issued.
    Last,
}

/// A valid entry was made invalid, and TLBs may still hold its translation.
#[derive(Clone, Debug)]
pub(super) struct Removal {
    /// The CPU that removed the entry, and must invalidate its translation.
    pub(super) cpu: usize,
    /// The IPA pages that the entry covered.
    pub(super) ipa: u64,
    pub(super) pages: u64,
    /// The translations of the entry.
    pub(super) runs: Vec<MappedRun>,
    /// The tables below the entry; empty for a leaf.
    pub(super) tables: Vec<u64>,
    step: Step,
    /// A table was invalidated by IPA, which is too narrow.
    narrow: bool,
}

impl Removal {
    pub(super) const fn new(cpu: usize, ipa: u64, pages: u64) -> Self {
        Self { cpu, ipa, pages, runs: Vec::new(), tables: Vec::new(), step: Step::Written, narrow: false }
    }

    pub(super) const fn covers(&self, ipa: u64) -> bool {
        ipa >= self.ipa && ipa < self.ipa + self.pages
    }

    pub(super) const fn overlaps(&self, ipa: u64, pages: u64) -> bool {
        ipa < self.ipa + self.pages && self.ipa < ipa + pages
    }

    pub(super) fn reaches(&self, first: u64, end: u64) -> bool {
        self.runs.iter().any(|run| run.reaches(first, end))
            || self.tables.iter().any(|table| *table >= first && *table < end)
    }

    /// The rule that is broken if no more maintenance follows.
    pub(super) const fn owes(&self) -> Rule {
        match self.step {
            Step::Written | Step::Visible if self.narrow => Rule::WholeVmid,
            Step::Written | Step::Visible => Rule::Invalidated,
            Step::Issued | Step::Waited => Rule::CombinedToo,
            Step::Last => Rule::Complete,
        }
    }

    /// Records a TLBI of this VMID.
    fn invalidate(&mut self, scope: Scope) -> Result<(), Rule> {
        let is_table = !self.tables.is_empty();
        self.step = match (scope, self.step) {
            (Scope::Ipa(page), _) if !self.covers(page) => return Ok(()),
            (Scope::Ipa(_), _) if is_table => {
                self.narrow = true;
                return Ok(());
            }
            (Scope::Ipa(_) | Scope::All, Step::Written) => return Err(Rule::VisibleFirst),
            (Scope::Ipa(_), Step::Visible) => Step::Issued,
            (Scope::Combined, Step::Issued) => return Err(Rule::CombinedToo),
            (Scope::Combined, Step::Waited) | (Scope::All, _) => Step::Last,
            (_, step) => step,
        };
        Ok(())
    }
}

/// The progress of new valid entries towards the walkers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unpublished {
    /// This CPU wrote them.
    Written(usize),
    /// This CPU executed a DSB since, and must execute an ISB.
    Waited(usize),
}

/// A stage-2 address space.
#[derive(Clone, Debug)]
pub(super) struct SpaceState {
    pub(super) root: u64,
    pub(super) lock: LockId,
    /// The mappings, by physical page.
    pub(super) leaves: BTreeMap<u64, MappedRun>,
    pub(super) removals: Vec<Removal>,
    pub(super) unpublished: Option<Unpublished>,
    /// No vCPU of it is loaded, and no TLB holds a translation of it.
    pub(super) quiet: bool,
    /// Nothing was mapped, so no speculative walk can have filled a TLB.
    pub(super) reusable: bool,
    /// All of it was invalidated without a change of its tables: it is being destroyed.
    pub(super) over: bool,
    /// Its tables changed since its lock was taken.
    pub(super) changed: bool,
    /// The number of its tables, with the root's two.
    pub(super) tables: u64,
    /// The CPU whose TLBI of all entries is not yet complete.
    forgetting: Option<usize>,
    /// The CPU of each loaded vCPU.
    pub(super) loaded: BTreeMap<u32, usize>,
    /// The vCPU that ran last on each CPU.
    pub(super) last: BTreeMap<usize, u32>,
}

impl SpaceState {
    pub(super) fn new(root: u64, lock: LockId) -> Self {
        Self {
            root,
            lock,
            leaves: BTreeMap::new(),
            removals: Vec::new(),
            unpublished: None,
            quiet: lock != LockId::HOST,
            reusable: true,
            over: false,
            changed: false,
            tables: 0,
            forgetting: None,
            loaded: BTreeMap::new(),
            last: BTreeMap::new(),
        }
    }

    /// Returns true if a leaf maps one of these pages.
    pub(super) fn maps(&self, first: u64, end: u64) -> bool {
        let below = self.leaves.range(..end).next_back();
        below.is_some_and(|(_, run)| run.reaches(first, end))
    }

    /// Returns true if a TLB may hold a removed translation to one of these pages.
    pub(super) fn remembers(&self, first: u64, end: u64) -> bool {
        let mut removals = self.removals.iter();
        removals.any(|removal| removal.reaches(first, end))
    }

    /// Records a TLBI by `cpu`. Returns true if a removal needed it.
    pub(super) fn invalidate(&mut self, cpu: usize, scope: Scope) -> Result<bool, Rule> {
        let mut used = false;
        for removal in self.removals.iter_mut().filter(|removal| removal.cpu == cpu) {
            used |= match scope {
                Scope::Ipa(page) => removal.covers(page),
                _ => true,
            };
            removal.invalidate(scope)?;
        }
        if scope == Scope::All {
            self.forgetting = Some(cpu);
        }
        Ok(used)
    }

    /// Records a DSB by `cpu`, and returns the removals that are now complete. If `everywhere`, the DSB waits for
    /// loads, stores and maintenance in the inner shareable domain; otherwise it waits for stores only.
    pub(super) fn wait(&mut self, cpu: usize, everywhere: bool) -> Vec<Removal> {
        if self.unpublished == Some(Unpublished::Written(cpu)) {
            self.unpublished = Some(Unpublished::Waited(cpu));
        }
        for removal in self.removals.iter_mut().filter(|removal| removal.cpu == cpu) {
            removal.step = match removal.step {
                Step::Written => Step::Visible,
                Step::Issued if everywhere => Step::Waited,
                step => step,
            };
        }
        if !everywhere {
            return Vec::new();
        }
        if self.forgetting == Some(cpu) {
            self.forgetting = None;
            if self.loaded.is_empty() && self.lock != LockId::HOST {
                self.quiet = true;
                self.over |= !self.changed;
                self.reusable = self.leaves.is_empty() && self.tables == ROOT_TABLES;
            }
        }
        let done = |removal: &mut Removal| removal.cpu == cpu && removal.step == Step::Last;
        self.removals.extract_if(.., done).collect()
    }

    /// Records an ISB by `cpu`.
    pub(super) fn synchronize(&mut self, cpu: usize) {
        if self.unpublished == Some(Unpublished::Waited(cpu)) {
            self.unpublished = None;
        }
    }

    /// Returns the rule that is broken if `cpu` executes no more maintenance for this address space.
    pub(super) fn owes(&self, cpu: usize) -> Result<(), Rule> {
        if let Some(removal) = self.removals.iter().find(|removal| removal.cpu == cpu) {
            return Err(removal.owes());
        }
        match self.unpublished {
            Some(Unpublished::Written(by) | Unpublished::Waited(by)) if by == cpu => Err(Rule::Published),
            _ => Ok(()),
        }
    }
}
