//! The host's SMCs. None is passed on but the PSCI calls that the relay makes itself, so that no CPU
//! ever runs host code without stage 2.
//!
//! [`decide`] says what a call comes to. To start a CPU, the caller claims it in [`HostCpus`], makes the
//! firmware start it at the hypervisor's own entry, and there [`HostCpus::arrive`] tells where the host
//! wanted it.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use arm_psci::{AffinityInfo, ErrorCode, Function};
use heapless::Vec;
use shared_abi::addr::Ipa;

use super::{MIGRATION_NOT_REQUIRED, VERSION, code, decode, features};
use crate::hypervisor::{CpuIndex, MAX_CPUS};

/// What an SMC of the host's comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPsci {
    /// x0 = this; x1 to x3 = 0.
    Return(u64),
    /// Wait for an interrupt, then x0 = 0.
    Suspend,
    /// Start a CPU: [`HostCpus::claim`] it if the host may execute at `entry`, else
    /// [`ErrorCode::InvalidAddress`]. A wrong answer is the host's own loss: the CPU gets there under
    /// stage 2.
    CpuOn {
        /// MPIDR_EL1's affinity fields.
        target: u64,
        /// Where the host wants it to start, at EL1.
        entry: Ipa,
        /// Its x0.
        context_id: u64,
    },
    /// Stop this CPU; no return.
    CpuOff,
    /// x0 = [`HostCpus::affinity_info`].
    AffinityInfo {
        /// MPIDR_EL1's affinity fields.
        target: u64,
        /// The lowest level that counts, at most 3.
        level: u32,
    },
    /// Power off. A reset is one as well: RAM would survive it, and guests' secrets with it.
    SystemOff,
}

/// SMCCC_VERSION.
const SMCCC_VERSION: u32 = 0x8000_0000;
/// SMCCC_ARCH_FEATURES.
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
/// SMCCC 1.2: host calls take and return x0 to x17.
const SMCCC_1_2: u64 = 0x1_0002;
/// Function ID bit 16: the caller has no live SVE state (SMCCC 1.3). A hint, no part of the number.
pub(crate) const NO_SVE_HINT: u32 = 1 << 16;

/// Decides about an SMC of the host's: the immediate, and x0 to x3.
pub fn decide(imm: u16, x: &[u64; 4]) -> HostPsci {
    let not_supported = HostPsci::Return(code(ErrorCode::NotSupported));
    let [x0, x1, x2, x3] = *x;
    let (Ok(function), 0) = (u32::try_from(seeded!(x0, HighBits => x0 & 0xffff_ffff)), imm) else {
        return not_supported;
    };
    let function = function & !NO_SVE_HINT;
    match function {
        SMCCC_VERSION => return HostPsci::Return(SMCCC_1_2),
        SMCCC_ARCH_FEATURES if x1 & 0xffff_ffff == u64::from(SMCCC_VERSION) => {
            return HostPsci::Return(0);
        }
        _ => {}
    }
    let call = match decode(&[function.into(), x1, x2, x3]) {
        Ok(call) => call,
        Err(error) => return HostPsci::Return(code(error)),
    };
    match call {
        Function::Version => HostPsci::Return(u32::from(VERSION).into()),
        Function::Features { psci_func_id } => HostPsci::Return(features(psci_func_id).unwrap_or_else(code)),
        Function::MigrateInfoType => HostPsci::Return(MIGRATION_NOT_REQUIRED),
        Function::CpuSuspend { .. } => HostPsci::Suspend,
        Function::CpuOn { entry, .. } if !is_instruction(entry.entry_point_address()) => {
            HostPsci::Return(code(ErrorCode::InvalidAddress))
        }
        Function::CpuOn { target_cpu, entry } => HostPsci::CpuOn {
            target: target_cpu.into(),
            entry: Ipa(entry.entry_point_address()),
            context_id: entry.context_id(),
        },
        Function::CpuOff => HostPsci::CpuOff,
        Function::AffinityInfo { mpidr, lowest_affinity_level } => {
            HostPsci::AffinityInfo { target: mpidr.into(), level: lowest_affinity_level }
        }
        Function::SystemOff | Function::SystemReset => HostPsci::SystemOff,
        _ => not_supported,
    }
}

/// Whether an A64 instruction may be at `address`.
const fn is_instruction(address: u64) -> bool {
    address.is_multiple_of(4)
}

/// Whether a CPU runs host code.
const OFF: u8 = 0;
/// Claimed by a caller of CPU_ON, not there yet.
const ON_PENDING: u8 = 1;
/// Running.
const ON: u8 = 2;

