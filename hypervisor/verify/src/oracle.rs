//! An oracle: holds what the tables let each party reach against what the page states say, for every page
//! and every party, and stops at the first difference.
//!
//! It reads the *real* tables, by a [`walker`] of its own that shares nothing with the mapper, and the
//! real page states and objects. It is a debugging aid, not part of the shipped hypervisor: the feature
//! `oracle` compiles it in, `cargo run -- boot --oracle` runs it after every call and exit at EL2, and
//! tests run it on the fake machine. What it holds everybody to is the list of [`OracleRule`]s.
//!
//! How it comes to its verdict:
//!
//! 1. `tables::survey` reads every table of every party once. Each table must be in its
//!    owner's custody *before* it is read. What it finds is counted.
//! 2. The owner map of all RAM are read in runs (`pages`); for each run the host's tables, the guest's
//!    tables and the guest's object must say what follows from it.
//! 3. The counts must agree. As each recorded page was found where it belongs, equal counts mean that
//!    nothing else is mapped, so that page states, objects and guest tables are one to one.
//! 4. [`changes`] of owner since the last look must be such that the calls made since then allow them.
//!
//! TLBs and caches can't be read. What is owed to them is checked on the recording fake instead.

pub mod changes;
mod pages;
mod tables;
pub mod walker;

use core::fmt;

use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::{MAX_VMS, VmIndex};
use hyp_core::machine::Machine;
use hyp_core::ownership::page_state::{Owner, PageState};
use hyp_core::verify::{ObjectFault, View, VmView, look};
use shared_abi::addr::{PAGE_SHIFT, Pfn};

use changes::{Calls, PastOwners};

/// What has to hold of every page and every party, whenever no call is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OracleRule {
    /// A page that a protected VM owns and has not shared: its guest reaches it, the host does not.
    Private = 1,
    /// A page that a protected VM shares: its guest reaches it, and the host.
    Shared,
    /// A page of the host's: the host reaches it, no guest does.
    Host,
    /// A page that the host lent: the host reaches it, and one VM, which is an ordinary one.
    Lent,
    /// A page of the hypervisor's or of a VM's pool: nobody reaches it.
    Kept,
    /// Translation tables, tables of objects and vCPUs' registers are in pages that nobody reaches: the
    /// host's in the hypervisor's pages, a VM's in its own pool.
    Custody,
    /// Record, object and guest table name one another: a page of RAM is recorded as page P of an object
    /// if and only if that object has it at P, and the guest, where P is bound, has it there.
    Bijection,
    /// No page is in two guests, or at two places of one.
    Once,
    /// Counters say what there is: deviating page states of a block, pages of a chunk and of an object, shared
    /// pages, tables in use and free.
    Counts,
    /// Outside of RAM the host reaches devices that are not denied, and a guest nothing.
    Devices,
    /// The host reaches a page at its own physical address.
    Identity,
    /// RAM is mapped as Normal Write-Back memory to read, write and execute, devices as Device-nGnRE, never
    /// executable; no other bit of a descriptor is set, and an invalid one is zero.
    Attributes,
    /// A VM that is torn down has no vCPU on a CPU.
    Dead,
    /// A page changes hands only as a call allows that was made since the last look.
    Transition,
    /// A page that comes to the host from a protected VM or from a pool is all zeroes.
    Wiped,
}

impl OracleRule {
    /// All rules.
    pub const ALL: [Self; 15] = [
        Self::Private,
        Self::Shared,
        Self::Host,
        Self::Lent,
        Self::Kept,
        Self::Custody,
        Self::Bijection,
        Self::Once,
        Self::Counts,
        Self::Devices,
        Self::Identity,
        Self::Attributes,
        Self::Dead,
        Self::Transition,
        Self::Wiped,
    ];

