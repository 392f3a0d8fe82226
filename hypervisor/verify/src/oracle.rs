//! The oracle compares the access that the tables give each party with the access that the page states imply, for
//! every page and every party. It stops at the first difference.
//!
//! It reads the *real* tables with its own [`walker`], which shares nothing with the mapper, and the real page states
//! and objects. The shipped hypervisor has no oracle: the feature `oracle` compiles it in, and `cargo run -- boot
//! --oracle` runs it at EL2 after every call and exit. Tests run it on the fake machine. It checks the
//! [`OracleRule`]s.
//!
//! A check has four steps:
//!
//! 1. `tables::survey` reads every table of every party once. It checks that a table is in its owner's custody
//!    *before* it reads the table, and counts the mapped pages.
//! 2. `pages` reads the owner map of all RAM in runs. For each run it checks the host's tables, the guest's tables
//!    and the guest's object against the page state.
//! 3. The counts of both steps must agree. Step 2 finds each recorded page at its place, so equal counts show that
//!    nothing else is mapped: page states, objects and guest tables are one to one.
//! 4. [`changes`] checks that the calls since the last check allow each change of owner since then.
//!
//! The oracle cannot read TLBs and caches. The protocol checker checks their maintenance on the fake machine and on
//! traces.

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

/// Invariants of every page and every party. They hold whenever no call is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OracleRule {
    /// A page that a protected VM owns and does not share: its guest reaches it, the host does not.
    Private = 1,
    /// A page that a protected VM shares: its guest and the host reach it.
    Shared,
    /// A page that the host owns: the host reaches it, no guest does.
    Host,
    /// A page that the host lends to an ordinary VM: the host and that VM reach it.
    Lent,
    /// A page of the hypervisor or of a VM's pool: no party reaches it.
    Kept,
    /// Translation tables, object tables and vCPU contexts are in pages that only the hypervisor can access:
    /// the host's are in the hypervisor's pages, and a VM's are in its own pool.
    Custody,
    /// Page states, objects and guest tables agree: a page's state names offset P of an object if and only if
    /// the object holds that page at offset P. If offset P is bound, the guest's tables map the page there.
    Bijection,
    /// No page is mapped in two guests, or twice in one guest.
    Once,
    /// Each counter equals the number that the oracle counts: deviating page states of a block, pages of a chunk and
    /// of an object, shared pages, used and free tables.
    Counts,
    /// Outside RAM the host reaches only devices that are not denied, and a guest reaches nothing.
    Devices,
    /// The host reaches a page at its own physical address.
    Identity,
    /// RAM is mapped as Normal Write-Back memory that can be read, written and executed. Devices are mapped as
    /// Device-nGnRE and never executable. No other descriptor bit is set, and an invalid descriptor is zero.
    Attributes,
    /// No vCPU of a dying VM is loaded on a CPU.
    Dead,
    /// A page changes its owner only if a call since the last check allows it.
    Transition,
    /// A page that the host gets from a protected VM or from a pool is all zeroes.
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

/// The party whose access or counter is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The host.
    Host,
    /// The VM of this index.
    Vm(VmIndex),
    /// The hypervisor.
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

/// A violation of an [`OracleRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("oracle: page {:#x}, {party}, {rule}", page << PAGE_SHIFT)]
pub struct Difference {
    /// The rule.
    pub rule: OracleRule,
    /// The party.
    pub party: Party,
    /// The number of the physical page, or of the IPA page if no physical page is involved. For
    /// [`OracleRule::Counts`]: the first page of the block, the table, or the VM's root tables.
    pub page: u64,
}

impl Difference {
    const fn new(rule: OracleRule, party: Party, page: u64) -> Self {
        Self { rule, party, page }
    }
}

/// Checks once, under all locks, so that no call is in progress on any CPU.
///
/// # Errors
///
/// The first [`Difference`].
pub fn check<M: Machine>(hypervisor: &Hypervisor<'_, M>) -> Result<(), Difference> {
    look(hypervisor, |view| Look(view).check().map(|_| ()))
}

/// The number of words that [`Oracle::new`] needs: one for each page state.
#[must_use]
pub fn words_needed<M: Machine>(hypervisor: &Hypervisor<'_, M>) -> usize {
    look(hypervisor, |view| view.owners().words())
}

/// An oracle that remembers the page states of its last check.
#[derive(Debug)]
pub struct Oracle<'m> {
    memory: PastOwners<'m>,
    /// The number of the host's tables, used and free. It never changes.
    host_tables: u64,
}

impl<'m> Oracle<'m> {
    /// Makes an oracle that takes the present page states as given. It remembers them in `words`, which must hold at
    /// least [`words_needed`] words.
    ///
    /// # Errors
    ///
    /// The first [`Difference`], or a difference in counts if `words` is too short.
    pub fn new<M: Machine>(hypervisor: &Hypervisor<'_, M>, words: &'m mut [u64]) -> Result<Self, Difference> {
        look(hypervisor, |view| {
            let host_tables = Look(view).check()?;
            let owners = view.owners();
            let short = Difference::new(OracleRule::Transition, Party::Hypervisor, 0);
            let memory = PastOwners::new(owners, words).ok_or(short)?;
            Ok(Self { memory, host_tables })
        })
    }

    /// Runs [`check`], then checks the changes since the last check. `calls` runs under all locks and returns the
    /// kinds of calls since then.
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

/// The numbers of pages that the page states give a VM.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Pages of its objects.
    pages: u64,
    /// Pages that it shares.
    shared: u64,
    /// Pages of its pool.
    pool: u64,
}

/// One check of all state.
struct Look<'v, 'a, 'm, M: Machine>(&'v View<'a, 'm, M>);

impl<M: Machine> Look<'_, '_, '_, M> {
    /// Checks the present state. Returns the number of the host's tables, used and free.
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

    /// Reads all tables of a VM. Returns the number of pages that its guest reaches, and the number of used pages in
    /// its pool.
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

    /// Compares the counts from a VM's tables, objects and pool with those from the page states.
    fn check_counts(&self, vm: VmView<'_>, tally: Tally, mapped: u64, held: u64) -> Result<(), Difference> {
        let party = Party::Vm(vm.index());
        let root = vm.root();
        // No CPU walks the tables of a dying VM, and the core does not update them.
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

    /// Returns the first page that `owner` has, by the page states.
    fn first_of(&self, owner: Owner) -> u64 {
        self.0
            .owners()
            .try_for_each_run(|run| if run.state.owner() == owner { Err(run.first) } else { Ok(()) })
            .err()
            .unwrap_or(0)
    }
}
