//! PSCI for the host (DEN0022): what the core decides, done by calls that EL2 makes itself.

use hyp_core::call::psci::code;
use hyp_core::call::psci::host::PowerRequest;
use shared_abi::record::Record;

use crate::cpu::Cpu;
use crate::{arch, console, power, secondary};

/// Does what a PSCI call of the host's asks for. Returns x0.
pub(crate) fn serve(cpu: &Cpu, request: PowerRequest) -> u64 {
    match request {
        PowerRequest::Suspend => {
            arch::wfi();
            0
        }
        PowerRequest::CpuOn { target, entry, context_id } => {
            secondary::start(target, entry, context_id).map_or_else(code, |()| 0)
        }
        PowerRequest::CpuOff => code(secondary::stop(cpu.index)),
        PowerRequest::AffinityInfo { target, level } => secondary::affinity_info(target, level),
        PowerRequest::SystemOff => {
            #[cfg(feature = "oracle")]
            crate::oracle::report();
            #[cfg(feature = "trace")]
            crate::trace::finish();
            console::record(&Record::PowerOff { host_faults: cpu.hypervisor.host_aborts() });
            power::off()
        }
    }
}
