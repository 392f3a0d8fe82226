//! The data of each physical CPU. It is on that CPU's EL2 stack, so that no other CPU reaches it.

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
    /// The host's registers: the general ones, PC and PSTATE while EL2 runs, the system registers while a
    /// guest runs.
    pub(crate) host: Registers,
    /// The ownership core.
    pub(crate) hypervisor: &'static Hypervisor<'static, CoreMachine>,
    /// The CPU's number.
    pub(crate) index: CpuIndex,
    /// What guests get beside memory and time.
    pub(crate) services: Services<'static>,
    /// The power of all CPUs.
    pub(crate) power: &'static CpuPower,
    /// The control registers' values for this CPU's host.
    pub(crate) controls: HostControls,
    /// The vCPU that it runs, or ran last.
    pub(crate) vcpu_cache: VcpuCache<'static, 'static, CoreMachine>,
    /// The host's FP registers while they are not in the CPU.
    pub(crate) fp: HostFp,
}

impl Cpu {
    /// The CPU that this runs on, whose host is about to start at `entry` as PSCI starts a CPU (DEN0022,
    /// 6.4).
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
