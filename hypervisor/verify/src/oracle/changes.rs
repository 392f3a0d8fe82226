//! Changes of owner: a page changes its owner only as the calls allow, and reaches the host wiped.

use hyp_core::machine::Machine;
use hyp_core::machine::geometry::Geometry;
use hyp_core::ownership::owner_map::OwnerMap;
use hyp_core::ownership::page_state::Owner;
use hyp_core::verify;
use shared_abi::addr::Pfn;
use shared_abi::host_call::HostCall;

use super::{Difference, OracleRule, Party};

/// A set of kinds of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls(u8);

impl Calls {
    /// No kind: no page may change its owner.
    pub const NONE: Self = Self(0);
    /// `VmCreate` and `VmTopUp`.
    pub const DONATE: Self = Self(1 << 0);
    /// `ObjectPopulate`.
    pub const POPULATE: Self = Self(1 << 1);
    /// `ObjectReclaim`.
    pub const RECLAIM: Self = Self(1 << 2);
    /// `ForceReclaim`.
    pub const FORCE: Self = Self(1 << 3);
    /// `VmDestroy`.
    pub const DESTROY: Self = Self(1 << 4);
    /// A guest's calls.
    pub const GUEST: Self = Self(1 << 5);
    /// All kinds.
    pub const ALL: Self = Self((1 << Self::KINDS) - 1);
    /// The number of kinds.
    pub const KINDS: usize = 6;

    /// Returns the kind of a host call.
    #[must_use]
    pub const fn of(call: &HostCall) -> Self {
        match call {
            HostCall::VmCreate { .. } | HostCall::VmTopUp { .. } => Self::DONATE,
            HostCall::ObjectPopulate { .. } => Self::POPULATE,
            HostCall::ObjectReclaim { .. } => Self::RECLAIM,
            HostCall::ForceReclaim { .. } => Self::FORCE,
            HostCall::VmDestroy { .. } => Self::DESTROY,
            _ => Self::NONE,
        }
    }

    /// The union of two sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The kind with this number, which is below [`Self::KINDS`].
    #[must_use]
    pub const fn nth(number: usize) -> Self {
        Self(Self::ALL.0 & (1 << (number % Self::KINDS)))
    }

    /// Returns true if the set contains one of `others`.
    #[must_use]
    pub const fn any_of(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// Returns the kinds of calls by which a page may go from one owner to another.
fn allowing(from: Owner, to: Owner) -> Calls {
    match (from, to) {
        (Owner::Host, Owner::Pool(_)) => Calls::DONATE,
        (Owner::Host, Owner::Guest(_) | Owner::HostLent(_)) => Calls::POPULATE,
        (Owner::Guest(before), Owner::GuestShared(after))
        | (Owner::GuestShared(before), Owner::Guest(after))
            if before == after =>
        {
            Calls::GUEST
        }
        // A guest relinquishes only pages that it does not share.
        (Owner::Guest(_), Owner::Host) => {
            Calls::RECLAIM.and(Calls::FORCE).and(Calls::DESTROY).and(Calls::GUEST)
        }
        (Owner::GuestShared(_) | Owner::HostLent(_), Owner::Host) => Calls::RECLAIM.and(Calls::DESTROY),
        (Owner::Pool(_), Owner::Host) => Calls::DESTROY,
        _ => Calls::NONE,
    }
}

/// The owner map at the last check.
#[derive(Debug)]
pub(super) struct PastOwners<'m> {
    words: &'m mut [u64],
}

impl<'m> PastOwners<'m> {
    /// Remembers the page states; `None` if there is too little room for them.
    pub(super) fn new<G: Geometry>(owners: &OwnerMap<'_, G>, words: &'m mut [u64]) -> Option<Self> {
        let words = words.get_mut(..owners.words())?;
        owners.copy_to(words);
        Some(Self { words })
    }

    /// Checks the changes since the last check, and remembers the present page states.
    pub(super) fn check<M: Machine>(
        &mut self,
        machine: &M,
        owners: &OwnerMap<'_, M::Geometry>,
        calls: Calls,
    ) -> Result<(), Difference> {
        owners.try_for_each_change(self.words, |page, from, to| {
            let (from, to) = (from.owner(), to.owner());
            if !allowing(from, to).any_of(calls) {
                return Err(Difference::new(OracleRule::Transition, party(from, to), page.0));
            }
            let secret = matches!(from, Owner::Guest(_) | Owner::GuestShared(_) | Owner::Pool(_));
            if secret && to == Owner::Host && !is_zero(machine, page) {
                return Err(Difference::new(OracleRule::Wiped, Party::Host, page.0));
            }
            Ok(())
        })
    }
}

/// The party that gained the page, or that lost it to the host.
const fn party(from: Owner, to: Owner) -> Party {
    match (from, to) {
        (_, Owner::Pool(vm)) | (Owner::Pool(vm), _) => Party::Vm(vm),
        (_, Owner::HostLent(page) | Owner::Guest(page) | Owner::GuestShared(page))
        | (Owner::HostLent(page) | Owner::Guest(page) | Owner::GuestShared(page), _) => Party::Vm(page.vm()),
        (_, Owner::Hypervisor) => Party::Hypervisor,
        (_, Owner::Host) => Party::Host,
    }
}

/// Returns true if a page that the host got back is zero. The call returns to the host only after the check, so the
/// host has not written to the page. The reads are single words, so a concurrent write is harmless.
fn is_zero<M: Machine>(machine: &M, page: Pfn) -> bool {
    // A table has as many entries as a page has words, on metal.
    (0..M::Geometry::ENTRIES).all(|index| machine.read_entry(verify::table(page), index) == 0)
}
