//! The registers of a vCPU, which the world switch loads and stores.
//!
//! A [`VcpuContext`] lives in a page of the VM's pool, which the host cannot reach. It consists of plain
//! integers only, so a zeroed page is a valid but useless context. The world-switch assembly addresses each
//! field by `offset_of!`.

use core::fmt;

use shared_abi::addr::{Ipa, PAGE_SIZE};
use shared_abi::host_call::VcpuIndex;

use crate::cpu::mmio::PendingAccess;

/// Bits of PSTATE as SPSR_ELx holds them (Arm ARM DDI0487, C5.2.18, exceptions from AArch64).
pub mod pstate {
    /// N, Z, C and V.
    pub const NZCV: u64 = 0xf << 28;
    /// Data-independent timing.
    pub const DIT: u64 = 1 << 24;
    /// Privileged access never.
    pub const PAN: u64 = 1 << 22;
    /// Software step.
    pub const SS: u64 = 1 << 21;
    /// Branch type.
    pub const BTYPE: u64 = 0b11 << 10;
    /// Speculative store bypass safe.
    pub const SSBS: u64 = 1 << 12;
    /// D, A, I and F: all exceptions masked.
    pub const DAIF: u64 = 0xf << 6;
    /// The execution state is AArch32.
    pub const AARCH32: u64 = 1 << 4;
    /// `M[3:0]`, the exception level and its stack pointer.
    pub const MODE_MASK: u64 = 0xf;
    /// EL0.
    pub const EL0: u64 = 0b0000;
    /// EL1 on SP_EL0.
    pub const EL1T: u64 = 0b0100;
    /// EL1 on SP_EL1.
    pub const EL1H: u64 = 0b0101;
}

/// PSTATE of a CPU that PSCI has just started (DEN0022, 6.4): EL1h with all exceptions masked.
pub const RESET_PSTATE: u64 = pstate::DAIF | pstate::EL1H;

/// SCTLR_EL1 of a CPU that PSCI has just started: the RES1 bits (LSMAOE, nTLSMD, SPAN, EIS, TSCXT, EOS) are
/// set; MMU, caches and alignment checks are off; data accesses are little-endian (DDI0487, D19.2.120).
pub const RESET_SCTLR_EL1: u64 = (1 << 29) | (1 << 28) | (1 << 23) | (1 << 22) | (1 << 20) | (1 << 11);

/// Returns VMPIDR_EL2 for vCPU `index`, which reads it as MPIDR_EL1: Aff0 is the index, bit 31 is RES1.
pub const fn vmpidr(index: VcpuIndex) -> u64 {
    const RES1: u64 = 1 << 31;
    RES1 | (index.0 as u64 & 0xff)
}

/// The EL1 and EL0 system registers that the world switch saves and restores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SystemRegisters {
    /// SP_EL0.
    pub sp_el0: u64,
    /// SP_EL1.
    pub sp_el1: u64,
    /// ELR_EL1.
    pub elr_el1: u64,
    /// SPSR_EL1.
    pub spsr_el1: u64,
    /// SCTLR_EL1.
    pub sctlr_el1: u64,
    /// CPACR_EL1.
    pub cpacr_el1: u64,
    /// TTBR0_EL1.
    pub ttbr0_el1: u64,
    /// TTBR1_EL1.
    pub ttbr1_el1: u64,
    /// TCR_EL1.
    pub tcr_el1: u64,
    /// ESR_EL1.
    pub esr_el1: u64,
    /// AFSR0_EL1.
    pub afsr0_el1: u64,
    /// AFSR1_EL1.
    pub afsr1_el1: u64,
    /// FAR_EL1.
    pub far_el1: u64,
    /// MAIR_EL1.
    pub mair_el1: u64,
    /// AMAIR_EL1.
    pub amair_el1: u64,
    /// VBAR_EL1.
    pub vbar_el1: u64,
    /// CONTEXTIDR_EL1.
    pub contextidr_el1: u64,
    /// TPIDR_EL0.
    pub tpidr_el0: u64,
    /// TPIDRRO_EL0.
    pub tpidrro_el0: u64,
    /// TPIDR_EL1.
    pub tpidr_el1: u64,
    /// CNTKCTL_EL1.
    pub cntkctl_el1: u64,
    /// PAR_EL1.
    pub par_el1: u64,
    /// MDSCR_EL1.
    pub mdscr_el1: u64,
    /// CSSELR_EL1.
    pub csselr_el1: u64,
    /// CNTV_CVAL_EL0.
    pub cntv_cval_el0: u64,
    /// CNTV_CTL_EL0.
    pub cntv_ctl_el0: u64,
}

