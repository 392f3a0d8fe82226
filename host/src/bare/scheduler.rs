//! What each CPU does when it is up.

use bare_rt::el1::cpu;

use super::interrupts;

/// Sleeps; takes interrupts.
pub(crate) fn work() -> ! {
    loop {
        cpu::wfi();
        interrupts::drain();
    }
}
