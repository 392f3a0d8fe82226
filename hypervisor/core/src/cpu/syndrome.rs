//! ESR_EL2, HPFAR_EL2 and FAR_EL2 as typed values. A trap's syndrome is decoded once, on entry to EL2. Every
//! value decodes.
//!
//! Encodings follow the Arm ARM, DDI0487, D19.2.42 (ESR_EL2).

use shared_abi::addr::{Gfn, Ipa, PAGE_SIZE};
use shared_abi::vcpu::AccessSize;

/// Exception classes: ESR_ELx.EC, shifted to bit 0.
pub mod class {
    /// The position of EC in ESR_ELx.
    pub const SHIFT: u32 = 26;
    /// Unknown reason; also an undefined instruction.
    pub const UNKNOWN: u8 = 0x00;
    /// WFI or WFE.
    pub const WFX: u8 = 0x01;
    /// FP/SIMD access.
    pub const FP: u8 = 0x07;
    /// Illegal execution state. The hypervisor also reports AArch32, which guests do not have, by this class.
    pub const ILLEGAL_STATE: u8 = 0x0e;
    /// HVC from A64.
    pub const HVC64: u8 = 0x16;
    /// SMC from A64.
    pub const SMC64: u8 = 0x17;
    /// MSR, MRS or a system instruction from A64.
    pub const SYSREG: u8 = 0x18;
    /// SVE access.
    pub const SVE: u8 = 0x19;
    /// Instruction abort from a lower exception level.
    pub const INSTRUCTION_ABORT_LOWER: u8 = 0x20;
    /// Instruction abort from the same exception level.
    pub const INSTRUCTION_ABORT_SAME: u8 = 0x21;
    /// Data abort from a lower exception level.
    pub const DATA_ABORT_LOWER: u8 = 0x24;
    /// Data abort from the same exception level.
    pub const DATA_ABORT_SAME: u8 = 0x25;
    /// SError interrupt.
    pub const SERROR: u8 = 0x2f;
}

/// ESR_ELx.IL: the instruction has 32 bits.
pub(crate) const LONG_INSTRUCTION: u64 = 1 << 25;

/// The syndrome registers of a synchronous exception taken to EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyndromeRegisters {
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2.
    pub hpfar: u64,
}

/// The decoded reason of a trap to EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syndrome {
    /// `hvc #imm`; the PC is past the instruction.
    Hvc {
        /// The immediate.
        imm: u16,
    },
    /// `smc #imm`; the PC is at the instruction.
    Smc {
        /// The immediate.
        imm: u16,
    },
    /// A trapped MSR, MRS or system instruction.
    SysReg(SysRegAccess),
    /// A data abort.
    DataAbort(DataAbort),
    /// An instruction abort.
    InstructionAbort(Fault),
    /// WFI or WFE.
    Wfx {
        /// Whether the instruction is WFE or WFET, which wait for an event, rather than for an interrupt.
        event: bool,
    },
    /// An FP/SIMD instruction while CPTR_EL2.TFP is set.
    FpTrap,
    /// Any other exception class.
    Unknown(u8),
}

/// The syndrome fields that all aborts share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The fault status code (DFSC or IFSC).
    pub status: u8,
    /// Whether the fault hit a stage-1 table walk rather than the access itself.
    pub stage1_walk: bool,
    /// Whether FAR_EL2 is not valid.
    pub far_not_valid: bool,
}

impl Fault {
    /// Decodes the ISS fields that all aborts share.
    const fn decode(esr: u64) -> Self {
        Self {
            status: (esr & 0x3f) as u8,
            stage1_walk: esr & (1 << 7) != 0,
            far_not_valid: esr & (1 << 10) != 0,
        }
    }

    /// Returns whether the fault is a translation fault at any level: no valid descriptor.
    const fn is_translation(self) -> bool {
        matches!(self.status, 0x04..=0x07 | 0x2b)
    }

