//! PSCI (Arm DEN0022): turning CPUs on, and the machine off.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use bare_rt::el1::cpu;
use smccc::{Hvc, Smc, psci};

use super::console;
use super::platform::Conduit;

/// Whether PSCI is called by HVC; the hypervisor relays SMC.
static BY_HVC: AtomicBool = AtomicBool::new(false);

/// Says how PSCI is called, once it is known.
pub(crate) fn set_conduit(conduit: Conduit) {
    BY_HVC.store(conduit == Conduit::Hvc, Ordering::Relaxed);
}

/// Starts the CPU with this affinity at `entry`, with `context` in x0 and its MMU off.
///
/// # Errors
///
/// PSCI's.
pub(crate) fn cpu_on(affinity: u64, entry: u64, context: u64) -> Result<(), psci::Error> {
    if BY_HVC.load(Ordering::Relaxed) {
        psci::cpu_on::<Hvc>(affinity, entry, context)
    } else {
        psci::cpu_on::<Smc>(affinity, entry, context)
    }
}

/// Turns the machine off.
pub(crate) fn off() -> ! {
    let _refused =
        if BY_HVC.load(Ordering::Relaxed) { psci::system_off::<Hvc>() } else { psci::system_off::<Smc>() };
    // Only firmware without SYSTEM_OFF comes back.
    loop {
        cpu::disable_irq();
        cpu::wfi();
    }
}

/// Says why the host can't go on, and turns the machine off.
pub(crate) fn refuse(message: fmt::Arguments<'_>) -> ! {
    console::epitaph(format_args!(""), message);
    off()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let message = info.message();
    match info.location() {
        Some(at) => refuse(format_args!("{}:{}: {message}", at.file(), at.line())),
        None => refuse(format_args!("{message}")),
    }
}
