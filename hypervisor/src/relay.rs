//! PSCI for the host (DEN0022): decided in the core, passed on only in calls that EL2 makes itself.

use hyp_core::psci::code;
use hyp_core::psci::host::{HostPsci, decide};
use shared_abi::record::Record;
use smccc::arch::SMCCC_VERSION;

use crate::cpu::Cpu;
use crate::switch::Then;
use crate::{arch, console, host, power, secondary};

/// Whether the function is the relay's to answer: the standard secure services' numbers for PSCI, and
/// SMCCC_VERSION, which PSCI_FEATURES leads to.
pub(crate) const fn is_psci(function: u32) -> bool {
    /// Owner 4, 32-bit or 64-bit, numbers 0 to 0x1f, whatever the hint in bit 16 says.
    const OWNER_AND_NUMBER: u32 = 0xbffe_ffe0;
    const STANDARD_SECURE: u32 = 0x8400_0000;
    function == SMCCC_VERSION || function & OWNER_AND_NUMBER == STANDARD_SECURE
}

/// Answers the call in the host's registers. Its immediate was 0.
#[inline(never)]
pub(crate) fn call(cpu: &mut Cpu) -> Then {
    let [function, a, b, c, ..] = cpu.host.x;
    cpu.host.x[0] = match decide(0, &[function, a, b, c]) {
        HostPsci::Return(value) => value,
        HostPsci::Suspend => {
            arch::wfi();
            0
        }
        // The entry point needs no check of its own: the CPU gets there under the host's stage 2, so it
        // can fetch only what the host may.
        HostPsci::CpuOn { target, entry, context_id } => {
            secondary::start(target, entry, context_id).map_or_else(code, |()| 0)
        }
        HostPsci::CpuOff => code(secondary::stop(cpu.index)),
        HostPsci::AffinityInfo { target, level } => secondary::affinity_info(target, level),
        HostPsci::SystemOff => {
            #[cfg(feature = "oracle")]
            crate::oracle::report();
            #[cfg(feature = "trace")]
            crate::trace::finish();
            console::record(&Record::PowerOff { host_faults: host::faults() });
            power::off()
        }
    };
    host::resume()
}