    /// Returns the faulting IPA from HPFAR_EL2 and FAR_EL2, or `None` if the CPU reports none.
    ///
    /// The CPU reports the IPA for an address size, translation or access flag fault. For a permission fault
    /// it does so only during a stage-1 walk (DDI0487, D19.2.57). For an external abort it reports none.
    ///
    /// For a fault on a stage-1 walk only the page is exact: FAR_EL2 holds the address under translation, so
    /// the page offset is 0.
    pub const fn ipa(self, hpfar: u64, far: u64) -> Option<Ipa> {
        match self.status {
            0x00..=0x0b | 0x29 | 0x2b => {}
            0x0c..=0x0f if self.stage1_walk => {}
            _ => return None,
        }
        Some(self.given_ipa(hpfar, far))
    }

    /// Returns [`Self::ipa`] for a translation fault, `None` for any other.
    #[inline(always)] // mmio_exit: skips the fields that the caller does not read
    pub(crate) fn translation_ipa(self, hpfar: u64, far: u64) -> Option<Ipa> {
        self.is_translation().then_some(self.given_ipa(hpfar, far))
    }

    #[inline(always)] // mmio_exit: the syndrome is decoded in registers
    const fn given_ipa(self, hpfar: u64, far: u64) -> Ipa {
        let offset = if self.stage1_walk || self.far_not_valid { 0 } else { far & (PAGE_SIZE - 1) };
        Ipa(faulting_page(hpfar).base().0 | offset)
    }
}

/// HPFAR_EL2.FIPA: bits 43:4 hold IPA bits 51:12 (DDI0487, D19.2.57).
const fn faulting_page(hpfar: u64) -> Gfn {
    Gfn((hpfar >> 4) & ((1 << 40) - 1))
}

/// A data abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAbort {
    /// The fields that all aborts share.
    pub fault: Fault,
    /// Whether the access was a write (WnR). A cache maintenance instruction also reports a write.
    pub write: bool,
    /// Whether the instruction was cache maintenance or address translation, not a load or store (CM).
    pub cache_maintenance: bool,
    /// The load or store, if the syndrome describes the instruction (ISV).
    pub access: Option<RegisterAccess>,
}

/// A load or store of one general-purpose register that caused a data abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterAccess {
    /// The access size (SAS).
    pub size: AccessSize,
    /// Whether a load sign-extends the value (SSE).
    pub sign_extend: bool,
    /// Whether the register is 64 bits wide (SF).
    pub wide: bool,
    /// The register number; 31 is XZR (SRT).
    pub register: u8,
}

impl DataAbort {
    /// Decodes the ISS of class 0x24: ISV 24, SAS 23:22, SSE 21, SRT 20:16, SF 15, CM 8, WnR 6.
    #[inline(always)] // mmio_exit: skips the fields that the caller does not read
    pub(crate) const fn decode(esr: u64) -> Self {
        const ISV: u64 = 1 << 24;
        Self {
            fault: Fault::decode(esr),
            write: esr & (1 << 6) != 0,
            cache_maintenance: esr & (1 << 8) != 0,
            access: if esr & ISV != 0 { Some(RegisterAccess::decode(esr)) } else { None },
        }
    }
}

impl RegisterAccess {
    #[inline(always)] // mmio_exit: the syndrome is decoded in registers
    const fn decode(esr: u64) -> Self {
        Self {
            size: AccessSize::from_log2((esr >> 22) & 0b11),
            sign_extend: esr & (1 << 21) != 0,
            wide: esr & (1 << 15) != 0,
            register: register_field(esr >> 16),
        }
    }
}

/// A trapped access to a system register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysRegAccess {
    /// The system register.
    pub register: SysRegId,
    /// Whether the instruction is MRS rather than MSR.
    pub read: bool,
    /// The number of the general-purpose register; 31 is XZR (Rt).
    pub rt: u8,
}

