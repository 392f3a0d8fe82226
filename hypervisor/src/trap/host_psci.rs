//! The host's PSCI (DEN0022): the core decides, and EL2 calls the firmware.

use hyp_core::call::psci::code;
use hyp_core::call::psci::host::PowerRequest;
use shared_abi::record::Record;

use crate::arch;
use crate::cpu::Cpu;
use crate::machine::{console, power};

/// Serves a PSCI call of the host. Returns x0.
pub(crate) fn serve(cpu: &Cpu, request: PowerRequest) -> u64 {
    match request {
        PowerRequest::Suspend => {
            arch::wfi();
            0
        }
        PowerRequest::CpuOn { target, entry, context_id } => {
            cpu.power.start(target, entry, context_id).map_or_else(code, |()| 0)
        }
        PowerRequest::CpuOff => code(cpu.power.stop(cpu.index)),
        PowerRequest::AffinityInfo { target, level } => cpu.power.affinity_info(target, level),
        PowerRequest::SystemOff => {
            #[cfg(feature = "oracle")]
            crate::oracle::report();
            #[cfg(feature = "trace")]
            crate::machine::trace::finish();
            console::record(&Record::PowerOff { host_faults: cpu.hypervisor.host_aborts() });
            power::off()
        }
    }
}