#[derive(Debug)]
struct HostCpu {
    /// MPIDR_EL1's affinity fields.
    mpidr: u64,
    /// [`OFF`], [`ON_PENDING`] or [`ON`].
    state: AtomicU8,
    /// Where the host wants it; valid while pending.
    entry: AtomicU64,
    /// Its x0; valid while pending.
    context_id: AtomicU64,
}

/// The power states of the physical CPUs.
#[derive(Debug)]
pub struct HostCpus {
    cpus: Vec<HostCpu, MAX_CPUS>,
}

impl HostCpus {
    /// CPUs with these affinity fields (at most [`MAX_CPUS`], the rest is left off for good), all off
    /// but `boot`, which runs this.
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

    /// The CPU with these affinity fields.
    pub fn index(&self, mpidr: u64) -> Option<CpuIndex> {
        let index = self.cpus.iter().position(|cpu| cpu.mpidr == mpidr);
        index.map(CpuIndex)
    }

    /// Claims an off CPU to be started at `entry`. Of many callers one gets it; it is then either
    /// started, or let go of by [`Self::release`].
    ///
    /// # Errors
    ///
    /// [`ErrorCode::InvalidParameters`], [`ErrorCode::AlreadyOn`] or [`ErrorCode::OnPending`].
    pub fn claim(&self, target: u64, entry: Ipa, context_id: u64) -> Result<CpuIndex, ErrorCode> {
        let index = self.index(target).ok_or(ErrorCode::InvalidParameters)?;
        let cpu = self.get(index).ok_or(ErrorCode::InvalidParameters)?;
        match cpu.state.compare_exchange(OFF, ON_PENDING, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => {
                // The target reads these after the firmware started it, which is after this returned.
                cpu.entry.store(entry.0, Ordering::Release);
                cpu.context_id.store(context_id, Ordering::Release);
                Ok(index)
            }
            Err(ON_PENDING) if seeded!(ClaimedTwice) => Ok(index),
            Err(ON) => Err(ErrorCode::AlreadyOn),
            Err(_) => Err(ErrorCode::OnPending),
        }
    }

    /// The firmware did not start a claimed CPU: it is off again.
    pub fn release(&self, cpu: CpuIndex) {
        self.change(cpu, ON_PENDING, OFF);
    }

    /// A claimed CPU is here: where the host wants it, and its x0. `None` if nobody claimed it.
    pub fn arrive(&self, cpu: CpuIndex) -> Option<(Ipa, u64)> {
        let found = self.get(cpu)?;
        let entry = found.entry.load(Ordering::Acquire);
        let context_id = found.context_id.load(Ordering::Acquire);
        self.change(cpu, ON_PENDING, ON).then_some((Ipa(entry), context_id))
    }

    /// This CPU stops. Another may be starting it again before it has: the firmware then says that it
    /// is on still.
    pub fn leave(&self, cpu: CpuIndex) {
        self.change(cpu, ON, OFF);
    }

    /// The firmware refused to stop this CPU: it goes on.
    pub fn stay(&self, cpu: CpuIndex) {
        if let Some(cpu) = self.get(cpu) {
            cpu.state.store(ON, Ordering::Release);
        }
    }

    /// The answer to AFFINITY_INFO. From level 1 on, the CPUs are meant that share the fields from there
    /// on.
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

    const NOT_SUPPORTED: HostPsci = HostPsci::Return(u64::MAX);

