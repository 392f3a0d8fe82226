//! Selects the stage 2, traps and MPIDR_EL1 that EL1 has from its next entry: the host's or a guest's.

use hyp_core::machine::Stage2Id;

use crate::arch::{self, controls};

/// The values of control registers for the host on this CPU.
#[derive(Debug)]
pub(crate) struct HostControls {
    vttbr: u64,
    /// MDCR_EL2 as the firmware left it.
    mdcr: u64,
    mpidr: u64,
}

impl HostControls {
    /// Reads the values of the CPU that runs this. `stage2_id` is the host's stage 2.
    pub(crate) fn new(stage2_id: Stage2Id) -> Self {
        Self {
            vttbr: controls::vttbr(stage2_id),
            mdcr: arch::read!("mdcr_el2"),
            mpidr: arch::read!("mpidr_el1"),
        }
    }
}

/// Selects the host.
///
/// # Safety
///
/// The caller gives this CPU's `own`.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) unsafe fn select_host(own: &HostControls, trap_fp: bool) {
    // SAFETY: the caller gives this CPU's `own`: the host's stage 2, made at boot, and this CPU's identity. The
    // values of `controls` give the host access only to its own state.
    unsafe {
        arch::write!("vttbr_el2", own.vttbr);
        arch::write!("hcr_el2", controls::HOST_HCR);
        arch::write!("cptr_el2", controls::cptr(trap_fp));
        arch::write!("mdcr_el2", controls::host_mdcr(own.mdcr));
        arch::write!("cnthctl_el2", controls::HOST_CNTHCTL);
        arch::write!("vmpidr_el2", own.mpidr);
    }
    arch::isb();
}

/// Selects a vCPU of a guest: the stage 2 of its VM, and its MPIDR_EL1. FP traps.
///
/// # Safety
///
/// The caller gives this CPU's `own`, and the `stage2_id` of the VM whose vCPU runs next.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) unsafe fn select_guest(own: &HostControls, stage2_id: Stage2Id, vmpidr: u64) {
    // SAFETY: the caller gives this CPU's `own`, and the stage 2 of the VM whose vCPU runs next. The values of
    // `controls` give a guest access only to its own state.
    unsafe {
        arch::write!("vttbr_el2", controls::vttbr(stage2_id));
        arch::write!("hcr_el2", controls::GUEST_HCR);
        arch::write!("cptr_el2", controls::cptr(true));
        arch::write!("mdcr_el2", controls::guest_mdcr(own.mdcr));
        arch::write!("cnthctl_el2", controls::GUEST_CNTHCTL);
        arch::write!("vmpidr_el2", vmpidr);
    }
    arch::isb();
}

/// Lets EL1 use FP and SIMD until the next [`select_host`] or [`select_guest`].
///
/// # Safety
///
/// The caller loads the FP registers of the party that runs next before EL1 is entered.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(super) unsafe fn untrap_fp() {
    let cptr = arch::read!("cptr_el2");
    // SAFETY: the caller loads the FP registers of the party that runs next before EL1 is entered. EL2 is compiled
    // without FP.
    unsafe { arch::write!("cptr_el2", cptr & !controls::CPTR_TFP) };
    arch::isb();
}
