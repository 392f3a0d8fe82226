//! Starts and stops CPUs for the host, through the firmware's PSCI (DEN0022).
//!
//! No CPU runs host code without the host's stage 2: the firmware starts it at EL2, in the function that its boot
//! structure names, and only that function enters the host.

use bare_rt::image::secondary_start;
use heapless::Vec;
use hyp_core::call::psci::ErrorCode;
use hyp_core::call::psci::host::HostCpus;
use hyp_core::limits::{CpuIndex, MAX_CPUS};
use shared_abi::addr::{Ipa, Pa};
use smccc::psci::error::Error;
use smccc::{Smc, psci};

/// The power states of the host's CPUs.
#[derive(Debug)]
pub(crate) struct CpuPower {
    states: HostCpus,
    /// For each CPU, the address of the [`SecondaryBoot`](bare_rt::image::SecondaryBoot) that it starts from.
    boot_structures: Vec<Pa, MAX_CPUS>,
}

impl CpuPower {
    /// Makes the states of the CPUs with these affinity fields. All are off except `boot`, which runs this.
    pub(crate) fn new(cpus: &[u64], boot: CpuIndex, boot_structures: Vec<Pa, MAX_CPUS>) -> Self {
        Self { states: HostCpus::new(cpus, boot), boot_structures }
    }

    /// CPU_ON. If several CPUs start the same CPU at once, one of them succeeds.
    pub(crate) fn start(&self, target: u64, entry: Ipa, argument: u64) -> Result<(), ErrorCode> {
        let index = self.states.reserve(target, entry, argument)?;
        let Some(structure) = self.boot_structures.get(index.0) else {
            self.states.release(index);
            return Err(ErrorCode::InternalFailure);
        };
        let first = secondary_start as *const () as usize as u64;
        psci::cpu_on::<Smc>(target, first, structure.0).map_err(|error| {
            self.states.release(index);
            match error {
                // The CPU is off for the host, but has not left the firmware's CPU_OFF yet.
                Error::AlreadyOn => ErrorCode::AlreadyOn,
                Error::OnPending => ErrorCode::OnPending,
                _ => ErrorCode::InternalFailure,
            }
        })
    }

    /// Records that a started CPU is at EL2. Returns the host's entry point and x0, or `None` if no CPU_ON asked for
    /// this CPU.
    pub(crate) fn arrive(&self, cpu: CpuIndex) -> Option<(Ipa, u64)> {
        self.states.arrive(cpu)
    }

    /// CPU_OFF of this CPU. Returns only if the firmware refuses.
    pub(crate) fn stop(&self, cpu: CpuIndex) -> ErrorCode {
        self.states.leave(cpu);
        let _ = psci::cpu_off::<Smc>();
        self.states.stay(cpu);
        ErrorCode::InternalFailure
    }

    /// AFFINITY_INFO. Returns x0.
    pub(crate) fn affinity_info(&self, target: u64, level: u32) -> u64 {
        self.states.affinity_info(target, level)
    }
}
