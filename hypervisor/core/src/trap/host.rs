//! The handler of the host's traps. No trap of the host is fatal: a refused access becomes an external abort,
//! an unexpected trap an undefined instruction.

use crate::call::host::{HostAction, host_call};
use crate::cpu::exception::{Abort, Exception};
use crate::cpu::registers::Registers;
use crate::cpu::syndrome::{Fault, Syndrome, SyndromeRegisters, SysRegId};
use crate::cpu::sysreg;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::ownership::host::{HostAbort, HostAccess};

/// Handles a synchronous exception of the host, except an HVC from AArch64. The caller has saved all host
/// registers, including the system registers, in `registers`.
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
        // The host sees the same CPU features as its guests. Its SGIs go to the physical GIC, so
        // ICC_SGI1R_EL1 does not trap with the host's controls. If it traps all the same, the access is
        // undefined.
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

/// Handles a stage-2 fault of the host: retries the instruction or injects an external abort.
fn host_fault<M: Machine>(
    hypervisor: &Hypervisor<'_, M>,
    registers: &mut Registers,
    syndrome: SyndromeRegisters,
    fault: Fault,
    access: HostAccess,
) {
    let decision = match fault.ipa(syndrome.hpfar, syndrome.far) {
        Some(ipa) => hypervisor.host_abort(ipa, access),
        // The fault is not a stage-2 fault on a known IPA, so a retry cannot help.
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
