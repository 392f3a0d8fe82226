//! The host's PSCI calls over SMC and HVC. EL2 forwards none of the host's SMCs to the firmware: it makes its
//! own PSCI calls, so no CPU ever runs host code without stage 2.
//!
//! `decide` serves a call or returns a request to the binary. To start a CPU, the binary reserves it in
//! [`HostCpus`] and has the firmware start it at the hypervisor's own entry. There, [`HostCpus::arrive`]
//! returns the host's entry point.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use arm_psci::{AffinityInfo, ErrorCode, Function};
use heapless::Vec;
use shared_abi::addr::Ipa;
use shared_abi::guest_call::{NO_SVE_HINT, SMCCC_VERSION};

use super::{MIGRATION_NOT_REQUIRED, SUCCESS, VERSION, code, decode, features};
use crate::limits::{CpuIndex, MAX_CPUS};

/// The action that the binary takes for a host's PSCI call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Wait for an interrupt, then return x0 = 0.
    Suspend,
    /// Start a CPU: x0 is the result of [`HostCpus::reserve`]. A bad entry point harms only the host: the CPU
    /// starts under the host's stage 2, so it fetches only memory that the host reaches.
    CpuOn {
        /// The MPIDR_EL1 affinity fields of the CPU.
        target: u64,
        /// The host's entry point, at EL1.
        entry: Ipa,
        /// The x0 of the CPU at its entry point.
        context_id: u64,
    },
    /// Stop this CPU. The call returns only if the firmware refuses.
    CpuOff,
    /// Return [`HostCpus::affinity_info`] in x0.
    AffinityInfo {
        /// The MPIDR_EL1 affinity fields of the target.
        target: u64,
        /// The lowest affinity level that counts, at most 3.
        level: u32,
    },
    /// Power the machine off. A reset also powers off, because RAM, and the guests' secrets in it, would
    /// survive a reset.
    SystemOff,
}

/// SMCCC_ARCH_FEATURES.
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
/// The SMCCC version, 1.2: host calls take and return x0 to x17.
const SMCCC_1_2: u64 = 0x1_0002;

/// Returns whether PSCI serves a host function: the PSCI range of the standard secure services, SMCCC_VERSION
/// and SMCCC_ARCH_FEATURES.
pub(crate) const fn serves(function: u32) -> bool {
    /// Mask that ignores the 64-bit flag (bit 30), the hint (bit 16) and the number within 0 to 0x1f.
    const OWNER_AND_NUMBER: u32 = 0xbffe_ffe0;
    const STANDARD_SECURE: u32 = 0x8400_0000;
    function == SMCCC_VERSION
        || function == SMCCC_ARCH_FEATURES
        || function & OWNER_AND_NUMBER == STANDARD_SECURE
}

/// Serves a host's PSCI call, given its function ID and x1 to x3, or returns the request to the binary.
///
/// # Errors
///
/// The value of x0 if the call is complete; this includes success.
pub(crate) fn decide(function: u32, [x1, x2, x3]: [u64; 3]) -> Result<PowerRequest, u64> {
    let function = function & !NO_SVE_HINT;
    match function {
        SMCCC_VERSION => return Err(SMCCC_1_2),
        SMCCC_ARCH_FEATURES
            if [SMCCC_VERSION, SMCCC_ARCH_FEATURES].map(u64::from).contains(&(x1 & 0xffff_ffff)) =>
        {
            return Err(SUCCESS);
        }
        _ => {}
    }
    Ok(match decode(&[function.into(), x1, x2, x3]).map_err(code)? {
        Function::Version => return Err(u32::from(VERSION).into()),
        Function::Features { psci_func_id } => return Err(features(psci_func_id).unwrap_or_else(code)),
        Function::MigrateInfoType => return Err(MIGRATION_NOT_REQUIRED),
        Function::CpuSuspend { .. } => PowerRequest::Suspend,
        Function::CpuOn { entry, .. } if !is_instruction(entry.entry_point_address()) => {
            return Err(code(ErrorCode::InvalidAddress));
        }
        Function::CpuOn { target_cpu, entry } => PowerRequest::CpuOn {
            target: target_cpu.into(),
            entry: Ipa(entry.entry_point_address()),
            context_id: entry.context_id(),
        },
        Function::CpuOff => PowerRequest::CpuOff,
        Function::AffinityInfo { mpidr, lowest_affinity_level } => {
            PowerRequest::AffinityInfo { target: mpidr.into(), level: lowest_affinity_level }
        }
        Function::SystemOff | Function::SystemReset => PowerRequest::SystemOff,
        _ => return Err(code(ErrorCode::NotSupported)),
    })
}

