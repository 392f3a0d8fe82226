//! All pages in runs: the access that each party has, against the access that it should have.

use hyp_core::limits::MAX_VMS;
use hyp_core::machine::Machine;
use hyp_core::machine::geometry::Geometry;
use hyp_core::ownership::page_state::{ObjectPage, Owner};
use hyp_core::verify::{OwnerRun, VmView};
use shared_abi::addr::{Gfn, PageRange, Pfn};

use super::tables::{self, Seen};
use super::walker::Translation;
use super::{Difference, Look, OracleRule, Party, Tally};

/// The access that a page state implies: the rule, whether the host reaches the page, and the guest page that maps
/// it.
struct Expected {
    rule: OracleRule,
    host: bool,
    guest: Option<ObjectPage>,
}

impl Expected {
    const fn new(owner: Owner) -> Self {
        let (rule, host, guest) = match owner {
            Owner::Hypervisor | Owner::Pool(_) => (OracleRule::Kept, false, None),
            Owner::Host => (OracleRule::Host, true, None),
            Owner::HostLent(page) => (OracleRule::Lent, true, Some(page)),
            Owner::Guest(page) => (OracleRule::Private, false, Some(page)),
            Owner::GuestShared(page) => (OracleRule::Shared, true, Some(page)),
        };
        Self { rule, host, guest }
    }
}

