//! Time by the virtual counter and its timer.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use bare_rt::el1::cpu::{self, timer_control};
use bare_rt::el1::lock::IrqMasked;

/// A moment, in ticks of CNTVCT_EL0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

/// Timer interrupts that were taken.
static TIMER_INTERRUPTS: AtomicU64 = AtomicU64::new(0);

/// Now.
#[must_use]
pub fn now() -> Instant {
    Instant(cpu::virtual_count())
}

/// Ticks per second.
#[must_use]
pub fn frequency_hz() -> u64 {
    cpu::counter_frequency()
}

/// How often the timer's interrupt was taken.
#[must_use]
pub fn timer_interrupts() -> u64 {
    TIMER_INTERRUPTS.load(Ordering::Relaxed)
}

impl Instant {
    /// This moment plus `duration`; the end of time if that overflows.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        const NANOSECONDS: u128 = 1_000_000_000;
        let ticks = duration.as_nanos() * u128::from(frequency_hz()) / NANOSECONDS;
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(ticks))
    }
}

/// Sleeps until `done` is true or `timeout` is over, and says whether `done` was: the CPU waits for
/// an interrupt, a device's or the timer's, between looks.
pub fn wait_until(timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = now().after(timeout);
    let reached = loop {
        // With interrupts masked none is lost between the look and the wait: a pending one ends WFI.
        let masked = IrqMasked::new();
        if done() {
            break true;
        }
        if now() >= deadline {
            break false;
        }
        arm(deadline);
        cpu::wfi();
        drop(masked); // the handler runs here
    };
    cpu::set_virtual_timer_control(0);
    reached
}

/// Sleeps for `duration`.
pub fn sleep(duration: Duration) {
    wait_until(duration, || false);
}

fn arm(deadline: Instant) {
    cpu::set_virtual_timer_compare(deadline.0);
    cpu::set_virtual_timer_control(timer_control::ENABLE);
}

/// The timer's interrupt: its level stays up until the timer is masked.
pub(crate) fn interrupt() {
    cpu::set_virtual_timer_control(timer_control::IMASK);
    TIMER_INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}