/// The encoding of a system register or instruction in 20 bits: Op0, Op1, CRn, CRm, Op2. The fields are in
/// the order of the instruction and of the Arm ARM's `S<op0>_<op1>_<Cn>_<Cm>_<op2>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysRegId(pub u32);

impl SysRegId {
    /// Makes the id of `S<op0>_<op1>_C<crn>_C<crm>_<op2>`.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self(
            ((op0 as u32 & 0b11) << 14)
                | ((op1 as u32 & 0b111) << 11)
                | ((crn as u32 & 0xf) << 7)
                | ((crm as u32 & 0xf) << 3)
                | (op2 as u32 & 0b111),
        )
    }

    /// Returns Op0, Op1, CRn, CRm, Op2.
    pub const fn fields(self) -> (u8, u8, u8, u8, u8) {
        (
            ((self.0 >> 14) & 0b11) as u8,
            ((self.0 >> 11) & 0b111) as u8,
            ((self.0 >> 7) & 0xf) as u8,
            ((self.0 >> 3) & 0xf) as u8,
            (self.0 & 0b111) as u8,
        )
    }
}

impl core::fmt::Debug for SysRegId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (op0, op1, crn, crm, op2) = self.fields();
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

impl SysRegAccess {
    /// Decodes the ISS of class 0x18: Op0 21:20, Op2 19:17, Op1 16:14, CRn 13:10, Rt 9:5, CRm 4:1, direction
    /// 0.
    const fn decode(iss: u64) -> Self {
        Self {
            register: SysRegId::new(
                ((iss >> 20) & 0b11) as u8,
                ((iss >> 14) & 0b111) as u8,
                ((iss >> 10) & 0xf) as u8,
                ((iss >> 1) & 0xf) as u8,
                ((iss >> 17) & 0b111) as u8,
            ),
            read: iss & 1 != 0,
            rt: register_field(iss >> 5),
        }
    }
}

/// Returns the low five bits: a register number.
const fn register_field(bits: u64) -> u8 {
    (bits & 0x1f) as u8
}

impl Syndrome {
    /// Decodes ESR_EL2. Most callers match on the class only. Inlining lets the compiler drop the fields that
    /// a caller does not use.
    #[inline(always)] // mmio_exit: skips the fields that the caller does not read
    pub const fn decode(esr: u64) -> Self {
        match ((esr >> class::SHIFT) & 0x3f) as u8 {
            class::HVC64 => Self::Hvc { imm: immediate(esr) },
            class::SMC64 => Self::Smc { imm: immediate(esr) },
            class::SYSREG => Self::SysReg(SysRegAccess::decode(esr)),
            class::DATA_ABORT_LOWER => Self::DataAbort(DataAbort::decode(esr)),
            class::INSTRUCTION_ABORT_LOWER => Self::InstructionAbort(Fault::decode(esr)),
            class::WFX => Self::Wfx { event: esr & 1 != 0 },
            class::FP => Self::FpTrap,
            other => Self::Unknown(other),
        }
    }
}

/// Returns the immediate of an ESR_EL2 value whose class is HVC or SMC.
pub const fn immediate(esr: u64) -> u16 {
    (esr & 0xffff) as u16
}

