//! The MMIO guard: the pages that a guest has declared to be devices.

use heapless::Vec;
use shared_abi::addr::Gfn;

/// Maximum number of runs of guarded pages in a VM.
pub const MAX_RUNS: usize = 32;

/// The guard has no room for another run of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many separate runs of guarded pages")]
pub struct GuardFull;

/// The MMIO guard of a VM. Before the guest enrolls, every page without memory may be a device. Afterwards
/// only the guarded pages may.
#[derive(Clone, Debug, Default)]
pub struct MmioGuard {
    enrolled: bool,
    /// Runs that neither overlap nor touch. The run that was looked up last is first.
    runs: Vec<GuardedPages, MAX_RUNS>,
}

/// Pages from `first` up to, but excluding, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GuardedPages {
    first: Gfn,
    end: Gfn,
}

impl MmioGuard {
    /// MMIO_GUARD_ENROLL: enrolls the guest. Enrolment is permanent.
    pub const fn enroll(&mut self) {
        self.enrolled = true;
    }

    /// Returns whether the host may emulate a device at `page`.
    pub fn allows(&mut self, page: Gfn) -> bool {
        let found = self.runs.iter().position(|run| run.contains(page));
        match found {
            None => !self.enrolled,
            Some(0) => true,
            Some(index) => {
                self.runs.swap(0, index);
                true
            }
        }
    }

    /// MMIO_GUARD_MAP: guards a page, and enrolls the guest. The page may be guarded already.
    ///
    /// # Errors
    ///
    /// [`GuardFull`] if there is no room for another run. Nothing has changed then.
    pub fn map(&mut self, page: Gfn) -> Result<(), GuardFull> {
        let mut new = GuardedPages { first: page, end: page.checked_add(1).ok_or(GuardFull)? };
        let touches = |run: &GuardedPages| run.first <= new.end && new.first <= run.end;
        if self.runs.is_full() && !self.runs.iter().any(touches) {
            return Err(GuardFull);
        }
        self.enroll();
        self.runs.retain(|run| {
            let apart = run.end < page || run.first > page.checked_add(1).unwrap_or(page);
            if !apart {
                new.first = new.first.min(run.first);
                new.end = new.end.max(run.end);
            }
            apart
        });
        self.runs.push(new).map_err(|_| GuardFull)
    }

    /// MMIO_GUARD_UNMAP: removes a page from the guard. The page need not be guarded.
    ///
    /// # Errors
    ///
    /// [`GuardFull`] if the page splits a run and there is no room for the second half. Nothing has changed
    /// then.
    pub fn unmap(&mut self, page: Gfn) -> Result<(), GuardFull> {
        let Some(index) = self.runs.iter().position(|run| run.contains(page)) else {
            return Ok(());
        };
        let next = page.checked_add(1).ok_or(GuardFull)?;
        let full = self.runs.is_full();
        let Some(run) = self.runs.get_mut(index) else {
            return Ok(());
        };
        if run.first == page {
            run.first = next;
            if run.first == run.end {
                self.runs.swap_remove(index);
            }
            return Ok(());
        }
        if run.end == next {
            run.end = page;
            return Ok(());
        }
        if full {
            return Err(GuardFull);
        }
        let tail = GuardedPages { first: next, end: run.end };
        run.end = page;
        self.runs.push(tail).map_err(|_| GuardFull)
    }
}

impl GuardedPages {
    fn contains(&self, page: Gfn) -> bool {
        self.first <= page && page < self.end
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn before_enrolment_everything_is_a_device() {
        let mut guard = MmioGuard::default();
        assert!(guard.allows(Gfn(7)));
        guard.enroll();
        assert!(!guard.allows(Gfn(7)));
    }

    #[test]
    fn the_first_mapped_page_enrolls() {
        let mut guard = MmioGuard::default();
        assert_eq!(guard.map(Gfn(9)), Ok(()));
        assert!(guard.allows(Gfn(9)));
        assert!(!guard.allows(Gfn(8)));
        assert!(!guard.allows(Gfn(10)));
    }

    #[test]
    fn runs_are_bounded_and_a_refusal_changes_nothing() {
        let mut guard = MmioGuard::default();
        for run in 0..MAX_RUNS as u64 {
            assert_eq!(guard.map(Gfn(run * 4)), Ok(()));
        }
        assert_eq!(guard.map(Gfn(1000)), Err(GuardFull));
        assert!(!guard.allows(Gfn(1000)));
        // A page that extends or joins runs, or lies in one, still fits.
        assert_eq!(guard.map(Gfn(4)), Ok(()));
        assert_eq!(guard.map(Gfn(5)), Ok(()));
        assert_eq!(guard.map(Gfn(6)), Ok(()));
        assert_eq!(guard.map(Gfn(11)), Ok(()));
        assert_eq!(guard.unmap(Gfn(5)), Err(GuardFull), "no room for two");
        assert!(guard.allows(Gfn(5)));
        assert_eq!(guard.unmap(Gfn(1000)), Ok(()), "it is not guarded anyway");
    }

    #[test]
    fn an_unmapped_page_frees_its_run() {
        let mut guard = MmioGuard::default();
        for page in (0..4 * MAX_RUNS as u64).map(|run| 4 * run) {
            assert_eq!(guard.map(Gfn(page)), Ok(()));
            assert_eq!(guard.unmap(Gfn(page)), Ok(()));
        }
    }

    #[test]
    fn the_last_page_has_no_neighbour() {
        let mut guard = MmioGuard::default();
        assert_eq!(guard.map(Gfn(Gfn::LIMIT - 1)), Ok(()));
        assert_eq!(guard.map(Gfn(Gfn::LIMIT)), Err(GuardFull));
        assert_eq!(guard.map(Gfn(u64::MAX)), Err(GuardFull));
        assert_eq!(guard.unmap(Gfn(Gfn::LIMIT - 1)), Ok(()));
        assert!(!guard.allows(Gfn(Gfn::LIMIT - 1)));
    }

    proptest! {
        #[test]
        fn the_guard_is_a_set(calls in proptest::collection::vec((any::<bool>(), 0..40_u64), 0..200)) {
            let mut guard = MmioGuard::default();
            guard.enroll();
            let mut set = BTreeSet::new();
            for (add, page) in calls {
                if add {
                    prop_assert_eq!(guard.map(Gfn(page)), Ok(()));
                    set.insert(page);
                } else {
                    prop_assert_eq!(guard.unmap(Gfn(page)), Ok(()));
                    set.remove(&page);
                }
                for page in 0..41 {
                    prop_assert_eq!(guard.allows(Gfn(page)), set.contains(&page));
                }
            }
        }
    }
}
