//! vCPU entry: loading and resuming a vCPU, and the action after each of its traps.

pub mod cache;
pub mod loaded;

use shared_abi::error::CallError;
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::vcpu::Exit;

use crate::hypervisor::Hypervisor;
use crate::limits::CpuIndex;
use crate::machine::Machine;
use crate::vcpu::loaded::LoadedVcpu;

/// The action that the binary takes next for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestAction {
    /// Enter the guest again.
    Resume,
    /// Load the guest's FP/SIMD registers, stop trapping their use, and enter the guest again.
    EnableFp,
    /// Return to the host.
    Exit(Exit),
}

impl<'m, M: Machine> Hypervisor<'m, M> {
    /// Takes a vCPU for `cpu`, so that `cpu` may enter it.
    ///
    /// # Errors
    ///
    /// [`CallError::InvalidParameter`] if the machine has no such CPU, [`CallError::NotFound`] if the handle
    /// does not resolve or the VM has no such vCPU, [`CallError::Busy`] if the vCPU runs or the VM is dying,
    /// [`CallError::Denied`] if the VM has not started or has stopped, or if the vCPU is powered off.
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

/// Returns the exit of a guest that waits for an interrupt.
pub(crate) fn wait_for_interrupt<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>) -> Exit {
    Exit::Wfi { deadline: vcpu.with_context(|context| context.timer_deadline()) }
}