/// Returns whether `address` is aligned for an A64 instruction.
const fn is_instruction(address: u64) -> bool {
    address.is_multiple_of(4)
}

/// The CPU does not run host code.
const OFF: u8 = 0;
/// A CPU_ON has reserved the CPU, but it has not arrived yet.
const ON_PENDING: u8 = 1;
/// The CPU runs host code.
const ON: u8 = 2;

#[derive(Debug)]
struct HostCpu {
    /// The MPIDR_EL1 affinity fields.
    mpidr: u64,
    /// [`OFF`], [`ON_PENDING`] or [`ON`].
    state: AtomicU8,
    /// The host's entry point; valid while the CPU is pending.
    entry: AtomicU64,
    /// The x0 at the entry point; valid while the CPU is pending.
    context_id: AtomicU64,
}

/// The power states of the physical CPUs, as PSCI shows them to the host.
#[derive(Debug)]
pub struct HostCpus {
    cpus: Vec<HostCpu, MAX_CPUS>,
}

impl HostCpus {
    /// Creates the power states of the CPUs with these affinity fields. Only `boot`, the calling CPU, is on.
    /// CPUs beyond [`MAX_CPUS`] can never be turned on.
    pub fn new(mpidrs: &[u64], boot: CpuIndex) -> Self {
        let numbered = mpidrs.iter().enumerate().take(MAX_CPUS);
        let cpus = numbered.map(|(index, &mpidr)| HostCpu {
            mpidr,
            state: AtomicU8::new(if index == boot.0 { ON } else { OFF }),
            entry: AtomicU64::new(0),
            context_id: AtomicU64::new(0),
        });
        Self { cpus: cpus.collect() }
    }

    /// Returns the CPU with these affinity fields.
    pub fn index(&self, mpidr: u64) -> Option<CpuIndex> {
        let index = self.cpus.iter().position(|cpu| cpu.mpidr == mpidr);
        index.map(CpuIndex)
    }

    /// Reserves a CPU that is off, to start at `entry` with x0 = `context_id`. If several callers race, one
    /// gets it. The caller then starts the CPU, or undoes the reservation by [`Self::release`].
    ///
    /// # Errors
    ///
    /// [`ErrorCode::InvalidParameters`] if there is no such CPU, [`ErrorCode::AlreadyOn`] if it is on,
    /// [`ErrorCode::OnPending`] if it is reserved.
    pub fn reserve(&self, target: u64, entry: Ipa, context_id: u64) -> Result<CpuIndex, ErrorCode> {
        let index = self.index(target).ok_or(ErrorCode::InvalidParameters)?;
        let cpu = self.get(index).ok_or(ErrorCode::InvalidParameters)?;
        seeded!(ReservedTwice => if cpu.state.load(Ordering::Relaxed) == ON_PENDING { return Ok(index) });
        match cpu.state.compare_exchange(OFF, ON_PENDING, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => {
                // The target reads these fields only after the firmware has started it. The caller asks the
                // firmware to start it only after this function returns.
                cpu.entry.store(entry.0, Ordering::Release);
                cpu.context_id.store(context_id, Ordering::Release);
                Ok(index)
            }
            Err(ON) => Err(ErrorCode::AlreadyOn),
            Err(_) => Err(ErrorCode::OnPending),
        }
    }

    /// Undoes a reservation, because the firmware did not start the CPU.
    pub fn release(&self, cpu: CpuIndex) {
        self.change(cpu, ON_PENDING, OFF);
    }

    /// Marks a reserved CPU as on. Returns the host's entry point and x0, or `None` if the CPU is not
    /// reserved.
    pub fn arrive(&self, cpu: CpuIndex) -> Option<(Ipa, u64)> {
        let found = self.get(cpu)?;
        let entry = found.entry.load(Ordering::Acquire);
        let context_id = found.context_id.load(Ordering::Acquire);
        self.change(cpu, ON_PENDING, ON).then_some((Ipa(entry), context_id))
    }

    /// Marks this CPU as off before it stops. If another CPU tries to start it before it has stopped, the
    /// firmware returns ALREADY_ON.
    pub fn leave(&self, cpu: CpuIndex) {
        self.change(cpu, ON, OFF);
    }