impl<M: Machine> Look<'_, '_, '_, M> {
    /// Checks all of RAM. Adds up the pages of each VM, by the page states.
    pub(super) fn check_pages(&self, tallies: &mut [Tally; MAX_VMS]) -> Result<(), Difference> {
        self.0.owners().try_for_each_run(|run| {
            let owner = run.state.owner();
            let expected = Expected::new(owner);
            let vm = match owner {
                Owner::Hypervisor | Owner::Host => None,
                Owner::Pool(vm) => Some(vm),
                Owner::HostLent(page) | Owner::Guest(page) | Owner::GuestShared(page) => Some(page.vm()),
            };
            if let Some(tally) = vm.and_then(|vm| tallies.get_mut(usize::from(vm.0))) {
                let count = |counter: &mut u64, counts: bool| {
                    *counter = counter.saturating_add(if counts { run.pages } else { 0 });
                };
                count(&mut tally.pages, expected.guest.is_some());
                count(&mut tally.shared, matches!(owner, Owner::GuestShared(_)));
                count(&mut tally.pool, matches!(owner, Owner::Pool(_)));
            }
            self.check_host(run, &expected)?;
            match expected.guest {
                Some(page) => self.check_guest(run, page, &expected),
                None => Ok(()),
            }
        })
    }

    /// Checks that the host reaches a run of RAM if and only if it should.
    fn check_host(&self, run: OwnerRun, expected: &Expected) -> Result<(), Difference> {
        self.each_seen(self.0.host_root(), run.first, run.pages, |page, seen| {
            let wrong = |rule| Err(Difference::new(rule, Party::Host, page));
            match seen.translation {
                None if !expected.host => Ok(()),
                Some(found) if expected.host => {
                    if found.page.0 != page {
                        wrong(OracleRule::Identity)
                    } else if !is_memory(found) {
                        wrong(OracleRule::Attributes)
                    } else {
                        Ok(())
                    }
                }
                _ => wrong(expected.rule),
            }
        })
    }

    /// Checks that the object holds a run of RAM where the page state says, and that the guest reaches it there.
    fn check_guest(&self, run: OwnerRun, page: ObjectPage, expected: &Expected) -> Result<(), Difference> {
        let party = Party::Vm(page.vm());
        let unknown = Difference::new(OracleRule::Bijection, party, run.first);
        let vm = self.0.vm(page.vm()).ok_or(unknown)?;
        let object = vm.object(page.object()).ok_or(unknown)?;
        if vm.is_protected() != (expected.rule != OracleRule::Lent) {
            return Err(Difference::new(expected.rule, party, run.first));
        }
        let mut done = 0;
        while done < run.pages {
            let first = run.first.saturating_add(done);
            let offset = page.offset().saturating_add(done);
            let left = run.pages.saturating_sub(done);
            let unnamed = Difference::new(OracleRule::Bijection, party, first);
            let (gfn, bound) = vm.bound_run(page.advance(done), left).ok_or(unnamed)?;
            let (found, pages) = object.run(self.0.machine(), offset, bound);
            if found != Some(Pfn(first)) {
                return Err(unnamed);
            }
            // No CPU walks the tables of a dying VM.
            if !vm.is_dying() {
                self.check_bound(vm, gfn, first, pages)?;
            }
            done = done.saturating_add(pages);
        }
        Ok(())
    }

    /// Checks that the guest reaches `pages` pages of RAM from `first` on, at `gfn` and on.
    fn check_bound(&self, vm: VmView<'_>, gfn: Gfn, first: u64, pages: u64) -> Result<(), Difference> {
        self.each_seen(vm.root(), gfn.0, pages, |page, seen| {
            let there = first.saturating_add(page.saturating_sub(gfn.0));
            let wrong = |rule| Err(Difference::new(rule, Party::Vm(vm.index()), there));
            match seen.translation {
                Some(found) if found.page.0 != there => wrong(OracleRule::Bijection),
                None => wrong(OracleRule::Bijection),
                Some(found) if !is_memory(found) => wrong(OracleRule::Attributes),
                Some(_) => Ok(()),
            }
        })
    }

    /// Checks that outside RAM the host reaches only devices, and no denied ones.
    pub(super) fn check_devices(&self) -> Result<(), Difference> {
        let mut next = 0;
        for range in self.0.owners().ram() {
            self.check_devices_in(next, range.first().0)?;
            next = range.end().0;
        }
        self.check_devices_in(next, M::Geometry::IPA_PAGES)
    }

    fn check_devices_in(&self, first: u64, end: u64) -> Result<(), Difference> {
        let pages = end.saturating_sub(first);
        self.each_seen(self.0.host_root(), first, pages, |page, seen| {
            let Some(found) = seen.translation else {
                return Ok(());
            };
            let wrong = |rule| Err(Difference::new(rule, Party::Host, page));
            let range = PageRange::<Pfn>::new(Pfn(page), seen.pages);
            let denied = |denied: &&PageRange<Pfn>| range.is_none_or(|range| range.overlaps(**denied));
            if let Some(denied) = self.0.denied().iter().find(denied) {
                let page = page.max(denied.first().0);
                Err(Difference::new(OracleRule::Devices, Party::Host, page))
            } else if found.page.0 != page {
                wrong(OracleRule::Identity)
            } else if !is_device(found) {
                wrong(OracleRule::Attributes)
            } else {
                Ok(())
            }
        })
    }

    /// Finds a page that a guest reaches, but that the page states do not give it at that place.
    pub(super) fn stray_mapping(&self, vm: VmView<'_>) -> Option<Difference> {
        self.each_seen(vm.root(), 0, M::Geometry::IPA_PAGES, |first, seen| {
            let Some(found) = seen.translation else {
                return Ok(());
            };
            for (page, gfn) in (found.page.0..).zip(first..first.saturating_add(seen.pages)) {
                let wrong = |rule| Err(Difference::new(rule, Party::Vm(vm.index()), page));
                match self.owner(Pfn(page)) {
                    None => return wrong(OracleRule::Devices),
                    Some(Owner::Host) => return wrong(OracleRule::Host),
                    Some(Owner::Hypervisor | Owner::Pool(_)) => return wrong(OracleRule::Kept),
                    Some(
                        Owner::HostLent(recorded) | Owner::Guest(recorded) | Owner::GuestShared(recorded),
                    ) => {
                        let there = vm.gfn(recorded);
                        if recorded.vm() != vm.index() || there != Some(Gfn(gfn)) {
                            return wrong(OracleRule::Once);
                        }
                    }
                }
            }
            Ok(())
        })
        .err()
    }

    /// Passes the translations of a run of IPA pages to the closure, in ascending runs.
    fn each_seen(
        &self,
        root: Pfn,
        first: u64,
        pages: u64,
        mut show: impl FnMut(u64, Seen) -> Result<(), Difference>,
    ) -> Result<(), Difference> {
        let end = first.saturating_add(pages);
        let mut page = first;
        while page < end {
            let seen = tables::run(self.0.machine(), root, page, end.saturating_sub(page));
            show(page, seen)?;
            page = page.saturating_add(seen.pages);
        }
        Ok(())
    }
}

const fn is_memory(found: Translation) -> bool {
    found.usable && found.executable && found.normal && found.plain
}

const fn is_device(found: Translation) -> bool {
    found.usable && !found.executable && found.device && found.plain
}
