//! Host calls, one line each.

use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, VERSION};

use crate::hypervisor::{CallFailure, Hypervisor};
use crate::machine::Machine;

impl<M: Machine> Hypervisor<'_, M> {
    /// Serves every host call but `VcpuRun`, which is [`Self::vcpu_load`] and then the caller's.
    ///
    /// The results are x1 to x5.
    ///
    /// # Errors
    ///
    /// As the calls of [`HostCall`] document.
    pub fn host_call(&self, call: &HostCall) -> Result<[u64; 5], CallFailure> {
        match *call {
            HostCall::Version => Ok([VERSION, 0, 0, 0, 0]),
            HostCall::VmCreate { protected, first, pages } => {
                self.vm_create(protected, first, pages).map(|vm| [vm.0.into(), 0, 0, 0, 0])
            }
            HostCall::VmTopUp { vm, first, pages } => self.vm_top_up(vm, first, pages).map(|()| [0; 5]),
            HostCall::ObjectCreate { vm, pages } => {
                self.object_create(vm, pages).map(|object| [object.0.into(), 0, 0, 0, 0])
            }
            HostCall::ObjectBind { object, offset, gfn, pages } => {
                self.object_bind(object, offset, gfn, pages).map(|()| [0; 5])
            }
            HostCall::ObjectUnbind { object, offset, pages } => {
                self.object_unbind(object, offset, pages).map(|()| [0; 5])
            }
            HostCall::ObjectPopulate { object, offset, first, pages, content } => {
                self.populate(object, offset, first, pages, content).map(|done| [done, 0, 0, 0, 0])
            }
            HostCall::ObjectPunch { object, offset, pages } => {
                self.punch(object, offset, pages).map(|done| [done, 0, 0, 0, 0])
            }
            HostCall::ObjectQuery { object, offset } => {
                self.object_query(object, offset).map(|(state, run)| [state as u64, run, 0, 0, 0])
            }
            HostCall::ObjectDestroy { object } => self.object_destroy(object).map(|()| [0; 5]),
            HostCall::VcpuCreate { vm, index } => self.vcpu_create(vm, index).map(|()| [0; 5]),
            HostCall::VmStart { vm, entry, argument } => self.vm_start(vm, entry, argument),
            HostCall::VcpuRun { .. } => Err(CallError::NotSupported.into()),
            HostCall::VmDestroy { vm } => self.vm_destroy(vm).map(|returned| [returned, 0, 0, 0, 0]),
            HostCall::ForceReclaim { page } => self.force_reclaim(page).map(|()| [0; 5]),
            HostCall::VmCounters { vm } => self
                .with_vm(vm, |vm, _| Ok(self.report(vm)))
                .map(|report| [report.hypercalls, report.exits, report.shared, 0, 0]),
        }
    }
}