    /// The rule in a few words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Private => "a private page is its guest's alone",
            Self::Shared => "a shared page is its guest's and the host's",
            Self::Host => "a host page is the host's alone",
            Self::Lent => "a lent page is the host's and one ordinary VM's",
            Self::Kept => "the hypervisor's and the pools' pages are nobody's to reach",
            Self::Custody => "tables are in pages that nobody reaches",
            Self::Bijection => "record, object and guest table name one another",
            Self::Once => "a page is in one guest, at one place",
            Self::Counts => "counters say what there is",
            Self::Devices => "outside of RAM are the host's devices alone",
            Self::Identity => "the host's map is the identity",
            Self::Attributes => "descriptors have the bits that are specified",
            Self::Dead => "a VM that is torn down does not run",
            Self::Transition => "pages change hands as a call allows",
            Self::Wiped => "what comes back to the host is zero",
        }
    }
}

impl fmt::Display for OracleRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}: {}", *self as u8, self.text())
    }
}

/// Who reaches something, or has miscounted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The host.
    Host,
    /// The VM of this index.
    Vm(VmIndex),
    /// The hypervisor's own page states.
    Hypervisor,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host"),
            Self::Vm(vm) => write!(f, "VM {}", vm.0),
            Self::Hypervisor => f.write_str("the hypervisor"),
        }
    }
}

/// Something is not as it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("oracle: page {:#x}, {party}, {rule}", page << PAGE_SHIFT)]
pub struct Difference {
    /// What does not hold.
    pub rule: OracleRule,
    /// For whom.
    pub party: Party,
    /// Where: the number of a physical page; of an IPA page if nothing physical is there. For a count, the
    /// first page of the block, the table, or the VM's root tables.
    pub page: u64,
}

impl Difference {
    const fn new(rule: OracleRule, party: Party, page: u64) -> Self {
        Self { rule, party, page }
    }
}

/// Looks once, under all locks: no call is under way anywhere while it looks.
///
/// # Errors
///
/// The first [`Difference`].
pub fn check<M: Machine>(hypervisor: &Hypervisor<'_, M>) -> Result<(), Difference> {
    look(hypervisor, |view| Look(view).check().map(|_| ()))
}

/// How many words [`Oracle::new`] takes: as many as there are page states.
#[must_use]
pub fn words_needed<M: Machine>(hypervisor: &Hypervisor<'_, M>) -> usize {
    look(hypervisor, |view| view.owners().words())
}

/// An oracle that remembers what it saw the last time.
#[derive(Debug)]
pub struct Oracle<'m> {
    memory: PastOwners<'m>,
    /// Tables of the host's, used and free: there never are more or fewer.
    host_tables: u64,
}

impl<'m> Oracle<'m> {
    /// An oracle that takes what there is now as given; it remembers it in `words`, [`words_needed`] of
    /// them or more.
    ///
    /// # Errors
    ///
    /// The first [`Difference`]; also if there are too few words.
    pub fn new<M: Machine>(hypervisor: &Hypervisor<'_, M>, words: &'m mut [u64]) -> Result<Self, Difference> {
        look(hypervisor, |view| {
            let host_tables = Look(view).check()?;
            let owners = view.owners();
            let short = Difference::new(OracleRule::Transition, Party::Hypervisor, 0);
            let memory = PastOwners::new(owners, words).ok_or(short)?;
            Ok(Self { memory, host_tables })
        })
    }

    /// [`check`], and what changed since the last time. `calls`, asked under all locks, says what kinds of
    /// calls were made since then.
    ///
    /// # Errors
    ///
    /// The first [`Difference`].
    pub fn check<M: Machine>(
        &mut self,
        hypervisor: &Hypervisor<'_, M>,
        calls: impl FnOnce() -> Calls,
    ) -> Result<(), Difference> {
        look(hypervisor, |view| {
            if Look(view).check()? != self.host_tables {
                let root = view.host_root();
                return Err(Difference::new(OracleRule::Counts, Party::Host, root.0));
            }
            self.memory.check(view.machine(), view.owners(), calls())
        })
    }
}

/// What the page states say of a VM.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Pages of its objects.
    pages: u64,
    /// Those that it shares.
    shared: u64,
    /// Pages of its pool.
    pool: u64,
}

/// One look at everything.
struct Look<'v, 'a, 'm, M: Machine>(&'v View<'a, 'm, M>);

