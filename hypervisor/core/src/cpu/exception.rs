//! Exceptions that EL2 injects into EL1 of the host or of a guest.
//!
//! Injection is a pure function on the registers. It follows `AArch64.TakeException` of the Arm ARM (DDI0487,
//! J1.1.2).

use crate::cpu::registers::{Registers, pstate};
use crate::cpu::syndrome::{class, encode};

/// An exception to inject into EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// A synchronous external abort: the address has no memory behind it.
    ExternalAbort(Abort),
    /// The instruction is undefined.
    Undefined,
}

/// The syndrome of a synchronous external abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Whether the access was an instruction fetch rather than a data access.
    pub fetch: bool,
    /// Whether the access was a write; false for a fetch.
    pub write: bool,
    /// The virtual address; `None` if it is unknown.
    pub far: Option<u64>,
}

impl Exception {
    /// Changes the registers as if the CPU had taken the exception at EL1.
    pub const fn inject(self, registers: &mut Registers) {
        let from = registers.pstate;
        let from_el0 = from & pstate::AARCH32 != 0 || from & pstate::MODE_MASK == pstate::EL0;
        let system = &mut registers.system;
        system.esr_el1 = match self {
            Self::ExternalAbort(abort) => abort.esr(from_el0),
            Self::Undefined => encode(class::UNKNOWN, 0),
        };
        if let Self::ExternalAbort(Abort { far: Some(far), .. }) = self {
            system.far_el1 = far;
        }
        system.elr_el1 = registers.pc;
        system.spsr_el1 = from;
        registers.pc = system.vbar_el1.wrapping_add(vector_offset(from));
        registers.pstate = entry_pstate(from, system.sctlr_el1);
    }
}

impl Abort {
    /// Returns ESR_EL1 for this abort.
    const fn esr(self, from_el0: bool) -> u64 {
        /// DFSC and IFSC: synchronous external abort, not on a table walk.
        const SYNCHRONOUS_EXTERNAL: u64 = 0x10;
        const WRITE: u64 = 1 << 6;
        const FAR_NOT_VALID: u64 = 1 << 10;
        let class = match (self.fetch, from_el0) {
            (true, true) => class::INSTRUCTION_ABORT_LOWER,
            (true, false) => class::INSTRUCTION_ABORT_SAME,
            (false, true) => class::DATA_ABORT_LOWER,
            (false, false) => class::DATA_ABORT_SAME,
        };
        let mut iss = SYNCHRONOUS_EXTERNAL;
        if self.write && !self.fetch {
            iss |= WRITE;
        }
        if self.far.is_none() {
            iss |= FAR_NOT_VALID;
        }
        encode(class, iss)
    }
}

/// Returns the offset from VBAR_EL1 of the synchronous exception vector (DDI0487, table D1-6).
const fn vector_offset(from: u64) -> u64 {
    if from & pstate::AARCH32 != 0 {
        return 0x600;
    }
    match from & pstate::MODE_MASK {
        pstate::EL0 => 0x400,
        pstate::EL1T => 0x000,
        _ => 0x200,
    }
}

