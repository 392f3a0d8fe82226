//! The dispatcher of the host's calls, one line each. An invalid call returns an error and changes nothing.

use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{Arguments, HostCall, VCPU_RUN, VERSION, VcpuIndex, VmHandle};
use shared_abi::vcpu::{Entry, ExitRecord};

use crate::call::psci::host::{PowerRequest, decide, serves};
use crate::cpu::registers::Registers;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::machine::event::Event;

/// The action that the binary takes next for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAction {
    /// Enter the host again.
    Resume,
    /// Load the host's FP/SIMD registers, stop trapping their use, and enter the host again.
    EnableFp,
    /// Run a vCPU until it exits, return the exit to the host by [`vcpu_ran`], and enter the host again.
    RunVcpu {
        /// The VM.
        vm: VmHandle,
        /// The vCPU.
        vcpu: VcpuIndex,
        /// The host's requests at entry.
        entry: Entry,
    },
    /// Carry out a PSCI request, write x0, and enter the host again.
    Power(PowerRequest),
}

/// Handles an HVC or SMC of the host. The PC is past the instruction.
///
/// The caller has saved at least x0 to x18 of the host in `registers`.
#[inline(always)] // mmio_exit: the arguments of `VcpuRun` are not copied
pub fn host_call<M: Machine>(
    hypervisor: &Hypervisor<'_, M>,
    registers: &mut Registers,
    imm: u16,
) -> HostAction {
    let x0 = seeded!(registers.x[0], HighBits => registers.x[0] & 0xffff_ffff);
    let (Ok(function), 0) = (u32::try_from(x0), imm) else {
        registers.set(0, CallError::NotSupported.code());
        registers.set(1, 0);
        return HostAction::Resume;
    };
    if serves(function) {
        let [_, x1, x2, x3] = registers.x0_to_x3();
        return match decide(function, [x1, x2, x3]) {
            Ok(request) => HostAction::Power(request),
            Err(x0) => {
                registers.set(0, x0);
                HostAction::Resume
            }
        };
    }
    hypervisor.machine().event(|| Event::CallBegin(function));
    let x = arguments(registers);
    let call = if function == VCPU_RUN {
        match HostCall::parse_run(x) {
            Ok((vm, vcpu, entry)) => return HostAction::RunVcpu { vm, vcpu, entry },
            Err(error) => Err(error),
        }
    } else {
        HostCall::parse_other(function, x)
    };
    match call {
        Ok(call) => serve(hypervisor, registers, &call),
        Err(error) => complete(hypervisor.machine(), registers, error.code(), [0; 5]),
    }
    HostAction::Resume
}

/// Serves every call except `VcpuRun`.
fn serve<M: Machine>(hypervisor: &Hypervisor<'_, M>, registers: &mut Registers, call: &HostCall) {
    let (x0, results) = match hypervisor.host_call(call) {
        Ok(results) => (0, results),
        Err(CallFailure { error, value }) => (error.code(), [value, 0, 0, 0, 0]),
    };
    complete(hypervisor.machine(), registers, x0, results);
}

/// Completes a `VcpuRun`. `result` is the exit, or the reason why the vCPU was not entered.
pub fn vcpu_ran<M: Machine>(
    hypervisor: &Hypervisor<'_, M>,
    registers: &mut Registers,
    result: Result<ExitRecord, CallError>,
) {
    let machine = hypervisor.machine();
    match result {
        Ok(record) => {
            let [results @ .., _, _, _, _, _, _, _, _] = record.emit();
            complete(machine, registers, 0, results);
        }
        Err(error) => complete(machine, registers, error.code(), [0]),
    }
}

impl<M: Machine> Hypervisor<'_, M> {
    /// Serves every host call except `VcpuRun`, for which the caller uses [`Self::vcpu_load`]. Returns x1 to
    /// x5.
    ///
    /// # Errors
    ///
    /// Those that [`HostCall`] documents.
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
            HostCall::ObjectReclaim { object, offset, pages } => {
                self.reclaim(object, offset, pages).map(|done| [done, 0, 0, 0, 0])
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

/// Returns x1 to x17.
const fn arguments(registers: &Registers) -> &Arguments {
    let [_, arguments @ .., _, _, _, _, _, _, _, _, _, _, _, _, _] = &registers.x;
    arguments
}

/// Completes a call: writes x0, and the results from x1 on. Preserves all other registers.
fn complete<M: Machine, const N: usize>(machine: &M, registers: &mut Registers, x0: u64, results: [u64; N]) {
    machine.event(|| Event::CallEnd(x0));
    registers.set(0, x0);
    let [_, rest @ ..] = &mut registers.x;
    if let Some(registers) = rest.first_chunk_mut() {
        *registers = results;
    }
}
