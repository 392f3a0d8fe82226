//! PSCI 1.1 (DEN0022): what guests get of it here, and in [`host`] what becomes of the host's calls.

pub mod host;

pub use arm_psci::ErrorCode;
use arm_psci::{AffinityInfo, Function, MigrateInfoType, Mpidr, PsciFeature, Version};
use shared_abi::addr::Ipa;
use shared_abi::host_call::VcpuIndex;
use shared_abi::vcpu::Exit;

use crate::exit::wait_for_interrupt;
use crate::loaded::{Loaded, PowerOnError};
use crate::machine::Machine;

/// The version that host and guests are told.
const VERSION: Version = Version { major: 1, minor: 1 };

/// SUCCESS.
const SUCCESS: u64 = 0;

/// What a PSCI call of a guest's comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// x0.
    pub(crate) x0: u64,
    /// What the host is told, if anything.
    pub(crate) exit: Option<Exit>,
}

impl Reply {
    const fn value(x0: u64) -> Self {
        Self { x0, exit: None }
    }

    fn error(error: ErrorCode) -> Self {
        Self::value(code(error))
    }
}

/// An error as it stands in x0.
pub fn code(error: ErrorCode) -> u64 {
    i64::from(i32::from(error)).cast_unsigned()
}

/// Reads a call: x0 to x3.
///
/// # Errors
///
/// NOT_SUPPORTED for a function that PSCI does not have, INVALID_PARAMETERS for an argument that is no
/// value of its type.
fn decode(x: &[u64; 4]) -> Result<Function, ErrorCode> {
    Function::try_from(x).map_err(|error| match error {
        arm_psci::Error::UnrecognisedFunctionId(_) => ErrorCode::NotSupported,
        _ => ErrorCode::InvalidParameters,
    })
}

/// The answer to PSCI_FEATURES: 0 for what host and guests are offered alike. CPU_SUSPEND has the
/// original format of the power state and no OS-initiated mode, which is 0 as well.
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

/// Answers a call of a guest's; x0 to x3 are its registers, the function ID in x0 without hints.
pub(crate) fn guest<M: Machine>(vcpu: &mut Loaded<'_, '_, M>, x: &[u64; 4]) -> Reply {
    let function = match decode(x) {
        Ok(function) => function,
        Err(error) => return Reply::error(error),
    };
    match function {
        Function::Version => Reply::value(u32::from(VERSION).into()),
        Function::Features { psci_func_id } => features(psci_func_id).map_or_else(Reply::error, Reply::value),
        Function::MigrateInfoType => Reply::value(MIGRATION_NOT_REQUIRED),
        // A suspended CPU keeps its state here, whatever power state it asked for.
        Function::CpuSuspend { .. } => Reply { x0: SUCCESS, exit: Some(wait_for_interrupt(vcpu)) },
        Function::CpuOff => {
            vcpu.power_off();
            Reply { x0: code(ErrorCode::Denied), exit: Some(Exit::CpuOff) }
        }
        Function::CpuOn { target_cpu, entry } => {
            cpu_on(vcpu, target_cpu, Ipa(entry.entry_point_address()), entry.context_id())
        }
        Function::AffinityInfo { mpidr, lowest_affinity_level } => {
            affinity_info(vcpu, mpidr, lowest_affinity_level)
        }
        Function::SystemOff => end(vcpu, Exit::SystemOff),
        Function::SystemReset => end(vcpu, Exit::SystemReset),
        _ => Reply::error(ErrorCode::NotSupported),
    }
}

/// MIGRATE_INFO_TYPE: there is no trusted OS, or it does not need to move.
const MIGRATION_NOT_REQUIRED: u64 = MigrateInfoType::MigrationNotRequired as u64;

/// The vCPU that has this MPIDR: Aff0 is the index, all else is 0.
fn target(mpidr: Mpidr) -> Option<VcpuIndex> {
    let only_aff0 = mpidr.aff1 == 0 && mpidr.aff2 == 0 && mpidr.aff3.unwrap_or(0) == 0;
    only_aff0.then_some(VcpuIndex(mpidr.aff0.into()))
}

fn cpu_on<M: Machine>(vcpu: &Loaded<'_, '_, M>, mpidr: Mpidr, entry: Ipa, context_id: u64) -> Reply {
    let Some(target) = target(mpidr) else {
        return Reply::error(ErrorCode::InvalidParameters);
    };
    match vcpu.power_on(target, entry, context_id) {
        Ok(()) => Reply { x0: SUCCESS, exit: Some(Exit::CpuOn { vcpu: target }) },
        Err(PowerOnError::NoSuchVcpu) => Reply::error(ErrorCode::InvalidParameters),
        Err(PowerOnError::AlreadyOn) => Reply::error(ErrorCode::AlreadyOn),
    }
}

fn affinity_info<M: Machine>(vcpu: &Loaded<'_, '_, M>, mpidr: Mpidr, level: u32) -> Reply {
    // Above level 0 the caller's own cluster is meant, the only one there is, and it is on.
    let on = target(mpidr).and_then(|target| if level == 0 { vcpu.is_on(target) } else { Some(true) });
    match on {
        Some(true) => Reply::value(u32::from(AffinityInfo::On).into()),
        Some(false) => Reply::value(u32::from(AffinityInfo::Off).into()),
        None => Reply::error(ErrorCode::InvalidParameters),
    }
}

/// Ends the VM's run. A guest that went on would see that the call failed; none does.
fn end<M: Machine>(vcpu: &Loaded<'_, '_, M>, exit: Exit) -> Reply {
    vcpu.stop();
    Reply { x0: code(ErrorCode::InternalFailure), exit: Some(exit) }
}
