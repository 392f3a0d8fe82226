//! Trapped system registers, of guests and of the host alike. What is not listed is undefined.
//!
//! The ID registers (HCR_EL2.TID3) show what the hypervisor switches or what needs no switching: for
//! each register a list of the fields that stay, and how far. A field that is not listed reads 0, so a
//! feature of a CPU that nobody here has heard of is hidden.

use crate::syndrome::{SysRegAccess, SysRegId};

/// What becomes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The read gives this value; the instruction is over.
    Read(u64),
    /// The write is lost; the instruction is over.
    Ignored,
    /// The instruction is undefined.
    Undefined,
    /// A write of this value to ICC_SGI1R_EL1; the instruction is over. From the host, which writes the
    /// real one, it does not trap.
    Sgi(u64),
}

/// Decides about a trapped access. `value` is what a write would write; `id_register` reads a register of
/// the ID space of this CPU.
pub fn access(
    access: SysRegAccess,
    value: u64,
    id_register: impl FnOnce(SysRegId) -> u64,
) -> Outcome {
    let id = access.register;
    if is_id_register(id) {
        return if access.read {
            Outcome::Read(visible(id, id_register))
        } else {
            Outcome::Undefined
        };
    }
    match (id, access.read) {
        (ICC_SGI1R_EL1, false) => Outcome::Sgi(value),
        // Group 0 and the other security state's: not the caller's to send.
        (ICC_SGI0R_EL1 | ICC_ASGI1R_EL1, false) => Outcome::Ignored,
        (ICC_SRE_EL1, true) => Outcome::Read(ICC_SRE_VALUE),
        (ICC_SRE_EL1, false) => Outcome::Ignored,
        (OSLSR_EL1, false) | (OSLAR_EL1, true) => Outcome::Undefined,
        _ if is_zero(id) => {
            if access.read {
                Outcome::Read(0)
            } else {
                Outcome::Ignored
            }
        }
        _ => Outcome::Undefined,
    }
}

const ICC_SGI1R_EL1: SysRegId = SysRegId::new(3, 0, 12, 11, 5);
const ICC_ASGI1R_EL1: SysRegId = SysRegId::new(3, 0, 12, 11, 6);
const ICC_SGI0R_EL1: SysRegId = SysRegId::new(3, 0, 12, 11, 7);
const ICC_SRE_EL1: SysRegId = SysRegId::new(3, 0, 12, 12, 5);
/// SRE, DFB and DIB: system registers, no bypass.
const ICC_SRE_VALUE: u64 = 0b111;

const OSLAR_EL1: SysRegId = SysRegId::new(2, 0, 1, 0, 4);
const OSLSR_EL1: SysRegId = SysRegId::new(2, 0, 1, 1, 4);
const OSDLR_EL1: SysRegId = SysRegId::new(2, 0, 1, 3, 4);
const MDSCR_EL1: SysRegId = SysRegId::new(2, 0, 0, 2, 2);
const DBGBVR0_EL1: SysRegId = SysRegId::new(2, 0, 0, 0, 4);
const DBGBCR0_EL1: SysRegId = SysRegId::new(2, 0, 0, 0, 5);
const DBGWVR0_EL1: SysRegId = SysRegId::new(2, 0, 0, 0, 6);
const DBGWCR0_EL1: SysRegId = SysRegId::new(2, 0, 0, 0, 7);

/// Registers that read 0 and lose writes: the debug registers that every kernel clears at boot, and the
/// error records, of which there are none (ERRIDR, ERRSELR, ERX*: S3_0_C5_C3 to C5).
const fn is_zero(id: SysRegId) -> bool {
    matches!(
        id,
        OSLAR_EL1
            | OSLSR_EL1
            | OSDLR_EL1
            | MDSCR_EL1
            | DBGBVR0_EL1
            | DBGBCR0_EL1
            | DBGWVR0_EL1
            | DBGWCR0_EL1
    ) || matches!(id.fields(), (3, 0, 5, 3..=5, _))
}

