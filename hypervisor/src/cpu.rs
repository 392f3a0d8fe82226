//! What EL2 keeps for each physical CPU. It lives on that CPU's EL2 stack, so no other CPU can reach it.

use hyp_core::call::guest::Services;
use hyp_core::cpu::registers::{FpRegisters, Registers, VcpuContext};
use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::CpuIndex;
use hyp_core::vcpu::cache::VcpuCache;
use shared_abi::addr::{Ipa, Pa};

use crate::el2::El2;
use crate::state::OwnTraps;
use crate::{arch, boot, controls, fp, gic, guest, state};

/// One physical CPU and the host that runs on it.
#[derive(Debug)]
#[repr(C)] // The general registers come first, where LDP and STP reach them.
pub(crate) struct Cpu {
    /// The host's registers: the general ones, PC and PSTATE while EL2 runs, the system registers while a guest
    /// runs.
    pub(crate) host: Registers,
    /// What it serves.
    pub(crate) hypervisor: &'static Hypervisor<'static, El2>,
    /// Which one.
    pub(crate) index: CpuIndex,
    /// What guests get from it beside memory and time.
    pub(crate) services: Services<'static>,
    /// What changes between its host and its guests.
    pub(crate) traps: OwnTraps,
    /// The vCPU that it runs, or ran last.
    pub(crate) vcpu_cache: VcpuCache<'static, 'static, El2>,
    /// Whose FP registers are in the CPU.
    pub(crate) fp: HostFp,
}

/// The host's FP registers while they are not in the CPU.
#[derive(Debug)]
pub(crate) struct HostFp {
    registers: FpRegisters,
    /// They are in `registers`, and FP traps in the host.
    saved: bool,
}

impl Cpu {
    /// The CPU that this runs on, whose host is about to start at `entry` as PSCI starts a CPU (DEN0022, 6.4).
    pub(crate) fn new(
        hypervisor: &'static Hypervisor<'static, El2>,
        index: CpuIndex,
        entry: Pa,
        argument: u64,
    ) -> Self {
        Self {
            hypervisor,
            index,
            vcpu_cache: VcpuCache::new(hypervisor, index),
            services: Services { trng: boot::trng(), id_register: guest::id_register },
            traps: OwnTraps::new(hypervisor.host_stage2_id()),
            // The host's stage 2 maps what it maps to the same address.
            host: Registers::reset(Ipa(entry.0), argument),
            // Whatever the registers held before this CPU was started is not the host's to read: its
            // first touch loads zeroes.
            fp: HostFp { registers: FpRegisters::default(), saved: true },
        }
    }
}

impl HostFp {
    /// Whether FP has to trap in the host.
    pub(crate) const fn traps(&self) -> bool {
        self.saved
    }

    /// The host touched FP: it gets its registers back.
    pub(crate) fn give_to_host(&mut self) {
        state::untrap_fp();
        if self.saved {
            // SAFETY: `untrap_fp` has just untrapped FP, and `registers` is what `give_to_guest` stored of the
            // host, which runs next.
            unsafe { fp::load(&raw const self.registers) };
            self.saved = false;
        }
    }

    /// The guest touched FP: the host's registers are put away, the guest's loaded.
    pub(crate) fn give_to_guest(&mut self, context: &mut VcpuContext) {
        state::untrap_fp();
        if !self.saved {
            // SAFETY: `untrap_fp` has just untrapped FP, and `registers` is borrowed mutably.
            unsafe { fp::save(&raw mut self.registers) };
            self.saved = true;
        }
        // SAFETY: `untrap_fp` has just untrapped FP, and `context` is that of the guest that trapped, which runs
        // next.
        unsafe { fp::load(&raw const context.fp) };
        context.fp_live = 1;
    }

    /// The guest leaves the CPU: its FP registers go with it.
    #[inline(always)]
    pub(crate) fn take_from_guest(context: &mut VcpuContext) {
        if context.fp_live != 0 {
            // SAFETY: `give_to_guest`, which sets `fp_live`, has untrapped FP, and it traps again only with the
            // next `select_host`; `context` is borrowed mutably.
            unsafe { fp::save(&raw mut context.fp) };
            context.fp_live = 0;
        }
    }
}

/// The index of a CPU by its MPIDR_EL1, in the order of the device tree.
pub(crate) fn affinity() -> u64 {
    /// Aff3, Aff2, Aff1, Aff0 (Arm ARM DDI0487, D24.2.129).
    const AFFINITY: u64 = 0xff_00ff_ffff;
    arch::read!("mpidr_el1") & AFFINITY
}

/// Takes EL2 of this CPU as the firmware left it, or says why it can't be had: first of all, on each CPU.
#[inline(never)]
pub(crate) fn take_el2() -> Result<(), &'static str> {
    const E2H: u64 = 1 << 34;
    // SAFETY: it is the first that each CPU does at EL2: nothing runs at EL1 yet, and no register whose layout
    // depends on E2H has been written.
    unsafe {
        arch::write!("hcr_el2", controls::HCR_RW);
        arch::write!("icc_sre_el2", controls::ICC_SRE);
    }
    arch::isb();
    if arch::read!("hcr_el2") & E2H != 0 {
        return Err("this CPU has EL2 with VHE alone");
    }
    if !gic::fits() {
        return Err("this CPU has too many interrupt priorities or too few list registers");
    }
    Ok(())
}
