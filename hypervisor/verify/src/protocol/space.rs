//! What a stream says about a stage-2 address space: what its tables map, and what TLBs may still
//! remember of what they mapped before.

use std::collections::BTreeMap;
use std::vec::Vec;

use hyp_core::machine::event::Scope;
use hyp_core::machine::lock::LockId;

use super::rule::Rule;

/// The concatenated tables at the root.
pub(super) const ROOT_TABLES: u64 = 2;

/// A run of pages, and where it goes.
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

/// How far an invalidation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The entry is invalid.
    Written,
    /// And all walkers see it.
    Visible,
    /// TLBI by IPA was issued.
    Issued,
    /// And is complete.
    Waited,
    /// TLBI of combined entries, or of all, was issued.
    Last,
}

/// A valid entry was made invalid, and TLBs may still remember it.
#[derive(Clone, Debug)]
pub(super) struct Removal {
    /// Who did it, and has to see to the rest.
    pub(super) cpu: usize,
    /// The IPA pages that the entry covered.
    pub(super) ipa: u64,
    pub(super) pages: u64,
    /// What it translated.
    pub(super) runs: Vec<MappedRun>,
    /// The tables that it led to; none for a leaf.
    pub(super) tables: Vec<u64>,
    step: Step,
    /// An invalidation by IPA was tried, for a table.
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

    /// What is wrong if nothing more is done about it.
    pub(super) const fn owes(&self) -> Rule {
        match self.step {
            Step::Written | Step::Visible if self.narrow => Rule::WholeVmid,
            Step::Written | Step::Visible => Rule::Invalidated,
            Step::Issued | Step::Waited => Rule::CombinedToo,
            Step::Last => Rule::Complete,
        }
    }

    /// An invalidation of its VMID's was issued.
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

/// Entries that were made valid and that walkers need not see yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unpublished {
    /// By this CPU.
    Written(usize),
    /// It has waited since, and owes an ISB.
    Waited(usize),
}

/// A space.
#[derive(Clone, Debug)]
pub(super) struct SpaceState {
    pub(super) root: u64,
    pub(super) lock: LockId,
    /// What is mapped, by physical page.
    pub(super) leaves: BTreeMap<u64, MappedRun>,
    pub(super) removals: Vec<Removal>,
    pub(super) unpublished: Option<Unpublished>,
    /// Nobody runs in it, and no TLB remembers it.
    pub(super) quiet: bool,
    /// And no walk ahead of time can have filled one: nothing was mapped.
    pub(super) reusable: bool,
    /// All of it was invalidated, and not because its tables changed: it is being torn down.
    pub(super) over: bool,
    /// Its tables changed since its lock was taken.
    pub(super) changed: bool,
    /// How many tables translate for it, the root's two among them.
    pub(super) tables: u64,
    /// A TLBI of everything by that CPU, which is not complete.
    forgetting: Option<usize>,
    /// Its vCPUs that are loaded: on which CPU.
    pub(super) loaded: BTreeMap<u32, usize>,
    /// Which vCPU ran last on each CPU.
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

    /// Whether a leaf leads into these pages.
    pub(super) fn maps(&self, first: u64, end: u64) -> bool {
        let below = self.leaves.range(..end).next_back();
        below.is_some_and(|(_, run)| run.reaches(first, end))
    }

    /// Whether a TLB may remember a translation to these pages that is gone.
    pub(super) fn remembers(&self, first: u64, end: u64) -> bool {
        let mut removals = self.removals.iter();
        removals.any(|removal| removal.reaches(first, end))
    }

    /// An invalidation by `cpu`; answers whether it was for something.
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

    /// A DSB by `cpu`. What is complete now is returned; `everywhere` says that it waited for loads, stores
    /// and maintenance in the inner shareable domain and not for stores alone.
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

    /// An ISB by `cpu`.
    pub(super) fn synchronize(&mut self, cpu: usize) {
        if self.unpublished == Some(Unpublished::Waited(cpu)) {
            self.unpublished = None;
        }
    }

    /// What is wrong if `cpu` does nothing more here.
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