/// The ID space that HCR_EL2.TID3 traps: S3_0_C0_C1_0 to S3_0_C0_C7_7.
const fn is_id_register(id: SysRegId) -> bool {
    matches!(id.fields(), (3, 0, 0, 1..=7, _))
}

/// How much of a 4-bit field of an ID register stays.
#[derive(Clone, Copy)]
enum Keep {
    /// All of it.
    AsIs,
    /// What the CPU has, at most this.
    UpTo(u64),
    /// As is, if it says "not implemented" (0b1111), else this.
    ImplementedAs(u64),
    /// This, whatever the CPU has.
    Always(u64),
}
use Keep::{Always, AsIs, ImplementedAs, UpTo};

/// The fields of a register that stay, by their lowest bit.
type Fields = &'static [(u32, Keep)];

impl Keep {
    const fn apply(self, field: u64) -> u64 {
        match self {
            AsIs => field,
            UpTo(most) if field > most => most,
            UpTo(_) => field,
            ImplementedAs(_) if field == 0xf => 0xf,
            ImplementedAs(value) | Always(value) => value,
        }
    }
}

/// ID_AA64PFR0_EL1: AArch64 only, no EL2 and EL3; no SVE, MPAM, AMU, RME. CSV2 stops before
/// SCXTNUM_ELx, RAS before what ERX* would show.
const PFR0: Fields = &[
    (0, Always(1)), // EL0
    (4, Always(1)), // EL1
    (16, AsIs),     // FP
    (20, AsIs),     // AdvSIMD
    (24, UpTo(1)),  // GIC
    (28, UpTo(1)),  // RAS
    (48, AsIs),     // DIT
    (56, UpTo(1)),  // CSV2
    (60, AsIs),     // CSV3
];
/// ID_AA64PFR1_EL1: no MTE, SME, NMI, GCS.
const PFR1: Fields = &[
    (0, UpTo(1)), // BT
    (4, UpTo(2)), // SSBS
];
/// ID_AA64DFR0_EL1: Armv8 debug with one breakpoint and one watchpoint that do nothing; no PMU, SPE,
/// trace, double lock.
const DFR0: Fields = &[
    (0, Always(6)),    // DebugVer
    (36, Always(0xf)), // DoubleLock
    (48, Always(0xf)), // MTPMU
];
/// ID_AA64ISAR0_EL1: all but TME, whose field is bits 27:24.
const ISAR0: Fields = &[
    (4, AsIs),  // AES
    (8, AsIs),  // SHA1
    (12, AsIs), // SHA2
    (16, AsIs), // CRC32
    (20, AsIs), // Atomic
    (28, AsIs), // RDM
    (32, AsIs), // SHA3
    (36, AsIs), // SM3
    (40, AsIs), // SM4
    (44, AsIs), // DP
    (48, AsIs), // FHM
    (52, AsIs), // TS
    (56, AsIs), // TLB
    (60, AsIs), // RNDR
];
/// ID_AA64ISAR1_EL1: no pointer authentication (APA, API, GPA, GPI), XS, LS64.
const ISAR1: Fields = &[
    (0, AsIs),     // DPB
    (12, AsIs),    // JSCVT
    (16, AsIs),    // FCMA
    (20, AsIs),    // LRCPC
    (32, AsIs),    // FRINTTS
    (36, AsIs),    // SB
    (40, UpTo(1)), // SPECRES
    (44, AsIs),    // BF16
    (48, AsIs),    // DGH
    (52, AsIs),    // I8MM
];
/// ID_AA64ISAR2_EL1: no pointer authentication (GPA3, APA3), MOPS, WFxT.
const ISAR2: Fields = &[
    (20, AsIs), // BC
    (28, AsIs), // CLRBHB
    (48, AsIs), // RPRFM
    (52, AsIs), // CSSC
];
/// ID_AA64MMFR0_EL1: 40 bits of address, which is what stage 2 translates; no 52-bit granules, FGT, ECV.
const MMFR0: Fields = &[
    (0, UpTo(2)),           // PARange
    (4, AsIs),              // ASIDBits
    (8, AsIs),              // BigEnd
    (16, AsIs),             // BigEndEL0
    (20, UpTo(1)),          // TGran16
    (24, AsIs),             // TGran64
    (28, ImplementedAs(0)), // TGran4
];
/// ID_AA64MMFR1_EL1: no VHE, LOR, HCX.
const MMFR1: Fields = &[
    (0, UpTo(2)),  // HAFDBS
    (12, UpTo(2)), // HPDS
    (20, UpTo(3)), // PAN
    (36, AsIs),    // ETS
    (60, AsIs),    // ECBHB
];
/// ID_AA64MMFR2_EL1: no 52-bit addresses, nested virtualization, FWB, EVT.
const MMFR2: Fields = &[
    (0, UpTo(1)),  // CnP
    (4, UpTo(1)),  // UAO
    (12, UpTo(1)), // IESB
    (20, AsIs),    // CCIDX
    (32, UpTo(1)), // AT
    (36, AsIs),    // IDS
    (48, UpTo(1)), // TTL
    (52, UpTo(2)), // BBM
    (60, UpTo(1)), // E0PD
];

