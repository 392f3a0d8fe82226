//! How SMCCC calls leave this VM: by HVC or SMC, as the device tree says.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use smccc::{Call, Hvc, Smc};

use crate::machine;

static USE_SMC: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// The VM's conduit, for [`smccc`]'s functions and [`HypervisorServices`](crate::hyp::Hypervisor).
#[derive(Clone, Copy, Debug)]
pub struct Conduit;

/// Chooses the instruction. Before that it is HVC.
pub(crate) fn choose(conduit: machine::Conduit) {
    USE_SMC.store(conduit == machine::Conduit::Smc, Ordering::Relaxed);
}

/// Calls made so far.
#[must_use]
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

fn count() {
    // Only one CPU runs: load and store are enough, and work before the MMU is on.
    CALLS.store(CALLS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Call for Conduit {
    fn call32(function: u32, arguments: [u32; 7]) -> [u32; 8] {
        count();
        if USE_SMC.load(Ordering::Relaxed) {
            Smc::call32(function, arguments)
        } else {
            Hvc::call32(function, arguments)
        }
    }

    fn call64(function: u32, arguments: [u64; 17]) -> [u64; 18] {
        count();
        if USE_SMC.load(Ordering::Relaxed) {
            Smc::call64(function, arguments)
        } else {
            Hvc::call64(function, arguments)
        }
    }
}
