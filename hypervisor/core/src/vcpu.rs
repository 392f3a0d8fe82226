//! vCPUs as a CPU enters them: loaded, resumed, and what is next after each trap.

pub mod cache;
pub mod loaded;

use shared_abi::error::CallError;
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::vcpu::Exit;

use crate::hypervisor::Hypervisor;
use crate::limits::CpuIndex;
use crate::machine::Machine;
use crate::vcpu::loaded::LoadedVcpu;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestAction {
    /// Enter the guest again.
    Resume,
    /// Load the guest's FP/SIMD registers, stop trapping their use, and enter the guest again.
    EnableFp,
    /// Go to the host.
    Exit(Exit),
}

impl<'m, M: Machine> Hypervisor<'m, M> {
    /// Takes a vCPU for `cpu`, to be entered there.
    ///
    /// # Errors
    ///
    /// [`CallError::NotFound`] for a handle that names nothing and an index without vCPU,
    /// [`CallError::Busy`] for a vCPU that is loaded or a VM that is dying, [`CallError::Denied`] for
    /// one that has not started, has stopped, or is powered off.
    pub fn vcpu_load(
        &self,
        cpu: CpuIndex,
        vm: VmHandle,
        vcpu: VcpuIndex,
    ) -> Result<LoadedVcpu<'_, 'm, M>, CallError> {
        if !self.has_cpu(cpu) {
            return Err(CallError::InvalidParameter);
        }
        LoadedVcpu::load(self, cpu, vm, vcpu)
    }
}

/// The exit of a guest that waits.
pub(crate) fn wait_for_interrupt<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>) -> Exit {
    Exit::Wfi { deadline: vcpu.with_context(|context| context.timer_deadline()) }
}
