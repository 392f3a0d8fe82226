//! The values of EL2's control registers, for the host and for a guest: which of EL1's doings come to EL2, and
//! how EL2 itself translates.
//!
//! They are plain numbers, so that the tests compare them bit by bit with a table of their own
//! (`controls/tests.rs`), on any machine. `state`, `gic` and `mmu` write them.

use hyp_core::memory::stage2::VTCR;

/// A value that has these bits set.
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

/// HCR_EL2 of the host: AArch64 (RW, 31), under stage 2 (VM; SWIO, 1). Its SMCs (TSC, 19) and reads of ID
/// registers (TID3, 18) trap, and so do implementation-defined registers (TIDCP, 20), ACTLR (TACR, 21) and
/// error records (TERR, 36). Interrupts are its own.
pub(crate) const HOST_HCR: u64 = HCR_VM | HCR_RW | bits(&[1, 18, 19, 20, 21, 36]);

/// HCR_EL2 of a guest: as the host's; interrupts (FMO, IMO, AMO: 3 to 5), WFI and WFE (TWI, TWE: 13, 14),
/// cache maintenance by set and way (TSW, 22) and limited ordering regions (TLOR, 35) come to EL2 as well.
/// Its maintenance reaches all CPUs (FB, 9; BSU, 10), and its table walks touch no device (PTW, 2).
pub(crate) const GUEST_HCR: u64 = HOST_HCR | bits(&[2, 3, 4, 5, 9, 10, 13, 14, 22, 35]);

/// Whether stage 2 is on, by a value of HCR_EL2.
pub(crate) const fn stage2_is_on(hcr: u64) -> bool {
    hcr & HCR_VM != 0
}

/// CPTR_EL2.TFP with E2H = 0: FP and SIMD trap (Arm ARM DDI0487, D24.2.35).
pub(crate) const CPTR_TFP: u64 = bits(&[10]);

/// CPTR_EL2 with E2H = 0: RES1, with SVE and SME trapping (TZ and TSM among it), trace registers (TTA, 20)
/// and activity monitors (TAM, 30); FP and SIMD if `trap_fp` says so.
pub(crate) const fn cptr(trap_fp: bool) -> u64 {
    /// Bits 0 to 9, 12 and 13.
    const RES1: u64 = 0x33ff;
    const ALWAYS: u64 = RES1 | bits(&[20, 30]);
    if trap_fp { ALWAYS | CPTR_TFP } else { ALWAYS }
}

/// MDCR_EL2 of host and guests alike (Arm ARM DDI0487, D24.3.19): performance monitors (TPMCR and TPM: 5, 6),
/// statistical profiling (TPMS, 14) and trace filters (TTRF, 19) trap. HPMN, the event counters that EL1 has, is
/// as it was at `reset`.
const fn mdcr(reset: u64) -> u64 {
    const HPMN: u64 = 0x1f;
    reset & HPMN | bits(&[5, 6, 14, 19])
}

/// MDCR_EL2 of the host. No event is counted at EL2 (HPMD, 17): guests run on the host's CPUs.
pub(crate) const fn host_mdcr(reset: u64) -> u64 {
    mdcr(reset) | bits(&[17])
}

/// MDCR_EL2 of a guest. Debug registers trap as well (TDA, TDOSA, TDRA: 9 to 11).
pub(crate) const fn guest_mdcr(reset: u64) -> u64 {
    mdcr(reset) | bits(&[9, 10, 11])
}

/// CNTHCTL_EL2 of a guest with E2H = 0 (Arm ARM DDI0487, D24.10.2): the physical counter does not trap
/// (EL1PCTEN, 0); the physical timer, which is the host's, does.
pub(crate) const GUEST_CNTHCTL: u64 = bits(&[0]);
/// CNTHCTL_EL2 of the host: neither the physical counter nor the physical timer (EL1PCEN, 1) traps.
pub(crate) const HOST_CNTHCTL: u64 = GUEST_CNTHCTL | bits(&[1]);

/// ICH_HCR_EL2 while the host runs: the virtual CPU interface is off (IHI 0069, section 12.4).
pub(crate) const HOST_ICH_HCR: u64 = 0;
/// ICH_HCR_EL2 of a guest: the virtual CPU interface is on (En, 0).
pub(crate) const GUEST_ICH_HCR: u64 = bits(&[0]);

/// ICC_SRE_EL2.SRE, DFB and DIB: system registers, no bypass (IHI 0069, section 12.2.24). Without Enable
/// EL1 does not reach ICC_SRE_EL1, which is not switched.
pub(crate) const ICC_SRE: u64 = 0b0111;

/// VTCR_EL2 of a CPU whose output addresses have this PS (Arm ARM DDI0487, D24.2.206).
pub(crate) const fn vtcr(physical_range: u64) -> u64 {
    const PS_SHIFT: u32 = 16;
    VTCR | (physical_range << PS_SHIFT)
}

/// MAIR_EL2: index 0 is Device-nGnRE, index 1 Normal write-back (Arm ARM DDI0487, D24.2.122).
pub(crate) const MAIR: u64 = 0xff_04;

/// TCR_EL2 of a CPU whose output addresses have this PS: 48 bits, write-back inner-shareable walks (Arm ARM
/// DDI0487, D24.2.198).
pub(crate) const fn tcr(physical_range: u64) -> u64 {
    const RES1: u64 = bits(&[23, 31]);
    const T0SZ_48_BITS: u64 = 64 - 48;
    const IRGN0_WRITE_BACK: u64 = 1 << 8;
    const ORGN0_WRITE_BACK: u64 = 1 << 10;
    const SH0_INNER: u64 = 3 << 12;
    const PS_SHIFT: u32 = 16;
    RES1 | T0SZ_48_BITS | IRGN0_WRITE_BACK | ORGN0_WRITE_BACK | SH0_INNER | (physical_range << PS_SHIFT)
}

/// SCTLR_EL2: MMU and caches on (M, 0; C, 2; I, 12), the stack pointer is aligned (SA, 3), writable memory never
/// executes (WXN, 19) (Arm ARM DDI0487, D24.2.175).
pub(crate) const SCTLR: u64 = {
    const RES1: u64 = bits(&[4, 5, 11, 16, 18, 22, 23, 28, 29]);
    RES1 | bits(&[0, 2, 3, 12, 19])
};

#[cfg(test)]
mod tests;