    /// Marks this CPU as on again, because the firmware refused to stop it.
    pub fn stay(&self, cpu: CpuIndex) {
        if let Some(cpu) = self.get(cpu) {
            cpu.state.store(ON, Ordering::Release);
        }
    }

    /// Returns the result of AFFINITY_INFO. At `level` n the target is every CPU that shares affinity fields
    /// n and up.
    pub fn affinity_info(&self, target: u64, level: u32) -> u64 {
        let mask = match level {
            0 => u64::MAX,
            1 => !0xff,
            2 => !0xffff,
            _ => !0xff_ffff,
        };
        let states = self
            .cpus
            .iter()
            .filter(|cpu| cpu.mpidr & mask == target & mask)
            .map(|cpu| cpu.state.load(Ordering::Acquire));
        match states.max() {
            Some(OFF) => u32::from(AffinityInfo::Off).into(),
            Some(ON_PENDING) => u32::from(AffinityInfo::OnPending).into(),
            Some(_) => u32::from(AffinityInfo::On).into(),
            None => code(ErrorCode::InvalidParameters),
        }
    }

    fn get(&self, cpu: CpuIndex) -> Option<&HostCpu> {
        self.cpus.get(cpu.0)
    }

    fn change(&self, cpu: CpuIndex, from: u8, to: u8) -> bool {
        self.get(cpu).is_some_and(|cpu| {
            cpu.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    const NOT_SUPPORTED: Result<PowerRequest, u64> = Err(u64::MAX);

    #[test]
    fn calls_are_decided() {
        let table = [
            ([0x8400_0000_u64, 0, 0, 0], Err(0x1_0001)),
            ([0x8000_0000, 0, 0, 0], Err(0x1_0002)),
            ([0x8000_0001, 0x8000_0000, 0, 0], Err(0)),
            ([0x8000_0001, 0x8000_0001, 0, 0], Err(0)),
            ([0x8000_0001, 0x8000_8000, 0, 0], NOT_SUPPORTED),
            ([0x8400_0006, 0, 0, 0], Err(2)),
            ([0x8400_000a, 0x8000_0000, 0, 0], Err(0)),
            ([0x8400_000a, 0xc400_0003, 0, 0], Err(0)),
            ([0x8400_000a, 0xc400_000e, 0, 0], NOT_SUPPORTED),
            ([0x8400_000a, 0x1234, 0, 0], NOT_SUPPORTED),
            ([0xc400_0001, 0, 0, 0], Ok(PowerRequest::Suspend)),
            ([0x8400_0002, 0, 0, 0], Ok(PowerRequest::CpuOff)),
            (
                [0xc400_0003, 0x1_0000_0102, 0x4020_0000, 7],
                Ok(PowerRequest::CpuOn { target: 0x1_0000_0102, entry: Ipa(0x4020_0000), context_id: 7 }),
            ),
            // Arguments of a 32-bit call are 32 bits wide.
            (
                [0x8400_0003, 1, 0xf_4020_0000, 0xf_0000_0007],
                Ok(PowerRequest::CpuOn { target: 1, entry: Ipa(0x4020_0000), context_id: 7 }),
            ),
            ([0xc400_0003, 1 << 31, 0, 0], Err(u64::MAX - 1)),
            ([0xc400_0003, 1, 0x4020_0002, 0], Err(u64::MAX - 8)),
            ([0xc400_0004, 1, 0, 0], Ok(PowerRequest::AffinityInfo { target: 1, level: 0 })),
            ([0xc400_0004, 1, 4, 0], Err(u64::MAX - 1)),
            ([0x8400_0008, 0, 0, 0], Ok(PowerRequest::SystemOff)),
            ([0x8400_0009, 0, 0, 0], Ok(PowerRequest::SystemOff)),
            // The hint bit is not part of the function number.
            ([0x8401_0008, 0, 0, 0], Ok(PowerRequest::SystemOff)),
            // SYSTEM_RESET2, SYSTEM_SUSPEND, MEM_PROTECT, TRNG, FF-A, SiP and unknown calls are never
            // forwarded.
            ([0xc400_0012, 0, 0, 0], NOT_SUPPORTED),
            ([0xc400_000e, 0, 0, 0], NOT_SUPPORTED),
            ([0x8400_0013, 1, 0, 0], NOT_SUPPORTED),
            ([0x8400_0050, 0, 0, 0], NOT_SUPPORTED),
            ([0x8400_0063, 0, 0, 0], NOT_SUPPORTED),
            ([0xc200_0001, 0, 0, 0], NOT_SUPPORTED),
            ([0, 0, 0, 0], NOT_SUPPORTED),
            ([0xffff_ffff, 0, 0, 0], NOT_SUPPORTED),
        ];
        for ([function, x1, x2, x3], expected) in table {
            let function = u32::try_from(function).unwrap();
            assert_eq!(decide(function, [x1, x2, x3]), expected, "{function:#x} {x1:#x}");
        }
    }

    #[test]
    fn psci_serves_its_own_numbers_and_smccc() {
        for function in [0x8400_0000, 0xc400_0003, 0x8401_0008, 0x8400_001f, 0x8000_0000, 0x8000_0001] {
            assert!(serves(function), "{function:#x}");
        }
        for function in [0x8400_0020, 0x8400_0050, 0xc600_8000, 0x8600_0000, 0x8000_0002, 0x0400_0000, 0] {
            assert!(!serves(function), "{function:#x}");
        }
    }

    #[test]
    fn a_cpu_goes_on_and_off() {
        let cpus = HostCpus::new(&[0, 1, 0x100], CpuIndex(0));
        assert_eq!(cpus.reserve(0, Ipa(0), 0), Err(ErrorCode::AlreadyOn));
        assert_eq!(cpus.reserve(2, Ipa(0), 0), Err(ErrorCode::InvalidParameters));
        assert_eq!(cpus.arrive(CpuIndex(1)), None, "nobody wanted it");
        assert_eq!(cpus.reserve(0x100, Ipa(0x4000), 9), Ok(CpuIndex(2)));
        assert_eq!(cpus.reserve(0x100, Ipa(0x5000), 8), Err(ErrorCode::OnPending));
        assert_eq!(cpus.affinity_info(0x100, 0), 2);
        assert_eq!(cpus.arrive(CpuIndex(2)), Some((Ipa(0x4000), 9)));
        assert_eq!(cpus.affinity_info(0x100, 0), 0);
        assert_eq!(cpus.reserve(0x100, Ipa(0), 0), Err(ErrorCode::AlreadyOn));
        cpus.leave(CpuIndex(2));
        assert_eq!(cpus.affinity_info(0x100, 0), 1);
        assert_eq!(cpus.reserve(0x100, Ipa(0x6000), 1), Ok(CpuIndex(2)));
        cpus.release(CpuIndex(2));
        cpus.leave(CpuIndex(0));
        assert_eq!(cpus.affinity_info(0, 0), 1);
        cpus.stay(CpuIndex(0));
        assert_eq!(cpus.affinity_info(0, 0), 0);
        assert_eq!(cpus.arrive(CpuIndex(2)), None);
        assert_eq!(cpus.reserve(0x100, Ipa(0x6000), 1), Ok(CpuIndex(2)));
    }

    #[test]
    fn affinity_info_looks_at_levels() {
        let cpus = HostCpus::new(&[0, 1, 0x100, 0x1_0000, 1 << 32], CpuIndex(0));
        assert_eq!(cpus.affinity_info(1, 0), 1);
        assert_eq!(cpus.affinity_info(1, 1), 0, "CPU 0 of the cluster is on");
        assert_eq!(cpus.affinity_info(0x100, 1), 1);
        assert_eq!(cpus.affinity_info(0x100, 2), 0);
        assert_eq!(cpus.affinity_info(0x1_0000, 2), 1);
        assert_eq!(cpus.affinity_info(0x1_0000, 3), 0);
        assert_eq!(cpus.affinity_info(1 << 32, 3), 1);
        assert_eq!(cpus.affinity_info(0x200, 0), u64::MAX - 1);
    }

    #[test]
    fn concurrent_starts_of_a_cpu_succeed_once() {
        let cpus = HostCpus::new(&[0, 1], CpuIndex(0));
        let (started, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| match cpus.reserve(1, Ipa(0), 0) {
                    Ok(index) => {
                        started.fetch_add(1, Ordering::Relaxed);
                        assert!(cpus.arrive(index).is_some());
                    }
                    Err(error) => {
                        assert!([ErrorCode::AlreadyOn, ErrorCode::OnPending].contains(&error));
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!((started.into_inner(), refused.into_inner()), (1, 7));
    }
}
