//! The core's locks: fair ticket locks with a rank in the lock order. They report to the machine when they
//! are taken and released, so that a checker sees the lock order and the work under each lock.

use core::ops::{Deref, DerefMut};

use spin::mutex::{TicketMutex, TicketMutexGuard};

use crate::limits::MAX_VMS;
use crate::machine::Machine;
use crate::machine::event::Event;

/// The identity of a lock: a VM's slot, by its index, or the host's memory. CPUs take locks in ascending
/// order, and no CPU holds two slots at once (`docs/locking.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(usize);

impl LockId {
    /// The host's memory.
    pub const HOST: Self = Self(MAX_VMS);

    /// The lock of the VM slot at `index`, which is below [`MAX_VMS`].
    pub const fn slot(index: usize) -> Self {
        Self(index)
    }

    /// The lock's rank as a number.
    pub(crate) const fn code(self) -> u64 {
        self.0 as u64
    }
}

/// A value that a ranked lock protects.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    id: LockId,
    pub(crate) mutex: TicketMutex<T>,
}

impl<T> Lock<T> {
    pub(crate) const fn new(id: LockId, value: T) -> Self {
        Self { id, mutex: TicketMutex::new(value) }
    }

    #[cfg(not(feature = "verify"))]
    fn wait(&self) -> TicketMutexGuard<'_, T> {
        self.mutex.lock()
    }

    #[cfg(feature = "verify")]
    fn wait(&self) -> TicketMutexGuard<'_, T> {
        super::wait::wait(&self.mutex)
    }

    /// Waits for the lock and takes it. The caller holds no lock of this rank or a later one.
    pub(crate) fn lock<'a, M: Machine>(&'a self, machine: &'a M) -> Guard<'a, T, M> {
        let value = self.wait();
        machine.event(|| Event::Taken(self.id));
        Guard { value, machine, id: self.id }
    }
}

/// A held lock; dropping it releases the lock.
#[derive(Debug)]
pub(crate) struct Guard<'a, T, M: Machine> {
    value: TicketMutexGuard<'a, T>,
    machine: &'a M,
    id: LockId,
}

impl<T, M: Machine> Deref for Guard<'_, T, M> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T, M: Machine> DerefMut for Guard<'_, T, M> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T, M: Machine> Drop for Guard<'_, T, M> {
    /// Reports the release while the lock is still held, so that it precedes the next holder's report.
    fn drop(&mut self) {
        self.machine.event(|| Event::Released(self.id));
    }
}
