//! ESR_EL1 (Arm ARM DDI0487 L.b, D24.2.40) as an enum. The decoder is total: unknown codes have a variant too.

use core::fmt;

/// The reason for a synchronous exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syndrome {
    /// EC 0x00: the instruction is undefined, or a control disables it.
    Undefined,
    /// EC 0x07: an access to FP or SIMD registers that CPACR_EL1 traps.
    FpAccess,
    /// EC 0x0e: PSTATE.IL was set.
    IllegalState,
    /// EC 0x15: SVC from A64 code, with its immediate.
    Svc(u16),
    /// EC 0x18: an access to a trapped system register, or a trapped system instruction.
    SystemRegister,
    /// EC 0x20, 0x21: a fetch faulted.
    InstructionAbort(Abort),
    /// EC 0x22: the program counter was not aligned.
    PcAlignment,
    /// EC 0x24, 0x25: a load or a store faulted.
    DataAbort(Abort),
    /// EC 0x26: the stack pointer was not aligned.
    SpAlignment,
    /// EC 0x3c: BRK, with its immediate.
    Brk(u16),
    /// Any other exception class.
    Other(u8),
}

/// A load, a store or a fetch that faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The fault.
    pub fault: Fault,
    /// True if the access was a write. A fetch never is.
    pub write: bool,
    /// FAR_EL1 holds the address.
    pub far_valid: bool,
}

/// The fault status code of an abort (Arm ARM DDI0487 L.b, D24.2.40, DFSC and IFSC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The address is larger than the tables or the output size allow, at this level.
    AddressSize(u8),
    /// The entry at this level is invalid.
    Translation(u8),
    /// The entry's Access flag is clear, at this level.
    AccessFlag(u8),
    /// The entry at this level forbids the access.
    Permission(u8),
    /// The memory system refused the access. EL2 injects this fault for memory that EL1 must not access.
    External,
    /// The memory system refused the access to a translation table at this level.
    ExternalOnWalk(u8),
    /// The address is not aligned as the access or the memory type requires.
    Alignment,
    /// Any other code.
    Other(u8),
}

impl Syndrome {
    /// Decodes a value of ESR_EL1.
    #[must_use]
    pub const fn from_esr(esr: u64) -> Self {
        let class = (esr >> 26) as u8 & 0x3f;
        let immediate = esr as u16;
        match class {
            0x00 => Self::Undefined,
            0x07 => Self::FpAccess,
            0x0e => Self::IllegalState,
            0x15 => Self::Svc(immediate),
            0x18 => Self::SystemRegister,
            0x20 | 0x21 => Self::InstructionAbort(Abort::from_iss(esr, false)),
            0x22 => Self::PcAlignment,
            0x24 | 0x25 => Self::DataAbort(Abort::from_iss(esr, esr & (1 << 6) != 0)),
            0x26 => Self::SpAlignment,
            0x3c => Self::Brk(immediate),
            other => Self::Other(other),
        }
    }
}

impl Abort {
    const fn from_iss(esr: u64, write: bool) -> Self {
        let fault = Fault::from_status(esr as u8 & 0x3f);
        // FnV (bit 10) is defined for synchronous external aborts only.
        let far_valid = !matches!(fault, Fault::External) || esr & (1 << 10) == 0;
        Self { fault, write, far_valid }
    }
}

impl Fault {
    const fn from_status(status: u8) -> Self {
        let level = status & 3;
        match status {
            0x00..=0x03 => Self::AddressSize(level),
            0x04..=0x07 => Self::Translation(level),
            0x08..=0x0b => Self::AccessFlag(level),
            0x0c..=0x0f => Self::Permission(level),
            0x10 => Self::External,
            0x14..=0x17 => Self::ExternalOnWalk(level),
            0x21 => Self::Alignment,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined => f.write_str("undefined instruction"),
            Self::FpAccess => f.write_str("use of FP/SIMD registers"),
            Self::IllegalState => f.write_str("illegal execution state"),
            Self::Svc(immediate) => write!(f, "SVC #{immediate}"),
            Self::SystemRegister => f.write_str("trapped system register access"),
            Self::InstructionAbort(abort) => write!(f, "instruction abort: {}", abort.fault),
            Self::PcAlignment => f.write_str("PC alignment fault"),
            Self::DataAbort(abort) => {
                let access = if abort.write { "write" } else { "read" };
                write!(f, "data abort on a {access}: {}", abort.fault)
            }
            Self::SpAlignment => f.write_str("SP alignment fault"),
            Self::Brk(immediate) => write!(f, "BRK #{immediate}"),
            Self::Other(class) => write!(f, "exception class {class:#x}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressSize(level) => write!(f, "address size fault, level {level}"),
            Self::Translation(level) => write!(f, "translation fault, level {level}"),
            Self::AccessFlag(level) => write!(f, "access flag fault, level {level}"),
            Self::Permission(level) => write!(f, "permission fault, level {level}"),
            Self::External => f.write_str("synchronous external abort"),
            Self::ExternalOnWalk(level) => {
                write!(f, "external abort on a table walk, level {level}")
            }
            Self::Alignment => f.write_str("alignment fault"),
            Self::Other(status) => write!(f, "fault status {status:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn abort(fault: Fault, write: bool) -> Abort {
        Abort { fault, write, far_valid: true }
    }

    #[test]
    fn known_values_decode() {
        let table = [
            (0x0200_0000, Syndrome::Undefined),
            (0x5600_0007, Syndrome::Svc(7)),
            (0x9600_0006, Syndrome::DataAbort(abort(Fault::Translation(2), false))),
            (0x9600_004f, Syndrome::DataAbort(abort(Fault::Permission(3), true))),
            (0x9600_0050, Syndrome::DataAbort(abort(Fault::External, true))),
            (0x9600_0021, Syndrome::DataAbort(abort(Fault::Alignment, false))),
            (0x8600_000f, Syndrome::InstructionAbort(abort(Fault::Permission(3), false))),
            (0x8600_0015, Syndrome::InstructionAbort(abort(Fault::ExternalOnWalk(1), false))),
            (0xf200_0001, Syndrome::Brk(1)),
            (0xbe00_0000, Syndrome::Other(0x2f)),
        ];
        for (esr, expected) in table {
            assert_eq!(Syndrome::from_esr(esr), expected, "{esr:#x}");
        }
    }

    #[test]
    fn a_fetch_is_never_a_write() {
        let Syndrome::InstructionAbort(abort) = Syndrome::from_esr(0x8600_0050) else {
            panic!("not an instruction abort");
        };
        assert!(!abort.write);
    }

    #[test]
    fn every_class_and_status_decodes() {
        for class in 0..64 {
            for status in 0..64 {
                let _ = Syndrome::from_esr(class << 26 | status);
            }
        }
    }
}
