//! A lock whose waiters sleep: its holder may be waiting for a device.
//!
//! A CPU that waits still takes its interrupts. That matters beyond saving power: the holder may wait
//! for an interrupt which goes to the CPU that waits for the holder.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bare_rt::el1::cpu;

use super::{cpus, interrupts};

/// A value that one CPU at a time has.
pub(crate) struct SleepLock<T> {
    held: AtomicBool,
    /// The CPUs that wait, one bit each.
    waiting: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: `held` lets one CPU at a time reach the value.
unsafe impl<T: Send> Sync for SleepLock<T> {}

impl<T> SleepLock<T> {
    /// A lock around `value`, free.
    pub(crate) const fn new(value: T) -> Self {
        Self { held: AtomicBool::new(false), waiting: AtomicU64::new(0), value: UnsafeCell::new(value) }
    }

    /// Sleeps until the value is this CPU's. Not to be called by its holder.
    #[inline]
    pub(crate) fn lock(&self) -> SleepGuard<'_, T> {
        if self.held.swap(true, Ordering::SeqCst) {
            self.wait();
        }
        SleepGuard { lock: self }
    }

    /// Sleeps until the lock, which was not free, is this CPU's.
    #[cold]
    fn wait(&self) {
        let this = 1 << cpus::current();
        loop {
            self.waiting.fetch_or(this, Ordering::SeqCst);
            // The holder may have gone before it could see the bit.
            if !self.held.swap(true, Ordering::SeqCst) {
                break;
            }
            cpu::wfi();
            interrupts::drain();
        }
        self.waiting.fetch_and(!this, Ordering::SeqCst);
    }
}

/// The value, held.
pub(crate) struct SleepGuard<'a, T> {
    lock: &'a SleepLock<T>,
}

impl<T> Deref for SleepGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this CPU holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SleepGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this CPU holds the lock, and this is the one guard.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SleepGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::SeqCst);
        let waiting = self.lock.waiting.load(Ordering::SeqCst);
        if waiting != 0 {
            wake(waiting);
        }
    }
}

/// Kicks the CPUs that wait, one bit each.
#[cold]
fn wake(waiting: u64) {
    for number in 0..cpus::present() {
        if waiting & 1 << number != 0 {
            interrupts::kick(number);
        }
    }
}
