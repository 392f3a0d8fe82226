//! The data of each physical CPU. It is on that CPU's EL2 stack, so no other CPU uses it.

use hyp_core::call::guest::Services;
use hyp_core::call::trng::Trng;
use hyp_core::cpu::registers::Registers;
use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::CpuIndex;
use hyp_core::vcpu::cache::VcpuCache;
use shared_abi::addr::Ipa;

use super::fp::HostFp;
use super::id_registers;
use super::psci::CpuPower;
use super::select::HostControls;
use crate::machine::el2::CoreMachine;

/// One physical CPU and the host that runs on it.
#[derive(Debug)]
#[repr(C)] // The general registers come first, where LDP and STP reach them.
pub(crate) struct Cpu {
    /// The host's registers. The general registers, PC and PSTATE are valid while EL2 or a guest runs, the system
    /// registers while a guest runs.
    pub(crate) host: Registers,
    /// The ownership core.
    pub(crate) hypervisor: &'static Hypervisor<'static, CoreMachine>,
    /// The CPU's number.
    pub(crate) index: CpuIndex,
    /// Services that guests use: random numbers and ID registers.
    pub(crate) services: Services<'static>,
    /// The power states of all CPUs.
    pub(crate) power: &'static CpuPower,
    /// The values of the control registers for the host on this CPU.
    pub(crate) controls: HostControls,
    /// The vCPU that this CPU runs or ran last.
    pub(crate) vcpu_cache: VcpuCache<'static, 'static, CoreMachine>,
    /// The host's FP registers while the CPU does not hold them.
    pub(crate) fp: HostFp,
}

impl Cpu {
    /// Makes the data of the CPU that runs this. The host will start on it at `entry` as PSCI starts a CPU (DEN0022,
    /// 6.4), with x0 = `argument`.
    pub(crate) fn new(
        hypervisor: &'static Hypervisor<'static, CoreMachine>,
        trng: &'static Trng,
        power: &'static CpuPower,
        index: CpuIndex,
        entry: Ipa,
        argument: u64,
    ) -> Self {
        Self {
            host: Registers::reset(entry, argument),
            hypervisor,
            index,
            services: Services { trng, id_register: id_registers::read },
            power,
            controls: HostControls::new(hypervisor.host_stage2_id()),
            vcpu_cache: VcpuCache::new(hypervisor, index),
            fp: HostFp::new(),
        }
    }
}
