//! The registers of interrupted code.

use core::fmt;

use super::syndrome::Syndrome;

/// The registers at an exception. After the handler, the vectors restore all of them as the handler left them, except
/// [`sp`](Self::sp), [`esr`](Self::esr) and [`far`](Self::far).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer before the exception. It is for information: the vectors do not restore it.
    pub sp: u64,
    /// ELR_EL1: the address to return to.
    pub elr: u64,
    /// SPSR_EL1: the PSTATE to restore.
    pub spsr: u64,
    /// ESR_EL1: the syndrome.
    pub esr: u64,
    /// FAR_EL1: the faulting address, if the syndrome says that it is valid.
    pub far: u64,
}

// AAPCS64, 6.4.5.1: the stack pointer is 16-byte aligned at all times.
const _: () = assert!(size_of::<Frame>().is_multiple_of(16));

impl Frame {
    /// The decoded reason for a synchronous exception.
    #[must_use]
    pub fn syndrome(&self) -> Syndrome {
        Syndrome::from_esr(self.esr)
    }

    /// Returns the faulting address of a load, a store or a fetch, if it is valid.
    #[must_use]
    pub fn fault_address(&self) -> Option<u64> {
        match self.syndrome() {
            Syndrome::DataAbort(abort) | Syndrome::InstructionAbort(abort) => {
                abort.far_valid.then_some(self.far)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Frame {
    /// Writes several lines for a person who looks for the cause.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.syndrome())?;
        writeln!(
            f,
            "elr={:016x} spsr={:x} esr={:x} far={:016x} sp={:016x}",
            self.elr, self.spsr, self.esr, self.far, self.sp
        )?;
        for (row, registers) in self.x.chunks(4).enumerate() {
            for (column, value) in registers.iter().enumerate() {
                write!(f, "x{:<2}={value:016x} ", 4 * row + column)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The entry of the vector table that an exception used, 0 to 15.
///
/// Arm ARM DDI0487 L.b, D1.4.1.5, "Exception vectors".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector(pub u8);

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = ["synchronous exception", "IRQ", "FIQ", "SError"][usize::from(self.0 & 3)];
        let origin = match self.0 >> 2 {
            0 => "EL1 with SP_EL0",
            1 => "EL1",
            2 => "EL0 (AArch64)",
            _ => "EL0 (AArch32)",
        };
        write!(f, "{kind} from {origin}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fault_address_counts_only_where_it_is_valid() {
        let mut frame = Frame { esr: 0x9600_0010, far: 0x1234, ..Frame::default() };
        assert_eq!(frame.fault_address(), Some(0x1234));
        frame.esr |= 1 << 10;
        assert_eq!(frame.fault_address(), None);
        frame.esr = 0x5600_0000;
        assert_eq!(frame.fault_address(), None);
    }

    #[test]
    fn a_report_names_cause_and_registers() {
        let frame = Frame { esr: 0x9600_0050, elr: 0x4020_0040, far: 0x0a00_0000, ..Frame::default() };
        let report = frame.to_string();
        assert!(report.starts_with("data abort on a write: synchronous external abort"));
        assert!(report.contains("elr=0000000040200040"));
        assert!(report.contains("x30="));
    }

    #[test]
    fn vectors_have_names() {
        assert_eq!(Vector(4).to_string(), "synchronous exception from EL1");
        assert_eq!(Vector(15).to_string(), "SError from EL0 (AArch32)");
    }
}