/// The FP/SIMD registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FpRegisters {
    /// q0 to q31.
    pub q: [u128; 32],
    /// FPCR.
    pub fpcr: u64,
    /// FPSR.
    pub fpsr: u64,
}

/// The part of the virtual GIC CPU interface that stays at EL2. Each entry and exit passes the list registers
/// to and from the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GicRegisters {
    /// ICH_VMCR_EL2.
    pub vmcr: u64,
    /// ICH_AP0R0_EL2.
    pub ap0r0: u64,
    /// ICH_AP1R0_EL2.
    pub ap1r0: u64,
}

/// The EL1 registers of the host or of a vCPU on one CPU.
///
/// The general registers come first, within reach of LDP and STP.
#[derive(Default, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "verify"), derive(Clone))]
#[repr(C)]
pub struct Registers {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The program counter: ELR_EL2 at entry and exit.
    pub pc: u64,
    /// PSTATE: SPSR_EL2 at entry and exit.
    pub pstate: u64,
    /// The system registers.
    pub system: SystemRegisters,
}

impl Registers {
    /// Returns the state in which PSCI starts a CPU (DEN0022, section 6.4): EL1h at `entry`, x0 = `argument`,
    /// MMU and caches off, all exceptions masked, all other registers 0.
    pub fn reset(entry: Ipa, argument: u64) -> Self {
        let mut registers = Self {
            pc: entry.0,
            pstate: RESET_PSTATE,
            system: SystemRegisters { sctlr_el1: RESET_SCTLR_EL1, ..SystemRegisters::default() },
            ..Self::default()
        };
        registers.set(0, argument);
        registers
    }

    /// Reads a general register by its number in an instruction; 31 is XZR and reads 0.
    pub fn get(&self, index: u8) -> u64 {
        self.x.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Writes a general register by its number in an instruction; 31 is XZR and ignores the write.
    pub fn set(&mut self, index: u8, value: u64) {
        if let Some(register) = self.x.get_mut(usize::from(index)) {
            *register = value;
        }
    }

    /// Returns x0 to x3.
    pub const fn x0_to_x3(&self) -> [u64; 4] {
        let [x0, x1, x2, x3, ..] = self.x;
        [x0, x1, x2, x3]
    }

    /// Writes x0 to x3.
    pub const fn set_x0_to_x3(&mut self, values: [u64; 4]) {
        let [x0, x1, x2, x3, ..] = &mut self.x;
        [*x0, *x1, *x2, *x3] = values;
    }

    /// Advances the PC past the A64 instruction that it points to, as if the instruction had executed.
    ///
    /// The PC of a trapped instruction is that of the instruction itself, except for HVC (Arm ARM DDI0487,
    /// D1.3.5). At the top of the address space the PC wraps.
    pub const fn skip_instruction(&mut self) {
        self.pc = self.pc.wrapping_add(INSTRUCTION_BYTES);
        self.pstate &= !(pstate::SS | pstate::BTYPE);
    }

    /// Moves the PC back by one instruction, so that an HVC runs again: after HVC the PC is already past it.
    pub const fn rewind_instruction(&mut self) {
        self.pc = self.pc.wrapping_sub(INSTRUCTION_BYTES);
    }
}

/// Prints no register content, because it is a guest's secret.
impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registers").finish_non_exhaustive()
    }
}

// The assembly relies on these offsets; all of them fit the immediate of LDP and STP.
const _: () = assert!(core::mem::offset_of!(Registers, x) == 0);
const _: () = assert!(core::mem::offset_of!(Registers, pc) == 31 * 8);
const _: () = assert!(core::mem::offset_of!(Registers, pstate) == 32 * 8);

/// All registers of a vCPU.
#[derive(Default, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "verify"), derive(Clone))]
#[repr(C)]
pub struct VcpuContext {
    /// The general and EL1 system registers.
    pub registers: Registers,
    /// VMPIDR_EL2.
    pub vmpidr: u64,
    /// The virtual GIC CPU interface.
    pub gic: GicRegisters,
    /// The saved FP/SIMD registers; stale while [`Self::fp_live`] is 1.
    pub fp: FpRegisters,
    /// 1 while the CPU that runs this vCPU holds its FP/SIMD registers, else 0.
    pub fp_live: u64,
    /// The MMIO access that waits for the host, if any.
    pub pending: PendingAccess,
}

