//! How a lock is waited for in a build that is checked.

use spin::mutex::{TicketMutex, TicketMutexGuard};

/// Waits for a lock's turn. On the development machine a waiter makes way for the holder, since there are more
/// threads than CPUs.
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