    #[test]
    fn calls_are_decided() {
        let table = [
            ([0x8400_0000, 0, 0, 0], HostPsci::Return(0x1_0001)),
            ([0x8000_0000, 0, 0, 0], HostPsci::Return(0x1_0002)),
            ([0x8000_0001, 0x8000_0000, 0, 0], HostPsci::Return(0)),
            ([0x8000_0001, 0x8000_8000, 0, 0], NOT_SUPPORTED),
            ([0x8400_0006, 0, 0, 0], HostPsci::Return(2)),
            ([0x8400_000a, 0x8000_0000, 0, 0], HostPsci::Return(0)),
            ([0x8400_000a, 0xc400_0003, 0, 0], HostPsci::Return(0)),
            ([0x8400_000a, 0xc400_000e, 0, 0], NOT_SUPPORTED),
            ([0x8400_000a, 0x1234, 0, 0], NOT_SUPPORTED),
            ([0xc400_0001, 0, 0, 0], HostPsci::Suspend),
            ([0x8400_0002, 0, 0, 0], HostPsci::CpuOff),
            (
                [0xc400_0003, 0x1_0000_0102, 0x4020_0000, 7],
                HostPsci::CpuOn { target: 0x1_0000_0102, entry: Ipa(0x4020_0000), context_id: 7 },
            ),
            // A 32-bit call has 32-bit arguments.
            (
                [0x8400_0003, 1, 0xf_4020_0000, 0xf_0000_0007],
                HostPsci::CpuOn { target: 1, entry: Ipa(0x4020_0000), context_id: 7 },
            ),
            ([0xc400_0003, 1 << 31, 0, 0], HostPsci::Return(u64::MAX - 1)),
            ([0xc400_0003, 1, 0x4020_0002, 0], HostPsci::Return(u64::MAX - 8)),
            ([0xc400_0004, 1, 0, 0], HostPsci::AffinityInfo { target: 1, level: 0 }),
            ([0xc400_0004, 1, 4, 0], HostPsci::Return(u64::MAX - 1)),
            ([0x8400_0008, 0, 0, 0], HostPsci::SystemOff),
            ([0x8400_0009, 0, 0, 0], HostPsci::SystemOff),
            // The hint is no part of the number.
            ([0x8401_0008, 0, 0, 0], HostPsci::SystemOff),
            // SYSTEM_RESET2, SYSTEM_SUSPEND, MEM_PROTECT, TRNG, FF-A, SiP, unknown: never passed on.
            ([0xc400_0012, 0, 0, 0], NOT_SUPPORTED),
            ([0xc400_000e, 0, 0, 0], NOT_SUPPORTED),
            ([0x8400_0013, 1, 0, 0], NOT_SUPPORTED),
            ([0x8400_0050, 0, 0, 0], NOT_SUPPORTED),
            ([0x8400_0063, 0, 0, 0], NOT_SUPPORTED),
            ([0xc200_0001, 0, 0, 0], NOT_SUPPORTED),
            ([0, 0, 0, 0], NOT_SUPPORTED),
            ([u64::MAX, 0, 0, 0], NOT_SUPPORTED),
        ];
        for (x, expected) in table {
            assert_eq!(decide(0, &x), expected, "{x:#x?}");
        }
    }

    #[test]
    fn immediates_and_upper_bits_are_refused() {
        for imm in [1, 0x8000, 0xffff] {
            assert_eq!(decide(imm, &[0x8400_0008, 0, 0, 0]), NOT_SUPPORTED);
        }
        for high in [1 << 32, 1 << 63] {
            assert_eq!(decide(0, &[0x8400_0008 | high, 0, 0, 0]), NOT_SUPPORTED);
        }
    }

    #[test]
    fn a_cpu_goes_on_and_off() {
        let cpus = HostCpus::new(&[0, 1, 0x100], CpuIndex(0));
        assert_eq!(cpus.claim(0, Ipa(0), 0), Err(ErrorCode::AlreadyOn));
        assert_eq!(cpus.claim(2, Ipa(0), 0), Err(ErrorCode::InvalidParameters));
        assert_eq!(cpus.arrive(CpuIndex(1)), None, "nobody wanted it");
        assert_eq!(cpus.claim(0x100, Ipa(0x4000), 9), Ok(CpuIndex(2)));
        assert_eq!(cpus.claim(0x100, Ipa(0x5000), 8), Err(ErrorCode::OnPending));
        assert_eq!(cpus.affinity_info(0x100, 0), 2);
        assert_eq!(cpus.arrive(CpuIndex(2)), Some((Ipa(0x4000), 9)));
        assert_eq!(cpus.affinity_info(0x100, 0), 0);
        assert_eq!(cpus.claim(0x100, Ipa(0), 0), Err(ErrorCode::AlreadyOn));
        cpus.leave(CpuIndex(2));
        assert_eq!(cpus.affinity_info(0x100, 0), 1);
        assert_eq!(cpus.claim(0x100, Ipa(0x6000), 1), Ok(CpuIndex(2)));
        cpus.release(CpuIndex(2));
        cpus.leave(CpuIndex(0));
        assert_eq!(cpus.affinity_info(0, 0), 1);
        cpus.stay(CpuIndex(0));
        assert_eq!(cpus.affinity_info(0, 0), 0);
        assert_eq!(cpus.arrive(CpuIndex(2)), None);
        assert_eq!(cpus.claim(0x100, Ipa(0x6000), 1), Ok(CpuIndex(2)));
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
    fn of_many_who_start_a_cpu_one_succeeds() {
        let cpus = HostCpus::new(&[0, 1], CpuIndex(0));
        let (started, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| match cpus.claim(1, Ipa(0), 0) {
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
