//! PSCI 1.1 (DEN0022) for guests; [`host`] has the host's side.

pub mod host;

pub use arm_psci::ErrorCode;
use arm_psci::{AffinityInfo, Function, MigrateInfoType, Mpidr, PsciFeature, Version};
use shared_abi::addr::Ipa;
use shared_abi::host_call::VcpuIndex;
use shared_abi::vcpu::Exit;

use crate::machine::Machine;
use crate::vcpu::loaded::LoadedVcpu;
use crate::vcpu::wait_for_interrupt;

/// The PSCI version that the host and guests see.
const VERSION: Version = Version { major: 1, minor: 1 };

/// SUCCESS.
const SUCCESS: u64 = 0;

/// The result of a guest's PSCI call: x0, and the exit to the host, if any.
type Reply = (u64, Option<Exit>);

/// Returns the x0 value of an error.
pub fn code(error: ErrorCode) -> u64 {
    i64::from(i32::from(error)).cast_unsigned()
}

/// Decodes a call from x0 to x3.
///
/// # Errors
///
/// NOT_SUPPORTED if PSCI has no such function, INVALID_PARAMETERS if an argument is not a value of its type.
fn decode(x: &[u64; 4]) -> Result<Function, ErrorCode> {
    Function::try_from(x).map_err(|error| match error {
        arm_psci::Error::UnrecognisedFunctionId(_) => ErrorCode::NotSupported,
        _ => ErrorCode::InvalidParameters,
    })
}

/// Returns the result of PSCI_FEATURES: 0 for each function that the host and guests may call. For
/// CPU_SUSPEND, 0 also means the original power state format and no OS-initiated mode.
fn features(feature: PsciFeature) -> Result<u64, ErrorCode> {
    use arm_psci::FunctionId::{
        AffinityInfo32, AffinityInfo64, CpuOff, CpuOn32, CpuOn64, CpuSuspend32, CpuSuspend64,
        MigrateInfoType, PsciFeatures, PsciVersion, SystemOff, SystemReset,
    };
    match feature {
        PsciFeature::SmcccVersion
        | PsciFeature::PsciFunction(
            PsciVersion | CpuSuspend32 | CpuSuspend64 | CpuOff | CpuOn32 | CpuOn64 | AffinityInfo32
            | AffinityInfo64 | MigrateInfoType | SystemOff | SystemReset | PsciFeatures,
        ) => Ok(SUCCESS),
        PsciFeature::PsciFunction(_) => Err(ErrorCode::NotSupported),
    }
}

/// Serves a guest's PSCI call. `x` is x0 to x3, with the hint bits cleared from the function ID in x0.
pub(crate) fn guest<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, x: &[u64; 4]) -> Reply {
    decode(x).and_then(|function| call(vcpu, function)).unwrap_or_else(|error| (code(error), None))
}

fn call<M: Machine>(vcpu: &mut LoadedVcpu<'_, '_, M>, function: Function) -> Result<Reply, ErrorCode> {
    Ok(match function {
        Function::Version => (u32::from(VERSION).into(), None),
        Function::Features { psci_func_id } => (features(psci_func_id)?, None),
        Function::MigrateInfoType => (MIGRATION_NOT_REQUIRED, None),
        // The vCPU keeps its state whichever power state the guest requests.
        Function::CpuSuspend { .. } => (SUCCESS, Some(wait_for_interrupt(vcpu))),
        Function::CpuOff => {
            vcpu.power_off();
            (code(ErrorCode::Denied), Some(Exit::CpuOff))
        }
        Function::CpuOn { target_cpu, entry } => {
            let target = target(target_cpu)?;
            vcpu.power_on(target, Ipa(entry.entry_point_address()), entry.context_id())?;
            (SUCCESS, Some(Exit::CpuOn { vcpu: target }))
        }
        Function::AffinityInfo { mpidr, lowest_affinity_level: 0 } => {
            let on = vcpu.is_on(target(mpidr)?).ok_or(ErrorCode::InvalidParameters)?;
            (u32::from(if on { AffinityInfo::On } else { AffinityInfo::Off }).into(), None)
        }
        // Above level 0 the target is the caller's cluster, which is the only one and is on.
        Function::AffinityInfo { mpidr, .. } => {
            target(mpidr)?;
            (u32::from(AffinityInfo::On).into(), None)
        }
        Function::SystemOff => end(vcpu, Exit::SystemOff),
        Function::SystemReset => end(vcpu, Exit::SystemReset),
        _ => return Err(ErrorCode::NotSupported),
    })
}

/// MIGRATE_INFO_TYPE: no trusted OS, or one that does not need migration.
const MIGRATION_NOT_REQUIRED: u64 = MigrateInfoType::MigrationNotRequired as u64;

/// Returns the vCPU with this MPIDR. Aff0 is the index; the other fields must be 0.
fn target(mpidr: Mpidr) -> Result<VcpuIndex, ErrorCode> {
    let only_aff0 = mpidr.aff1 == 0 && mpidr.aff2 == 0 && mpidr.aff3.unwrap_or(0) == 0;
    only_aff0.then_some(VcpuIndex(mpidr.aff0.into())).ok_or(ErrorCode::InvalidParameters)
}

/// Stops the VM for good. The error in x0 would reach only a guest that is entered again, and no vCPU is.
fn end<M: Machine>(vcpu: &LoadedVcpu<'_, '_, M>, exit: Exit) -> Reply {
    vcpu.stop();
    (code(ErrorCode::InternalFailure), Some(exit))
}