/// What is to be seen of an ID register. AArch32's and all others read 0.
fn visible(id: SysRegId, read: impl FnOnce(SysRegId) -> u64) -> u64 {
    let (.., register, bank) = id.fields();
    let fields = match (register, bank) {
        (4, 0) => PFR0,
        (4, 1) => PFR1,
        (5, 0) => DFR0,
        (6, 0) => ISAR0,
        (6, 1) => ISAR1,
        (6, 2) => ISAR2,
        (7, 0) => MMFR0,
        (7, 1) => MMFR1,
        (7, 2) => MMFR2,
        _ => return 0,
    };
    let value = read(id);
    let hidden = seeded!(0, HiddenFeature => value & (0xf << 32));
    fields.iter().fold(hidden, |visible, &(shift, keep)| {
        visible | (keep.apply((value >> shift) & 0xf) << shift)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(register: SysRegId, real: u64) -> Outcome {
        let mrs = SysRegAccess {
            register,
            read: true,
            rt: 0,
        };
        access(mrs, 0, |_| real)
    }

    fn write(register: SysRegId, value: u64) -> Outcome {
        let msr = SysRegAccess {
            register,
            read: false,
            rt: 0,
        };
        access(msr, value, |_| unreachable!())
    }

    const fn id(crm: u8, op2: u8) -> SysRegId {
        SysRegId::new(3, 0, 0, crm, op2)
    }

    #[test]
    fn a_cpu_with_everything_shows_what_is_on_the_list() {
        // Every field at 0b1110: more than any cap, and implemented.
        let everything = 0xeeee_eeee_eeee_eeee;
        for (crm, op2, visible) in [
            (4, 0, 0xe10e_0000_11ee_0011),
            (4, 1, 0x21),
            (5, 0, 0x000f_00f0_0000_0006),
            (6, 0, 0xeeee_eeee_e0ee_eee0),
            (6, 1, 0x00ee_e1ee_00ee_e00e),
            (6, 2, 0x00ee_0000_e0e0_0000),
            (7, 0, 0x0e1e_0ee2),
            (7, 1, 0xe000_00e0_0030_2002),
            (7, 2, 0x1021_00e1_00e0_1011),
        ] {
            let outcome = read(id(crm, op2), everything);
            assert_eq!(outcome, Outcome::Read(visible), "CRm {crm}, op2 {op2}");
        }
    }

    #[test]
    fn a_cortex_a76_keeps_what_it_has() {
        // ID_AA64PFR0_EL1 of QEMU's cortex-a76 with EL2: AArch32 and EL2 go.
        assert_eq!(
            read(id(4, 0), 0x1100_0000_1111_1122),
            Outcome::Read(0x1100_0000_1111_0011)
        );
        // Its ID_AA64MMFR0_EL1: 40 bits, 16-bit ASIDs; SNSMem goes.
        assert_eq!(read(id(7, 0), 0x10_1122), Outcome::Read(0x10_0122));
        // No FP and no 4 KiB granule stay so.
        assert_eq!(read(id(4, 0), 0xff_0000), Outcome::Read(0xff_0011));
        assert_eq!(read(id(7, 0), 0xf000_0000), Outcome::Read(0xf000_0000));
    }

    #[test]
    fn all_else_in_the_id_space_reads_zero() {
        for crm in 1..=7 {
            for op2 in 0..=7 {
                let listed = matches!((crm, op2), (4, 0 | 1) | (5, 0) | (6, 0..=2) | (7, 0..=2));
                if !listed {
                    assert_eq!(
                        read(id(crm, op2), u64::MAX),
                        Outcome::Read(0),
                        "{crm} {op2}"
                    );
                }
                assert_eq!(write(id(crm, op2), 0), Outcome::Undefined);
            }
        }
    }

    #[test]
    fn the_gic_registers_that_trap() {
        assert_eq!(write(ICC_SGI1R_EL1, 0x1_0002), Outcome::Sgi(0x1_0002));
        assert_eq!(
            read(ICC_SGI1R_EL1, 0),
            Outcome::Undefined,
            "it is write-only"
        );
        assert_eq!(write(ICC_SGI0R_EL1, 1), Outcome::Ignored);
        assert_eq!(write(ICC_ASGI1R_EL1, 1), Outcome::Ignored);
        assert_eq!(read(ICC_SRE_EL1, 0), Outcome::Read(7));
        assert_eq!(write(ICC_SRE_EL1, 0), Outcome::Ignored);
    }

    #[test]
    fn debug_and_error_registers_are_zero() {
        for register in [
            MDSCR_EL1,
            OSDLR_EL1,
            DBGBVR0_EL1,
            DBGBCR0_EL1,
            DBGWVR0_EL1,
            DBGWCR0_EL1,
            SysRegId::new(3, 0, 5, 3, 0), // ERRIDR_EL1
            SysRegId::new(3, 0, 5, 5, 3), // ERXMISC3_EL1
        ] {
            assert_eq!(read(register, 0), Outcome::Read(0), "{register:?}");
            assert_eq!(write(register, 1), Outcome::Ignored, "{register:?}");
        }
        assert_eq!(write(OSLAR_EL1, 0), Outcome::Ignored);
        assert_eq!(read(OSLSR_EL1, 0), Outcome::Read(0));
        assert_eq!(write(OSLSR_EL1, 0), Outcome::Undefined);
    }

    #[test]
    fn what_is_not_listed_is_undefined() {
        for (name, register) in [
            ("PMCR_EL0", SysRegId::new(3, 3, 9, 12, 0)),
            ("PMEVCNTR0_EL0", SysRegId::new(3, 3, 14, 8, 0)),
            ("PMSCR_EL1", SysRegId::new(3, 0, 9, 9, 0)),
            ("AMCR_EL0", SysRegId::new(3, 3, 13, 2, 0)),
            ("LORC_EL1", SysRegId::new(3, 0, 10, 4, 3)),
            ("TRFCR_EL1", SysRegId::new(3, 0, 1, 2, 1)),
            ("TRCPRGCTLR", SysRegId::new(2, 1, 0, 1, 0)),
            ("DC ISW", SysRegId::new(1, 0, 7, 6, 2)),
            ("APIAKEYLO_EL1", SysRegId::new(3, 0, 2, 1, 0)),
            ("ZCR_EL1", SysRegId::new(3, 0, 1, 2, 0)),
            ("CNTP_CTL_EL0", SysRegId::new(3, 3, 14, 2, 1)),
            ("DBGBVR1_EL1", SysRegId::new(2, 0, 0, 1, 4)),
            ("SMPRI_EL1", SysRegId::new(3, 0, 1, 2, 4)),
        ] {
            assert_eq!(read(register, 0), Outcome::Undefined, "{name}");
            assert_eq!(write(register, 0), Outcome::Undefined, "{name}");
        }
    }
}
