//! Waiting for a lock in a build with the checks.

use spin::mutex::{TicketMutex, TicketMutexGuard};

/// Waits for a lock. On the development machine a waiter yields to the holder, because there are more threads
/// than CPUs.
pub(crate) fn wait<T>(mutex: &TicketMutex<T>) -> TicketMutexGuard<'_, T> {
    #[cfg(target_os = "none")]
    let guard = mutex.lock();
    #[cfg(not(target_os = "none"))]
    let guard = loop {
        match mutex.try_lock() {
            Some(guard) => break guard,
            None => std::thread::yield_now(),
        }
    };
    guard
}
