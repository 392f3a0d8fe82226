//! Calls to the hypervisor, with the counter read right before and right after each.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use shared_abi::host_call::Arguments;

/// Crossings that are kept; those after them are not.
const KEPT: usize = 4096;

static CROSSINGS: [[AtomicU64; 2]; KEPT] = [const { [const { AtomicU64::new(0) }; 2] }; KEPT];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Makes a call and keeps when it was. For the boot CPU alone.
pub(crate) fn timed_call(function: u32, arguments: &Arguments) -> (u64, Arguments) {
    let mut x = *arguments;
    let mut x0 = u64::from(function);
    let (entered, left);
    // SAFETY: a call of the host's (SMCCC 1.2: x0 to x17 change, nothing else does). What it takes
    // of the host's memory the caller has given away.
    unsafe {
        asm!(
            "isb",
            "mrs {entered}, cntvct_el0",
            "hvc #0",
            "isb",
            "mrs {left}, cntvct_el0",
            entered = out(reg) entered,
            left = out(reg) left,
            inlateout("x0") x0,
            inlateout("x1") x[0],
            inlateout("x2") x[1],
            inlateout("x3") x[2],
            inlateout("x4") x[3],
            inlateout("x5") x[4],
            inlateout("x6") x[5],
            inlateout("x7") x[6],
            inlateout("x8") x[7],
            inlateout("x9") x[8],
            inlateout("x10") x[9],
            inlateout("x11") x[10],
            inlateout("x12") x[11],
            inlateout("x13") x[12],
            inlateout("x14") x[13],
            inlateout("x15") x[14],
            inlateout("x16") x[15],
            inlateout("x17") x[16],
            options(nostack),
        );
    }
    keep(entered, left);
    (x0, x)
}

fn keep(entered: u64, left: u64) {
    let count = COUNT.load(Ordering::Relaxed);
    if let Some([first, second]) = CROSSINGS.get(count) {
        first.store(entered, Ordering::Relaxed);
        second.store(left, Ordering::Relaxed);
        COUNT.store(count + 1, Ordering::Relaxed);
    }
}

/// All that were kept, in order: the counts before and after.
pub(super) fn crossings() -> impl Iterator<Item = (u64, u64)> {
    let count = COUNT.load(Ordering::Relaxed);
    CROSSINGS[..count].iter().map(|[entered, left]| {
        (
            entered.load(Ordering::Relaxed),
            left.load(Ordering::Relaxed),
        )
    })
}
