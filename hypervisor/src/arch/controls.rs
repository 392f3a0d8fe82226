//! The values of EL2's control registers, for the host and for a guest: which accesses trap to EL2, and how EL2
//! itself translates.
//!
//! They are plain numbers, so that `controls/tests.rs` can compare each bit with its own table on the development
//! machine. `cpu::select`, `cpu::setup`, `cpu::gic` and `machine::stage1` write them.

use hyp_core::machine::{Stage2Id, Vmid};
use hyp_core::memory::stage2::VTCR;

/// Returns the value with these bits set.
const fn bits(positions: &[u32]) -> u64 {
    let (mut value, mut index) = (0, 0);
    while index < positions.len() {
        value |= 1 << positions[index];
        index += 1;
    }
    value
}

/// HCR_EL2.VM: stage 2 is on (Arm ARM DDI0487, D24.2.53).
const HCR_VM: u64 = bits(&[0]);
/// HCR_EL2.RW: EL1 is AArch64.
pub(crate) const HCR_RW: u64 = bits(&[31]);

/// HCR_EL2 of the host: EL1 is AArch64 (RW, 31), and stage 2 is enabled (VM; SWIO, 1). These trap: SMCs (TSC,
/// 19), reads of ID registers (TID3, 18), implementation-defined registers (TIDCP, 20), ACTLR (TACR, 21) and
/// error records (TERR, 36). Physical interrupts go to the host at EL1.
pub(crate) const HOST_HCR: u64 = HCR_VM | HCR_RW | bits(&[1, 18, 19, 20, 21, 36]);

/// HCR_EL2 of a guest: that of the host and more. These trap too: interrupts (FMO, IMO, AMO: 3 to 5), WFI and
/// WFE (TWI, TWE: 13, 14), cache maintenance by set and way (TSW, 22) and limited ordering regions (TLOR,
/// 35). The guest's TLB and instruction-cache maintenance is broadcast (FB, 9), its barriers are at least
/// inner-shareable (BSU, 10), and its stage-1 table walks may not access Device memory (PTW, 2).
pub(crate) const GUEST_HCR: u64 = HOST_HCR | bits(&[2, 3, 4, 5, 9, 10, 13, 14, 22, 35]);

/// Returns true if a value of HCR_EL2 turns stage 2 on.
pub(crate) const fn stage2_is_on(hcr: u64) -> bool {
    hcr & HCR_VM != 0
}

/// VTTBR_EL2.VMID (Arm ARM DDI0487, D24.2.207). It has 8 bits, because `VTCR` leaves VS at 0.
const VMID_SHIFT: u32 = 48;

/// Returns VTTBR_EL2 of a stage-2 address space.
pub(crate) const fn vttbr(stage2_id: Stage2Id) -> u64 {
    stage2_id.root.0 | ((stage2_id.vmid.0 as u64) << VMID_SHIFT)
}

/// Returns the VMID in a value of VTTBR_EL2.
pub(crate) const fn vmid(vttbr: u64) -> Vmid {
    Vmid((vttbr >> VMID_SHIFT) as u8)
}

/// CPTR_EL2.TFP with E2H = 0: FP and SIMD trap (Arm ARM DDI0487, D24.2.35).
pub(crate) const CPTR_TFP: u64 = bits(&[10]);

/// Returns CPTR_EL2 with E2H = 0. SVE and SME (TZ and TSM, which are RES1 without them), trace registers (TTA, 20)
/// and activity monitors (TAM, 30) trap. FP and SIMD trap if `trap_fp` is true.
pub(crate) const fn cptr(trap_fp: bool) -> u64 {
    /// Bits 0 to 9, 12 and 13.
    const RES1: u64 = 0x33ff;
    const ALWAYS: u64 = RES1 | bits(&[20, 30]);
    if trap_fp { ALWAYS | CPTR_TFP } else { ALWAYS }
}