impl<M: Machine> Look<'_, '_, '_, M> {
    /// Checks all that can be seen at once. Answers how many tables the host has, used and free.
    fn check(&self) -> Result<u64, Difference> {
        if let Some(page) = self.0.owners().miscounted() {
            return Err(Difference::new(OracleRule::Counts, Party::Hypervisor, page.0));
        }
        let host = tables::survey(self.0.machine(), self.0.host_root(), Party::Host, |page| {
            self.owner(page) == Some(Owner::Hypervisor)
        })?;
        let mut counted = [(0, 0); MAX_VMS];
        for (index, counted) in (0..).map(VmIndex).zip(&mut counted) {
            if let Some(vm) = self.0.vm(index) {
                *counted = self.survey_vm(vm)?;
            }
        }
        let mut tallies = [Tally::default(); MAX_VMS];
        self.check_pages(&mut tallies)?;
        self.check_devices()?;
        for (index, (tally, (mapped, held))) in (0..).map(VmIndex).zip(tallies.into_iter().zip(counted)) {
            match self.0.vm(index) {
                Some(vm) => self.check_counts(vm, tally, mapped, held)?,
                None if tally.pool != 0 => {
                    let page = self.first_of(Owner::Pool(index));
                    return Err(Difference::new(OracleRule::Counts, Party::Vm(index), page));
                }
                None => {}
            }
        }
        Ok(host.tables.saturating_add(self.0.host_tables_free()))
    }

    fn owner(&self, page: Pfn) -> Option<Owner> {
        self.0.owners().get(page).map(PageState::owner)
    }

    /// Reads all tables of a VM. Answers how many pages its guest reaches, and how many pages of its pool
    /// are spoken for.
    fn survey_vm(&self, vm: VmView<'_>) -> Result<(u64, u64), Difference> {
        let party = Party::Vm(vm.index());
        let machine = self.0.machine();
        let custody = |page| self.owner(page) == Some(Owner::Pool(vm.index()));
        let guest = tables::survey(machine, vm.root(), party, custody)?;
        let mut held = guest.tables.saturating_add(vm.pool_free());
        for (context, runs) in vm.vcpus() {
            if !custody(context) {
                return Err(Difference::new(OracleRule::Custody, party, context.0));
            }
            if vm.is_dying() && runs {
                return Err(Difference::new(OracleRule::Dead, party, context.0));
            }
            held = held.saturating_add(1);
        }
        for object in vm.objects() {
            let found = object.survey(machine, custody).map_err(|fault| {
                let (rule, page) = match fault {
                    ObjectFault::Table(page) => (OracleRule::Custody, page),
                    ObjectFault::Count(page) => (OracleRule::Counts, page),
                };
                Difference::new(rule, party, page.0)
            })?;
            if found.present != object.present() {
                return Err(Difference::new(OracleRule::Counts, party, vm.root().0));
            }
            held = held.saturating_add(found.tables);
        }
        Ok((guest.pages, held))
    }

    /// Holds what was counted in a VM's tables, objects and pool against what the page states say.
    fn check_counts(&self, vm: VmView<'_>, tally: Tally, mapped: u64, held: u64) -> Result<(), Difference> {
        let party = Party::Vm(vm.index());
        let root = vm.root();
        // Nobody walks the tables of a VM that is torn down, and they are not kept up to date.
        if !vm.is_dying() && mapped != tally.pages {
            return Err(self.stray_mapping(vm).unwrap_or(Difference::new(
                OracleRule::Bijection,
                party,
                root.0,
            )));
        }
        let present = vm.objects().fold(0_u64, |sum, object| sum.saturating_add(object.present()));
        if present != tally.pages {
            return Err(Difference::new(OracleRule::Bijection, party, root.0));
        }
        if vm.shared() != tally.shared || held != tally.pool {
            return Err(Difference::new(OracleRule::Counts, party, root.0));
        }
        Ok(())
    }

    /// The first page that a page state gives to `owner`.
    fn first_of(&self, owner: Owner) -> u64 {
        self.0
            .owners()
            .try_for_each_run(|run| if run.state.owner() == owner { Err(run.first) } else { Ok(()) })
            .err()
            .unwrap_or(0)
    }
}
