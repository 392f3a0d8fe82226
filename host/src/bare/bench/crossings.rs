//! When the host went to the hypervisor and when it was back.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Crossings that are kept; those after them are not.
const KEPT: usize = 4096;

static CROSSINGS: [[AtomicU64; 2]; KEPT] = [const { [const { AtomicU64::new(0) }; 2] }; KEPT];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Keeps a crossing: the counts right before and right after it. For the boot CPU alone.
pub(crate) fn keep_crossing(entered: u64, left: u64) {
    let count = COUNT.load(Ordering::Relaxed);
    if let Some([first, second]) = CROSSINGS.get(count) {
        first.store(entered, Ordering::Relaxed);
        second.store(left, Ordering::Relaxed);
        COUNT.store(count + 1, Ordering::Relaxed);
    }
}

/// All that were kept, in order: the counts before and after.
pub(super) fn kept() -> impl Iterator<Item = (u64, u64)> {
    let count = COUNT.load(Ordering::Relaxed);
    CROSSINGS[..count]
        .iter()
        .map(|[entered, left]| (entered.load(Ordering::Relaxed), left.load(Ordering::Relaxed)))
}
