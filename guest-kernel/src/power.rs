//! Ends of a VM's life, by PSCI.

use bare_rt::el1::cpu;

use crate::conduit::Conduit;

/// Turns the VM off: the payload is done.
pub fn off() -> ! {
    // An error means that there is no PSCI: nothing is left to do but to wait.
    let _ = smccc::psci::system_off::<Conduit>();
    park()
}

/// Resets the VM: the payload failed, and whoever runs the VM is to notice.
pub fn reset() -> ! {
    let _ = smccc::psci::system_reset::<Conduit>();
    park()
}

/// Sleeps for ever.
pub(crate) fn park() -> ! {
    cpu::disable_irq();
    loop {
        cpu::wfi();
    }
}
