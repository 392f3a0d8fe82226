//! The vCPU that a CPU keeps between an exit and the next entry, so that what was looked at once is not looked
//! at again: `vm/vcpu_ownership.rs` has who may.

use shared_abi::error::CallError;
use shared_abi::host_call::{VcpuIndex, VmHandle};

use crate::hypervisor::Hypervisor;
use crate::limits::CpuIndex;
use crate::machine::Machine;
use crate::vcpu::loaded::LoadedVcpu;

/// The vCPU that a CPU runs, or ran last and may resume.
#[derive(Debug)]
pub struct VcpuCache<'h, 'm, M: Machine> {
    hypervisor: &'h Hypervisor<'m, M>,
    cpu: CpuIndex,
    /// It is parked but while [`Self::run`] lends it.
    last: Option<LoadedVcpu<'h, 'm, M>>,
}

impl<'h, 'm, M: Machine> VcpuCache<'h, 'm, M> {
    /// A CPU that has run nothing yet.
    pub const fn new(hypervisor: &'h Hypervisor<'m, M>, cpu: CpuIndex) -> Self {
        Self { hypervisor, cpu, last: None }
    }

    /// Takes a vCPU for this CPU and does `f` with it. When this returns, the vCPU is anybody's again: by then
    /// VTTBR_EL2 must name another space, as the VM's tables may be taken apart at once.
    ///
    /// # Errors
    ///
    /// As [`Hypervisor::vcpu_load`] has them, and those of `f`.
    #[inline(always)] // mmio_exit: the exit is written where the caller wants it
    pub fn run<R>(
        &mut self,
        vm: VmHandle,
        vcpu: VcpuIndex,
        f: impl FnOnce(&mut LoadedVcpu<'h, 'm, M>) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        if !self.last.as_mut().is_some_and(|loaded| loaded.resume(vm, vcpu)) {
            self.last = Some(self.hypervisor.vcpu_load(self.cpu, vm, vcpu)?);
        }
        let Some(loaded) = &mut self.last else {
            return Err(CallError::NotFound);
        };
        let result = f(loaded);
        loaded.park();
        result
    }
}
