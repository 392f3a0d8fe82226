//! The dispatcher of the host's calls and traps. Nothing that the host does is fatal: a bad call gets an error, a
//! bad access an abort, an unexpected trap an undefined instruction.

use shared_abi::error::CallError;
use shared_abi::host_call::{Arguments, HostCall, VcpuIndex, VmHandle};
use shared_abi::vcpu::{Entry, ExitRecord};

use crate::event::Event;
use crate::hypervisor::{CallFailure, HostAbort, HostAccess, Hypervisor};
use crate::inject::{Abort, Exception};
use crate::machine::Machine;
use crate::psci::host::{PowerRequest, decide, serves};
use crate::syndrome::{Fault, Syndrome, SyndromeRegisters, SysRegId};
use crate::sysreg;
use crate::vcpu::Registers;

/// What the binary does next for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAction {
    /// Enter the host again.
    Resume,
    /// Load the host's FP/SIMD registers, stop trapping their use, and enter the host again.
    EnableFp,
    /// Run a vCPU until it exits, tell the host by [`vcpu_ran`], and enter it again.
    RunVcpu {
        /// The VM.
        vm: VmHandle,
        /// The vCPU.
        vcpu: VcpuIndex,
        /// What the host says on entry.
        entry: Entry,
    },
    /// Do what a PSCI call asks for, write x0, and enter the host again.
    Power(PowerRequest),
}

/// Handles an HVC or SMC of the host's. The PC is past the instruction.
///
/// Of the host's registers only x0 to x18 have to be in `registers` by now.
pub fn host_call<M: Machine>(
    hypervisor: &Hypervisor<'_, M>,
    registers: &mut Registers,
    imm: u16,
) -> HostAction {
    let x0 = seeded!(registers.x[0], HighBits => registers.x[0] & 0xffff_ffff);
    let (Ok(function), 0) = (u32::try_from(x0), imm) else {
        registers.set(0, CallError::NotSupported.code());
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
    let machine = hypervisor.machine();
    machine.event(|| Event::CallBegin(function));
    let result = match HostCall::parse(function, arguments(registers)) {
        Ok(HostCall::VcpuRun { vm, vcpu, entry }) => return HostAction::RunVcpu { vm, vcpu, entry },
        Ok(call) => hypervisor.host_call(&call),
        Err(error) => Err(error.into()),
    };
    let (x0, results) = match result {
        Ok(results) => (0, results),
        Err(CallFailure { error, value }) => (error.code(), [value, 0, 0, 0, 0]),
    };
    complete(machine, registers, x0, results);
    HostAction::Resume
}

/// Completes a `VcpuRun`: `result` is the exit, or the reason why the vCPU was not entered.
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

/// Handles a synchronous exception of the host's, other than an HVC from AArch64. All of the host's registers,
/// its system registers included, are in `registers` by now.
pub fn host_trap<M: Machine>(
    hypervisor: &Hypervisor<'_, M>,
    registers: &mut Registers,
    syndrome: SyndromeRegisters,
    id_register: fn(SysRegId) -> u64,
) -> HostAction {
    match Syndrome::decode(syndrome.esr) {
        Syndrome::Smc { imm } => {
            registers.skip_instruction();
            return host_call(hypervisor, registers, imm);
        }
        Syndrome::DataAbort(abort) => {
            let write = abort.write && !abort.cache_maintenance;
            let access = if write { HostAccess::Write } else { HostAccess::Read };
            host_fault(hypervisor, registers, syndrome, abort.fault, access);
        }
        Syndrome::InstructionAbort(fault) => {
            host_fault(hypervisor, registers, syndrome, fault, HostAccess::Execute);
        }
        Syndrome::FpTrap => return HostAction::EnableFp,
        // The host sees the same CPU as its guests: a feature that the hypervisor does not switch is hidden. An
        // SGI goes to the real GIC and does not trap.
        Syndrome::SysReg(access) => {
            if sysreg::emulate(access, registers, id_register).is_some() {
                Exception::Undefined.inject(registers);
            }
        }
        Syndrome::Hvc { .. } | Syndrome::Wfx { .. } | Syndrome::Unknown(_) => {
            Exception::Undefined.inject(registers);
        }
    }
    HostAction::Resume
}

/// Handles a stage-2 fault of the host's: it runs the instruction again, or takes an external abort.
fn host_fault<M: Machine>(
    hypervisor: &Hypervisor<'_, M>,
    registers: &mut Registers,
    syndrome: SyndromeRegisters,
    fault: Fault,
    access: HostAccess,
) {
    let decision = match fault.ipa(syndrome.hpfar, syndrome.far) {
        Some(ipa) => hypervisor.host_abort(ipa, access),
        // No translation of stage 2 was at fault, so there is nothing to retry with.
        None => HostAbort::Inject,
    };
    if decision == HostAbort::Inject {
        hypervisor.count_host_abort();
        let abort = Abort {
            fetch: access == HostAccess::Execute,
            write: access == HostAccess::Write,
            far: (!fault.far_not_valid).then_some(syndrome.far),
        };
        Exception::ExternalAbort(abort).inject(registers);
    }
}

/// x1 to x17.
const fn arguments(registers: &Registers) -> &Arguments {
    let [_, arguments @ .., _, _, _, _, _, _, _, _, _, _, _, _, _] = &registers.x;
    arguments
}

/// Completes a call: writes x0, and the results from x1 on. All other registers are preserved.
fn complete<M: Machine, const N: usize>(
    machine: &M,
    registers: &mut Registers,
    x0: u64,
    results: [u64; N],
) {
    machine.event(|| Event::CallEnd(x0));
    let [first, rest @ ..] = &mut registers.x;
    *first = x0;
    for (register, result) in rest.iter_mut().zip(results) {
        *register = result;
    }
}
