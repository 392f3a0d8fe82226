//! The per-CPU vCPU cache. A CPU keeps its vCPU between an exit and the next entry, to avoid the checks under
//! the VM's lock. `vm/vcpu_ownership.rs` defines when the CPU may resume the vCPU.

use shared_abi::error::CallError;
use shared_abi::host_call::{VcpuIndex, VmHandle};

use crate::hypervisor::Hypervisor;
use crate::limits::CpuIndex;
use crate::machine::Machine;
use crate::vcpu::loaded::LoadedVcpu;

/// The vCPU that a CPU runs, or ran last and may be able to resume.
#[derive(Debug)]
pub struct VcpuCache<'h, 'm, M: Machine> {
    hypervisor: &'h Hypervisor<'m, M>,
    cpu: CpuIndex,
    /// Parked, except during [`Self::run`].
    last: Option<LoadedVcpu<'h, 'm, M>>,
}

impl<'h, 'm, M: Machine> VcpuCache<'h, 'm, M> {
    /// Makes an empty cache.
    pub const fn new(hypervisor: &'h Hypervisor<'m, M>, cpu: CpuIndex) -> Self {
        Self { hypervisor, cpu, last: None }
    }

    /// Takes a vCPU for this CPU and calls `f` with it. After the return any CPU may take the vCPU, and its
    /// VM may be torn down at once. `f` must therefore leave VTTBR_EL2 with another address space.
    ///
    /// # Errors
    ///
    /// Those of [`Hypervisor::vcpu_load`] and of `f`.
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