/// Returns MDCR_EL2 of host and guests (Arm ARM DDI0487, D24.3.19). Performance monitors (TPMCR and TPM: 5, 6),
/// statistical profiling (TPMS, 14) and trace filters (TTRF, 19) trap. HPMN, the number of event counters for EL1,
/// keeps its value in `reset`.
const fn mdcr(reset: u64) -> u64 {
    const HPMN: u64 = 0x1f;
    reset & HPMN | bits(&[5, 6, 14, 19])
}

/// Returns MDCR_EL2 of the host. Its counters stop at EL2 (HPMD, 17), so that they do not count EL2's work for
/// guests.
pub(crate) const fn host_mdcr(reset: u64) -> u64 {
    mdcr(reset) | bits(&[17])
}

/// Returns MDCR_EL2 of a guest. Debug registers trap too (TDA, TDOSA, TDRA: 9 to 11).
pub(crate) const fn guest_mdcr(reset: u64) -> u64 {
    mdcr(reset) | bits(&[9, 10, 11])
}

/// CNTHCTL_EL2 of a guest with E2H = 0 (Arm ARM DDI0487, D24.10.2). The physical counter does not trap (EL1PCTEN, 0).
/// The physical timer traps, because it is the host's.
pub(crate) const GUEST_CNTHCTL: u64 = bits(&[0]);
/// CNTHCTL_EL2 of the host. Neither the physical counter nor the physical timer (EL1PCEN, 1) traps.
pub(crate) const HOST_CNTHCTL: u64 = GUEST_CNTHCTL | bits(&[1]);

/// ICH_HCR_EL2 while the host runs: the virtual CPU interface is off (IHI 0069, section 12.4).
pub(crate) const HOST_ICH_HCR: u64 = 0;
/// ICH_HCR_EL2 of a guest: the virtual CPU interface is on (En, 0).
pub(crate) const GUEST_ICH_HCR: u64 = bits(&[0]);

/// ICC_SRE_EL2.SRE, DFB and DIB: system registers, no bypass (IHI 0069, section 12.2.24). Enable is 0, so that EL1's
/// accesses to ICC_SRE_EL1 trap: it is not switched.
pub(crate) const ICC_SRE: u64 = 0b0111;

/// Returns VTCR_EL2 of a CPU with this `physical_range`, which is its PS field (Arm ARM DDI0487, D24.2.206).
pub(crate) const fn vtcr(physical_range: u64) -> u64 {
    const PS_SHIFT: u32 = 16;
    VTCR | (physical_range << PS_SHIFT)
}

/// MAIR_EL2: index 0 is Device-nGnRE, index 1 is Normal write-back (Arm ARM DDI0487, D24.2.122).
pub(crate) const MAIR: u64 = 0xff_04;

/// Returns TCR_EL2 of a CPU with this `physical_range`, which is its PS field: 48 bits, write-back inner-shareable
/// walks (Arm ARM DDI0487, D24.2.198).
pub(crate) const fn tcr(physical_range: u64) -> u64 {
    const RES1: u64 = bits(&[23, 31]);
    const T0SZ_48_BITS: u64 = 64 - 48;
    const IRGN0_WRITE_BACK: u64 = 1 << 8;
    const ORGN0_WRITE_BACK: u64 = 1 << 10;
    const SH0_INNER: u64 = 3 << 12;
    const PS_SHIFT: u32 = 16;
    RES1 | T0SZ_48_BITS | IRGN0_WRITE_BACK | ORGN0_WRITE_BACK | SH0_INNER | (physical_range << PS_SHIFT)
}

/// SCTLR_EL2 (Arm ARM DDI0487, D24.2.175): MMU and caches are on (M, 0; C, 2; I, 12), the stack pointer must
/// be aligned (SA, 3), and writable memory is not executable (WXN, 19).
pub(crate) const SCTLR: u64 = {
    const RES1: u64 = bits(&[4, 5, 11, 16, 18, 22, 23, 28, 29]);
    RES1 | bits(&[0, 2, 3, 12, 19])
};

#[cfg(test)]
mod tests;
