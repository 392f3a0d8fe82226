//! The registers of a vCPU.

use shared_abi::addr::Ipa;
use shared_abi::host_call::VcpuIndex;

/// All that a vCPU is while it does not run.
#[derive(Debug)]
pub struct VcpuContext {
    index: VcpuIndex,
    pc: Ipa,
    x0: u64,
}

impl VcpuContext {
    /// The reset state of vCPU `index`, about to run at `entry` with x0 = `argument`: how it starts,
    /// at VM start and after each PSCI CPU_ON.
    #[must_use]
    pub const fn new(index: VcpuIndex, entry: Ipa, argument: u64) -> Self {
        Self {
            index,
            pc: entry,
            x0: argument,
        }
    }
}