/// Builds an ESR value for a 32-bit instruction.
pub(crate) const fn encode(class: u8, iss: u64) -> u64 {
    ((class as u64) << class::SHIFT) | LONG_INSTRUCTION | iss
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_values_decode() {
        let fault = |status| Fault { status, stage1_walk: false, far_not_valid: false };
        let system = |register, read, rt| Syndrome::SysReg(SysRegAccess { register, read, rt });
        let table = [
            (0x5a00_0000, Syndrome::Hvc { imm: 0 }),
            (0x5a00_4242, Syndrome::Hvc { imm: 0x4242 }),
            (0x5e00_0001, Syndrome::Smc { imm: 1 }),
            (0x07e0_0000, Syndrome::Wfx { event: false }),
            (0x07e0_0001, Syndrome::Wfx { event: true }),
            (0x07e0_0003, Syndrome::Wfx { event: true }),
            (0x1fe0_0000, Syndrome::FpTrap),
            (0x0200_0000, Syndrome::Unknown(class::UNKNOWN)),
            (0x6600_0000, Syndrome::Unknown(class::SVE)),
            (0x8200_0007, Syndrome::InstructionAbort(fault(0x07))),
            // strb w0, [x1] to an unmapped page.
            (
                0x9300_0047,
                Syndrome::DataAbort(DataAbort {
                    fault: fault(0x07),
                    write: true,
                    cache_maintenance: false,
                    access: Some(RegisterAccess {
                        size: AccessSize::Byte,
                        sign_extend: false,
                        wide: false,
                        register: 0,
                    }),
                }),
            ),
            // ldrsw x3, [x1].
            (
                0x93a3_8006,
                Syndrome::DataAbort(DataAbort {
                    fault: fault(0x06),
                    write: false,
                    cache_maintenance: false,
                    access: Some(RegisterAccess {
                        size: AccessSize::Word,
                        sign_extend: true,
                        wide: true,
                        register: 3,
                    }),
                }),
            ),
            // dc civac: no instruction syndrome.
            (
                0x9200_0147,
                Syndrome::DataAbort(DataAbort {
                    fault: fault(0x07),
                    write: true,
                    cache_maintenance: true,
                    access: None,
                }),
            ),
            // msr icc_sgi1r_el1, x2
            (0x623a_3056, system(SysRegId::new(3, 0, 12, 11, 5), false, 2)),
            // dc civac, x0
            (0x6212_dc1c, system(SysRegId::new(1, 3, 7, 14, 1), false, 0)),
            // mrs x5, id_aa64pfr0_el1
            (0x6230_00a9, system(SysRegId::new(3, 0, 0, 4, 0), true, 5)),
        ];
        for (esr, expected) in table {
            assert_eq!(Syndrome::decode(esr), expected, "ESR {esr:#x}");
        }
    }

    #[test]
    fn every_class_decodes() {
        for class in 0..=0x3f_u64 {
            for iss in [0, 0x1ff_ffff, 0x0aa_aaaa, 0x155_5555] {
                let _ = Syndrome::decode((class << class::SHIFT) | iss);
                let _ = Syndrome::decode(u64::MAX << 32 | (class << class::SHIFT) | iss);
            }
        }
    }

    #[test]
    fn translation_faults_are_told_from_others() {
        let translation = |status| Fault::decode(status).is_translation();
        assert!([0x04, 0x07, 0x2b].into_iter().all(translation));
        assert!(![0x00, 0x09, 0x0f, 0x10, 0x17, 0x21, 0x29, 0x35].into_iter().any(translation));
    }

    #[test]
    fn the_ipa_comes_from_hpfar_and_the_offset_from_far() {
        let fault = Fault::decode(0x07);
        assert_eq!(fault.ipa(0x0009_0000, 0xffff_8000_1234_5018), Some(Ipa(0x900_0018)));
        // The NS bit and RES0 bits of HPFAR_EL2 are not part of the address.
        assert_eq!(fault.ipa(1 << 63 | 0x0009_0000, 0), Some(Ipa(0x900_0000)));
        let walk = Fault::decode(0x87);
        assert_eq!(walk.ipa(0x0040_0000, 0x18), Some(Ipa(0x4000_0000)));
        assert_eq!(Fault::decode(0x0f).ipa(0x10, 0), None, "permission fault");
        assert_eq!(Fault::decode(0x8f).ipa(0x10, 0), Some(Ipa(0x1000)));
        assert_eq!(Fault::decode(0x10).ipa(0x10, 0), None, "external abort");
    }

    #[test]
    fn register_ids_round_trip() {
        let id = SysRegId::new(3, 7, 15, 14, 6);
        assert_eq!(id.fields(), (3, 7, 15, 14, 6));
        assert_eq!(std::format!("{id:?}"), "S3_7_C15_C14_6");
    }
}
