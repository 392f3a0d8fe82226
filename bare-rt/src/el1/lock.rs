//! A spin lock that an interrupt handler may take too.

use core::ops::{Deref, DerefMut};

use spin::{Mutex, MutexGuard};

/// A spin lock that masks this CPU's interrupts while it is held. A handler therefore never waits for the code that
/// it interrupted.
///
/// On the development machine it is a plain spin lock.
#[derive(Debug, Default)]
pub struct IrqLock<T>(Mutex<T>);

impl<T> IrqLock<T> {
    /// Makes a free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Masks interrupts, then waits for the lock.
    pub fn lock(&self) -> IrqLockGuard<'_, T> {
        let masked = IrqMasked::new();
        IrqLockGuard { value: self.0.lock(), _masked: masked }
    }

    /// Takes the lock if it is free. A last report uses it, because the holder may never release the lock.
    pub fn try_lock(&self) -> Option<IrqLockGuard<'_, T>> {
        let masked = IrqMasked::new();
        Some(IrqLockGuard { value: self.0.try_lock()?, _masked: masked })
    }
}

/// The held lock. Field order is drop order: the lock is released before interrupts are unmasked.
#[derive(Debug)]
pub struct IrqLockGuard<'a, T> {
    value: MutexGuard<'a, T>,
    _masked: IrqMasked,
}

impl<T> Deref for IrqLockGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for IrqLockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// Masks IRQs on this CPU while it lives. Its drop restores DAIF.
#[derive(Debug)]
#[must_use]
pub struct IrqMasked {
    #[cfg(target_os = "none")]
    daif: u64,
    /// The guard stays on one CPU, because PSTATE is that CPU's.
    _not_send: core::marker::PhantomData<*const ()>,
}

impl IrqMasked {
    /// Masks IRQs on this CPU.
    #[expect(clippy::new_without_default, reason = "masking interrupts has a side effect")]
    pub fn new() -> Self {
        Self {
            #[cfg(target_os = "none")]
            daif: super::cpu::mask_irq(),
            _not_send: core::marker::PhantomData,
        }
    }
}

impl Drop for IrqMasked {
    fn drop(&mut self) {
        #[cfg(target_os = "none")]
        super::cpu::restore_daif(self.daif);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_not_given_again() {
        let lock = IrqLock::new(1);
        let mut guard = lock.lock();
        assert!(lock.try_lock().is_none());
        *guard += 1;
        drop(guard);
        assert_eq!(lock.try_lock().map(|guard| *guard), Some(2));
    }
}