// The world switch uses a pointer to a context as a pointer to its registers.
const _: () = assert!(core::mem::offset_of!(VcpuContext, registers) == 0);
const _: () = assert!(core::mem::offset_of!(VcpuContext, fp).is_multiple_of(16));
const _: () = assert!(size_of::<VcpuContext>() as u64 <= PAGE_SIZE);

impl VcpuContext {
    /// Returns the state in which PSCI starts vCPU `index`, with all registers of the context.
    pub fn new(index: VcpuIndex, entry: Ipa, argument: u64) -> Self {
        Self { registers: Registers::reset(entry, argument), vmpidr: vmpidr(index), ..Self::default() }
    }

    /// Returns the CNTVCT_EL0 value at which the virtual timer fires, or `None` if the timer is off or
    /// masked.
    pub const fn timer_deadline(&self) -> Option<u64> {
        timer_deadline(self.registers.system.cntv_ctl_el0, self.registers.system.cntv_cval_el0)
    }

    /// Returns whether the virtual timer is armed and has expired at `cntvct`.
    pub const fn timer_fired(&self, cntvct: u64) -> bool {
        matches!(self.timer_deadline(), Some(deadline) if cntvct >= deadline)
    }
}

/// Prints no content, because it is a guest's secret.
impl fmt::Debug for VcpuContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuContext").finish_non_exhaustive()
    }
}

/// Returns the count at which a timer with these CNTV_CTL_EL0 and CNTV_CVAL_EL0 fires (DDI0487, D24.10.24).
const fn timer_deadline(ctl: u64, cval: u64) -> Option<u64> {
    const ENABLE: u64 = 1 << 0;
    const IMASK: u64 = 1 << 1;
    if ctl & (ENABLE | IMASK) == ENABLE { Some(cval) } else { None }
}

/// The length of an A64 instruction, in bytes.
const INSTRUCTION_BYTES: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_context_is_in_the_reset_state() {
        let context = VcpuContext::new(VcpuIndex(3), Ipa(0x4020_0000), 0x4400_0000);
        let mut expected = VcpuContext { vmpidr: 0x8000_0003, ..VcpuContext::default() };
        expected.registers.pc = 0x4020_0000;
        expected.registers.pstate = 0x3c5;
        expected.registers.x[0] = 0x4400_0000;
        expected.registers.system.sctlr_el1 = 0x30d0_0800;
        assert!(context == expected);
    }

    #[test]
    fn registers_are_not_to_be_printed() {
        let registers = Registers { x: [0x5afe; 31], ..Registers::default() };
        assert_eq!(std::format!("{registers:?}"), "Registers { .. }");
        let context = VcpuContext { registers, ..VcpuContext::default() };
        assert_eq!(std::format!("{context:?}"), "VcpuContext { .. }");
    }

    #[test]
    fn register_31_is_the_zero_register() {
        let mut registers = Registers::default();
        registers.set(31, 5);
        assert!(registers == Registers::default());
        assert_eq!(registers.get(31), 0);
        registers.set(30, 6);
        assert_eq!(registers.get(30), 6);
    }

    #[test]
    fn a_timer_counts_only_when_enabled_and_unmasked() {
        for (ctl, armed) in [(0, false), (1, true), (2, false), (3, false), (5, true), (7, false)] {
            assert_eq!(timer_deadline(ctl, 100), armed.then_some(100), "CTL {ctl}");
        }
        let mut context = VcpuContext::default();
        context.registers.system.cntv_ctl_el0 = 1;
        context.registers.system.cntv_cval_el0 = 100;
        assert!(!context.timer_fired(99));
        assert!(context.timer_fired(100));
    }

    #[test]
    fn the_program_counter_wraps_like_the_hardware() {
        // An executed instruction clears SS and BTYPE; all other bits stay.
        let pstate = 0xffff_ffc5;
        let mut registers = Registers { pc: u64::MAX - 3, pstate, ..Registers::default() };
        registers.skip_instruction();
        assert_eq!((registers.pc, registers.pstate), (0, pstate & !0x0020_0c00));
        registers.rewind_instruction();
        assert_eq!(registers.pc, u64::MAX - 3);
    }
}