/// Returns PSTATE after an exception to EL1: EL1h with all exceptions masked. The flags and DIT are kept. PAN
/// is kept, or set if SCTLR_EL1.SPAN = 0. SSBS becomes SCTLR_EL1.DSSBS. All other bits are clear, TCO
/// included, because memory tagging is hidden from the host and guests.
const fn entry_pstate(from: u64, sctlr_el1: u64) -> u64 {
    const SPAN: u64 = 1 << 23;
    const DSSBS: u64 = 1 << 44;
    let mut new = from & (pstate::NZCV | pstate::DIT | pstate::PAN) | pstate::DAIF | pstate::EL1H;
    if sctlr_el1 & SPAN == 0 {
        new |= pstate::PAN;
    }
    if sctlr_el1 & DSSBS != 0 {
        new |= pstate::SSBS;
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SCTLR_EL1.SPAN: exception entry leaves PAN unchanged.
    const SPAN: u64 = 1 << 23;

    /// Returns the registers after EL1 has taken `exception`.
    fn taken(exception: Exception, pstate: u64, vbar_el1: u64, sctlr_el1: u64) -> Registers {
        let mut registers = Registers { pc: 0x4020_1230, pstate, ..Registers::default() };
        registers.system.vbar_el1 = vbar_el1;
        registers.system.sctlr_el1 = sctlr_el1;
        registers.system.far_el1 = 1;
        exception.inject(&mut registers);
        registers
    }

    const VBAR: u64 = 0x4030_0800;

    const READ: Exception =
        Exception::ExternalAbort(Abort { fetch: false, write: false, far: Some(0xdead_b000) });
    const WRITE: Exception =
        Exception::ExternalAbort(Abort { fetch: false, write: true, far: Some(0xdead_b000) });
    const FETCH: Exception = Exception::ExternalAbort(Abort { fetch: true, write: false, far: None });

    #[test]
    fn vector_and_syndrome_follow_the_source() {
        // (what, PSTATE, vector offset, ESR_EL1)
        for (exception, source, offset, esr) in [
            (READ, 0x3c5, 0x200, 0x9600_0010),
            (READ, 0x3c4, 0x000, 0x9600_0010),
            (READ, 0x000, 0x400, 0x9200_0010),
            (READ, 0x010, 0x600, 0x9200_0010),
            (WRITE, 0x005, 0x200, 0x9600_0050),
            (WRITE, 0x000, 0x400, 0x9200_0050),
            (FETCH, 0x005, 0x200, 0x8600_0410),
            (FETCH, 0x000, 0x400, 0x8200_0410),
            (Exception::Undefined, 0x005, 0x200, 0x0200_0000),
            (Exception::Undefined, 0x000, 0x400, 0x0200_0000),
        ] {
            let state = taken(exception, source, VBAR, SPAN);
            let system = &state.system;
            assert_eq!(state.pc, VBAR + offset, "{exception:?} from {source:#x}");
            assert_eq!(system.esr_el1, esr, "{exception:?} from {source:#x}");
            assert_eq!(system.elr_el1, 0x4020_1230);
            assert_eq!(system.spsr_el1, source);
            assert_eq!(state.pstate, 0x3c5);
        }
    }

    #[test]
    fn only_an_abort_with_an_address_writes_far() {
        for (exception, far) in [(READ, 0xdead_b000), (FETCH, 1), (Exception::Undefined, 1)] {
            assert_eq!(taken(exception, 5, VBAR, SPAN).system.far_el1, far);
        }
    }

    #[test]
    fn pstate_keeps_and_clears_what_the_architecture_says() {
        // (PSTATE before, SCTLR_EL1, PSTATE after)
        for (before, sctlr, after) in [
            // All bits set before: flags, DIT and PAN stay; TCO, UAO, SS, IL, ALLINT, SSBS and BTYPE are
            // cleared.
            (0xf3f0_3c05, SPAN, 0xf140_03c5),
            (0x0000_0005, 0, 0x0040_03c5),
            (0x0000_0005, SPAN, 0x0000_03c5),
            (0x0000_0005, SPAN | 1 << 44, 0x0000_13c5),
            (0x6000_0000, SPAN, 0x6000_03c5),
        ] {
            let state = taken(Exception::Undefined, before, VBAR, sctlr);
            assert_eq!(state.pstate, after, "{before:#x}");
        }
    }

    #[test]
    fn a_wild_vbar_wraps() {
        for (vbar, pc) in [(!0x7ff, 0xffff_ffff_ffff_fa00), (u64::MAX, 0x1ff)] {
            assert_eq!(taken(Exception::Undefined, 5, vbar, SPAN).pc, pc);
        }
    }
}
