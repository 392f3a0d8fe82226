//! Host calls, one line each.

use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, VERSION};

use crate::hypervisor::{CallFailure, Hypervisor};
use crate::machine::Machine;

/// Serves a call: x1 to x5, as [`HostCall`] documents. Inlined, with what serves the calls out of line, it
/// is a part of decoding them.
#[inline(always)]
pub(crate) fn host_call<M: Machine>(
    hypervisor: &Hypervisor<'_, M>,
    call: &HostCall,
) -> Result<[u64; 5], CallFailure> {
    match *call {
        HostCall::Version => Ok([VERSION, 0, 0, 0, 0]),
        HostCall::VmCreate { protected, first, pages } => {
            hypervisor.vm_create(protected, first, pages).map(|vm| [vm.0.into(), 0, 0, 0, 0])
        }
        HostCall::VmTopUp { vm, first, pages } => hypervisor.vm_top_up(vm, first, pages).map(|()| [0; 5]),
        HostCall::ObjectCreate { vm, pages } => {
            hypervisor.object_create(vm, pages).map(|object| [object.0.into(), 0, 0, 0, 0])
        }
        HostCall::ObjectBind { object, offset, gfn, pages } => {
            hypervisor.object_bind(object, offset, gfn, pages).map(|()| [0; 5])
        }
        HostCall::ObjectUnbind { object, offset, pages } => {
            hypervisor.object_unbind(object, offset, pages).map(|()| [0; 5])
        }
        HostCall::ObjectPopulate { object, offset, first, pages, content } => {
            hypervisor.populate(object, offset, first, pages, content).map(|done| [done, 0, 0, 0, 0])
        }
        HostCall::ObjectPunch { object, offset, pages } => {
            hypervisor.punch(object, offset, pages).map(|done| [done, 0, 0, 0, 0])
        }
        HostCall::ObjectQuery { object, offset } => {
            hypervisor.object_query(object, offset).map(|(state, run)| [state as u64, run, 0, 0, 0])
        }
        HostCall::ObjectDestroy { object } => hypervisor.object_destroy(object).map(|()| [0; 5]),
        HostCall::VcpuCreate { vm, index } => hypervisor.vcpu_create(vm, index).map(|()| [0; 5]),
        HostCall::VmStart { vm, entry, argument } => hypervisor.vm_start(vm, entry, argument),
        HostCall::VcpuRun { .. } => Err(CallError::NotSupported.into()),
        HostCall::VmDestroy { vm } => hypervisor.vm_destroy(vm).map(|returned| [returned, 0, 0, 0, 0]),
        HostCall::ForceReclaim { page } => hypervisor.force_reclaim(page).map(|()| [0; 5]),
        HostCall::VmCounters { vm } => hypervisor
            .with_vm(vm, |vm, _| Ok(hypervisor.report(vm)))
            .map(|report| [report.hypercalls, report.exits, report.shared, 0, 0]),
    }
}
