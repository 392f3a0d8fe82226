//! PSCI for the host (DEN0022): answered here, passed on only in calls that EL2 makes itself.

use shared_abi::addr::Pa;
use shared_abi::record::Record;
use smccc::arch::SMCCC_VERSION;
use smccc::psci::error::Error;
use smccc::psci::{
    PSCI_AFFINITY_INFO_32, PSCI_AFFINITY_INFO_64, PSCI_CPU_OFF, PSCI_CPU_ON_32, PSCI_CPU_ON_64,
    PSCI_FEATURES, PSCI_MIGRATE_INFO_TYPE, PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, PSCI_VERSION,
};

use crate::cpu::Cpu;
use crate::{console, host, power, secondary};

/// PSCI 1.1.
const VERSION: u64 = 0x1_0001;
/// SMCCC 1.2: x0 to x17 are results of the ownership calls.
const SMCCC: u64 = 0x1_0002;
/// MIGRATE_INFO_TYPE: there is no trusted OS that would have to migrate.
const NO_TRUSTED_OS: u64 = 2;

const FUNCTIONS: [u32; 10] = [
    PSCI_VERSION,
    PSCI_CPU_OFF,
    PSCI_CPU_ON_32,
    PSCI_CPU_ON_64,
    PSCI_AFFINITY_INFO_32,
    PSCI_AFFINITY_INFO_64,
    PSCI_MIGRATE_INFO_TYPE,
    PSCI_SYSTEM_OFF,
    PSCI_SYSTEM_RESET,
    PSCI_FEATURES,
];

/// Whether the function is the relay's to answer: the standard secure services' numbers for PSCI, and
/// SMCCC_VERSION, which PSCI_FEATURES leads to.
pub(crate) const fn is_psci(function: u32) -> bool {
    /// Owner 4, 32-bit or 64-bit, numbers 0 to 0x1f.
    const OWNER_AND_NUMBER: u32 = 0xbfff_ffe0;
    const STANDARD_SECURE: u32 = 0x8400_0000;
    function == SMCCC_VERSION || function & OWNER_AND_NUMBER == STANDARD_SECURE
}

/// Answers the call in the host's registers.
pub(crate) fn call(cpu: &mut Cpu, function: u32) {
    let [_, a, b, c, ..] = cpu.host.x;
    let (a, b, c) = if function & (1 << 30) == 0 {
        (a & 0xffff_ffff, b & 0xffff_ffff, c & 0xffff_ffff)
    } else {
        (a, b, c)
    };
    let result = match function {
        SMCCC_VERSION => Ok(SMCCC),
        PSCI_VERSION => Ok(VERSION),
        PSCI_FEATURES => features(a),
        PSCI_MIGRATE_INFO_TYPE => Ok(NO_TRUSTED_OS),
        PSCI_CPU_ON_32 | PSCI_CPU_ON_64 => cpu_on(a, b, c),
        PSCI_CPU_OFF => Err(secondary::stop(cpu.index)),
        PSCI_AFFINITY_INFO_32 | PSCI_AFFINITY_INFO_64 => match (secondary::affinity_info(a), b) {
            (Some(state), 0) => Ok(state),
            _ => Err(Error::InvalidParameters),
        },
        // A reset would leave guests' memory readable in RAM: it becomes power-off.
        PSCI_SYSTEM_OFF | PSCI_SYSTEM_RESET => {
            console::record(&Record::PowerOff {
                host_faults: host::faults(),
            });
            power::off()
        }
        _ => Err(Error::NotSupported),
    };
    cpu.host.x[0] = match result {
        Ok(value) => value,
        Err(error) => i64::from(error).cast_unsigned(),
    };
}

fn features(function: u64) -> Result<u64, Error> {
    let known = |known: &u32| u64::from(*known) == function;
    if function == u64::from(SMCCC_VERSION) || FUNCTIONS.iter().any(known) {
        Ok(0)
    } else {
        Err(Error::NotSupported)
    }
}

/// The entry point needs no check beyond its form: the CPU gets there under the host's stage 2, so it
/// can fetch only what the host may.
fn cpu_on(mpidr: u64, entry: u64, argument: u64) -> Result<u64, Error> {
    const INSTRUCTION_BYTES: u64 = 4;
    if !entry.is_multiple_of(INSTRUCTION_BYTES) {
        return Err(Error::InvalidAddress);
    }
    secondary::start(mpidr, Pa(entry), argument).map(|()| 0)
}
