//! Each bit of each control register, for the host and for a guest, and the reason for its value.
//!
//! The table is written from the Arm ARM (DDI0487) and the GIC architecture (IHI 0069), not from the code. A bit that
//! the code sets or clears by mistake is reported by its name. `tests/tests/metal` finds the writes in the ELF file,
//! and the oracle reads the values back at EL2.

use hyp_core::cpu::registers::RESET_SCTLR_EL1;
use shared_abi::addr::Pa;

use super::*;

/// A field of a register: its highest and lowest bits, its name, its value for the host and for a guest, and the
/// reason.
type Field = (u32, u32, &'static str, u64, u64, &'static str);

/// A register: its name, the section that describes it, and its fields from bit 0 up.
struct Register {
    name: &'static str,
    section: &'static str,
    fields: &'static [Field],
}

/// The PS of the CPU in the tables: 44 bits.
const PS: u64 = 0b100;
/// The HPMN of that CPU.
const HPMN: u64 = 6;

const RESERVED: &str = "reserved: should be zero";
const ABSENT: &str = "no such feature is in use: the reset value";

const HCR_EL2: Register = Register {
    name: "HCR_EL2",
    section: "DDI0487 D24.2.53",
    fields: &[
        (0, 0, "VM", 1, 1, "stage 2 decides about every access of EL1"),
        (1, 1, "SWIO", 1, 1, "invalidation by set and way cleans too: nothing wiped comes back"),
        (2, 2, "PTW", 0, 1, "a guest's table walk in device memory faults; the host's devices are its own"),
        (3, 3, "FMO", 0, 1, "a guest never takes the host's FIQ; its own are virtual"),
        (4, 4, "IMO", 0, 1, "a guest never takes the host's IRQ; its own are virtual"),
        (5, 5, "AMO", 0, 1, "a guest never takes the host's SError"),
        (6, 6, "VF", 0, 0, "virtual interrupts come by list registers alone"),
        (7, 7, "VI", 0, 0, "virtual interrupts come by list registers alone"),
        (8, 8, "VSE", 0, 0, "no virtual SError"),
        (9, 9, "FB", 0, 1, "a vCPU moves between CPUs: its maintenance is broadcast"),
        (11, 10, "BSU", 0, 0b01, "a vCPU moves between CPUs: its barriers are inner-shareable at least"),
        (12, 12, "DC", 0, 0, "EL1 has caches as its stage 1 says"),
        (13, 13, "TWI", 0, 1, "the host schedules while a guest waits; the host itself may wait"),
        (14, 14, "TWE", 0, 1, "the host schedules while a guest spins; the host itself may wait"),
        (15, 15, "TID0", 0, 0, "group 0 holds AArch32 registers"),
        (16, 16, "TID1", 0, 0, "group 1 tells of the CPU's make, which is no secret"),
        (17, 17, "TID2", 0, 0, "cache geometry is no secret; CSSELR_EL1 is switched"),
        (18, 18, "TID3", 1, 1, "EL1 sees the features that are switched, no others"),
        (19, 19, "TSC", 1, 1, "no SMC reaches the firmware but EL2's own"),
        (20, 20, "TIDCP", 1, 1, "implementation-defined registers are not switched"),
        (21, 21, "TACR", 1, 1, "ACTLR_EL1 is not switched"),
        (22, 22, "TSW", 0, 1, "set and way are the CPU's, not the guest's; the host owns the CPU"),
        (23, 23, "TPCP", 0, 0, "maintenance to the point of coherency is within EL1's own pages"),
        (24, 24, "TPU", 0, 0, "maintenance to the point of unification is within EL1's own pages"),
        (25, 25, "TTLB", 0, 0, "EL1's invalidations reach its own VMID alone"),
        (26, 26, "TVM", 0, 0, "stage-1 registers are switched"),
        (27, 27, "TGE", 0, 0, "EL1 is in use"),
        (28, 28, "TDZ", 0, 0, "DC ZVA writes what a store may write"),
        (29, 29, "HCD", 0, 0, "HVC is how EL1 calls"),
        (30, 30, "TRVM", 0, 0, "stage-1 registers are switched"),
        (31, 31, "RW", 1, 1, "EL1 is AArch64"),
        (32, 32, "CD", 0, 0, "data of EL1 is cached as its stage 1 says"),
        (33, 33, "ID", 0, 0, "instructions of EL1 are cached as its stage 1 says"),
        (34, 34, "E2H", 0, 0, "EL2 has the layout of nVHE"),
        (35, 35, "TLOR", 0, 1, "limited ordering regions are not switched"),
        (36, 36, "TERR", 1, 1, "error records are the machine's"),
        (37, 37, "TEA", 0, 0, "an external abort is taken where it arose"),
        (38, 38, "MIOCNCE", 0, 0, "no mismatched cacheability between stages"),
        (39, 39, "TME", 0, 0, "transactional memory is undefined"),
        (40, 40, "APK", 0, 0, "pointer authentication keys trap: they are not switched"),
        (41, 41, "API", 0, 0, "pointer authentication traps: its keys are not switched"),
        (42, 42, "NV", 0, 0, "no nested virtualization"),
        (43, 43, "NV1", 0, 0, "no nested virtualization"),
        (44, 44, "AT", 0, 0, "address translation by EL1 leaves PAR_EL1, which is switched"),
        (45, 45, "NV2", 0, 0, "no nested virtualization"),
        (46, 46, "FWB", 0, 0, "stage-2 attributes combine: descriptors are written for that"),
        (47, 47, "FIEN", 0, 0, "fault injection registers trap"),
        (48, 48, "GPF", 0, 0, "no granule protection"),
        (49, 49, "TID4", 0, 0, "cache geometry is no secret"),
        (50, 50, "TICAB", 0, 0, "EL1 may invalidate instruction caches"),
        (51, 51, "AMVOFFEN", 0, 0, "activity monitors trap"),
        (52, 52, "TOCU", 0, 0, "EL1 may clean its own pages"),
        (53, 53, "EnSCXT", 0, 0, "SCXTNUM traps: it is not switched"),
        (54, 54, "TTLBIS", 0, 0, "EL1's invalidations reach its own VMID alone"),
        (55, 55, "TTLBOS", 0, 0, "EL1's invalidations reach its own VMID alone"),
        (56, 56, "ATA", 0, 0, "tags are not switched"),
        (57, 57, "DCT", 0, 0, "no tags"),
        (58, 58, "TID5", 0, 0, "no tags: GMID_EL1 is undefined"),
        (59, 59, "TWEDEn", 0, 0, "WFE traps at once"),
        (63, 60, "TWEDEL", 0, 0, "WFE traps at once"),
    ],
};

const CPTR_EL2: Register = Register {
    name: "CPTR_EL2 (E2H = 0)",
    section: "DDI0487 D24.2.35",
    fields: &[
        (7, 0, "RES1", 0xff, 0xff, "reserved: should be one"),
        (8, 8, "TZ", 1, 1, "SVE traps: its registers are not switched"),
        (9, 9, "RES1", 1, 1, "reserved: should be one"),
        (10, 10, "TFP", 0, 1, "a guest's FP registers are loaded at its first touch"),
        (11, 11, "RES0", 0, 0, RESERVED),
        (12, 12, "TSM", 1, 1, "SME traps: its registers are not switched"),
        (13, 13, "RES1", 1, 1, "reserved: should be one"),
        (19, 14, "RES0", 0, 0, RESERVED),
        (20, 20, "TTA", 1, 1, "trace registers are the machine's"),
        (29, 21, "RES0", 0, 0, RESERVED),
        (30, 30, "TAM", 1, 1, "activity monitors count for all worlds"),
        (31, 31, "TCPAC", 0, 0, "CPACR_EL1 is switched"),
        (63, 32, "RES0", 0, 0, RESERVED),
    ],
};

const MDCR_EL2: Register = Register {
    name: "MDCR_EL2",
    section: "DDI0487 D24.3.19",
    fields: &[
        (
            4,
            0,
            "HPMN",
            HPMN,
            HPMN,
            "as at reset, all counters: those of EL1 trap, and more than there are is UNPREDICTABLE",
        ),
        (5, 5, "TPMCR", 1, 1, "performance monitors are not switched"),
        (6, 6, "TPM", 1, 1, "performance monitors are not switched"),
        (7, 7, "HPME", 0, 0, "EL2 counts nothing"),
        (8, 8, "TDE", 0, 0, "EL1 takes its own debug exceptions"),
        (9, 9, "TDA", 0, 1, "breakpoints and watchpoints are not switched: the host's"),
        (10, 10, "TDOSA", 0, 1, "OS lock and double lock are the host's"),
        (11, 11, "TDRA", 0, 1, "the debug ROM is the host's to find"),
        (13, 12, "E2PB", 0, 0, "the profiling buffer is EL2's, which has none: EL1 traps"),
        (14, 14, "TPMS", 1, 1, "statistical profiling samples all worlds"),
        (15, 15, "EnSPM", 0, 0, "system performance monitors trap"),
        (16, 16, "RES0", 0, 0, RESERVED),
        (17, 17, "HPMD", 1, 0, "what the host counts stops at EL2; a guest has no counter to run"),
        (18, 18, "RES0", 0, 0, RESERVED),
        (19, 19, "TTRF", 1, 1, "trace filters are off for all worlds"),
        (22, 20, "RES0", 0, 0, RESERVED),
        (23, 23, "HCCD", 0, 0, ABSENT),
        (25, 24, "E2TB", 0, 0, "the trace buffer is EL2's, which has none: EL1 traps"),
        (26, 26, "HLP", 0, 0, ABSENT),
        (27, 27, "TDCC", 0, 0, "the debug communication channel is an external debugger's"),
        (28, 28, "MTPME", 0, 0, "no counts of other threads"),
        (29, 29, "HPMFZO", 0, 0, ABSENT),
        (31, 30, "PMSSE", 0, 0, ABSENT),
        (35, 32, "RES0", 0, 0, RESERVED),
        (36, 36, "HPMFZS", 0, 0, ABSENT),
        (39, 37, "RES0", 0, 0, RESERVED),
        (41, 40, "PMEE", 0, 0, ABSENT),
        (42, 42, "RES0", 0, 0, RESERVED),
        (43, 43, "EBWE", 0, 0, ABSENT),
        (49, 44, "RES0", 0, 0, RESERVED),
        (50, 50, "EnSTEPOP", 0, 0, ABSENT),
        (63, 51, "RES0", 0, 0, RESERVED),
    ],
};

const CNTHCTL_EL2: Register = Register {
    name: "CNTHCTL_EL2 (E2H = 0)",
    section: "DDI0487 D24.10.2",
    fields: &[
        (0, 0, "EL1PCTEN", 1, 1, "time is no secret: the physical counter can be read"),
        (1, 1, "EL1PCEN", 1, 0, "the host ticks on the physical timer, and it is its alone"),
        (2, 2, "EVNTEN", 0, 0, "no event stream from the physical counter"),
        (3, 3, "EVNTDIR", 0, 0, "no event stream from the physical counter"),
        (7, 4, "EVNTI", 0, 0, "no event stream from the physical counter"),
        (11, 8, "RES0", 0, 0, RESERVED),
        (12, 12, "ECV", 0, 0, "the physical counter has no offset"),
        (13, 13, "EL1TVT", 0, 0, "the virtual timer is switched"),
        (14, 14, "EL1TVCT", 0, 0, "the virtual counter can be read"),
        (15, 15, "EL1NVPCT", 0, 0, "no nested virtualization"),
        (16, 16, "EL1NVVCT", 0, 0, "no nested virtualization"),
        (17, 17, "EVNTIS", 0, 0, "no event stream from the physical counter"),
        (18, 18, "CNTVMASK", 0, 0, "EL1 masks its own timers"),
        (19, 19, "CNTPMASK", 0, 0, "EL1 masks its own timers"),
        (63, 20, "RES0", 0, 0, RESERVED),
    ],
};

const ICH_HCR_EL2: Register = Register {
    name: "ICH_HCR_EL2",
    section: "IHI0069 12.4",
    fields: &[
        (0, 0, "En", 0, 1, "list registers signal to the vCPU that they were given for"),
        (1, 1, "UIE", 0, 0, "no maintenance interrupt: EL2 owns none"),
        (2, 2, "LRENPIE", 0, 0, "no maintenance interrupt: EL2 owns none"),
        (3, 3, "NPIE", 0, 0, "no maintenance interrupt: EL2 owns none"),
        (4, 4, "VGrp0EIE", 0, 0, "no maintenance interrupt: EL2 owns none"),
        (5, 5, "VGrp0DIE", 0, 0, "no maintenance interrupt: EL2 owns none"),
        (6, 6, "VGrp1EIE", 0, 0, "no maintenance interrupt: EL2 owns none"),
        (7, 7, "VGrp1DIE", 0, 0, "no maintenance interrupt: EL2 owns none"),
        (8, 8, "vSGIEOICount", 0, 0, ABSENT),
        (9, 9, "RES0", 0, 0, RESERVED),
        (10, 10, "TC", 0, 0, "common registers are the virtual interface's, and switched"),
        (11, 11, "TALL0", 0, 0, "group 0 is the virtual interface's, and switched"),
        (12, 12, "TALL1", 0, 0, "group 1 is the virtual interface's, and switched"),
        (13, 13, "TSEI", 0, 0, "a guest has no local SError"),
        (14, 14, "TDIR", 0, 0, "a guest may deactivate what is in its list registers"),
        (15, 15, "DVIM", 0, 0, ABSENT),
        (26, 16, "RES0", 0, 0, RESERVED),
        (31, 27, "EOIcount", 0, 0, "counts afresh at each entry"),
        (63, 32, "RES0", 0, 0, RESERVED),
    ],
};

const ICC_SRE_EL2: Register = Register {
    name: "ICC_SRE_EL2",
    section: "IHI0069 12.2.24",
    fields: &[
        (0, 0, "SRE", 1, 1, "the CPU interface is system registers, which stage 2 need not hide"),
        (1, 1, "DFB", 1, 1, "FIQ does not bypass the GIC"),
        (2, 2, "DIB", 1, 1, "IRQ does not bypass the GIC"),
        (3, 3, "Enable", 0, 0, "ICC_SRE_EL1 traps: it is not switched"),
        (63, 4, "RES0", 0, 0, RESERVED),
    ],
};

const VTCR_EL2: Register = Register {
    name: "VTCR_EL2",
    section: "DDI0487 D24.2.206",
    fields: &[
        (5, 0, "T0SZ", 24, 24, "IPAs have 40 bits"),
        (7, 6, "SL0", 0b01, 0b01, "walks start at level 1, in two concatenated tables"),
        (9, 8, "IRGN0", 0b01, 0b01, "walks are cached: tables are written through the cache"),
        (11, 10, "ORGN0", 0b01, 0b01, "walks are cached: tables are written through the cache"),
        (13, 12, "SH0", 0b11, 0b11, "walks see what any CPU wrote: inner-shareable"),
        (15, 14, "TG0", 0b00, 0b00, "4 KiB granule"),
        (18, 16, "PS", PS, PS, "output addresses are as wide as the CPU's"),
        (19, 19, "VS", 0, 0, "VMIDs have 8 bits"),
        (20, 20, "RES0", 0, 0, RESERVED),
        (21, 21, "HA", 0, 0, "the hardware writes no descriptor: they are consequences of the records"),
        (22, 22, "HD", 0, 0, "the hardware writes no descriptor"),
        (24, 23, "RES0", 0, 0, RESERVED),
        (28, 25, "HWU59-62", 0, 0, "no implementation-defined attribute"),
        (29, 29, "NSW", 0, 0, "there is no Secure EL2"),
        (30, 30, "NSA", 0, 0, "there is no Secure EL2"),
        (31, 31, "RES1", 1, 1, "reserved: should be one"),
        (32, 32, "DS", 0, 0, "output addresses have 48 bits at most"),
        (33, 33, "SL2", 0, 0, ABSENT),
        (34, 34, "AssuredOnly", 0, 0, ABSENT),
        (35, 35, "TL1", 0, 0, ABSENT),
        (36, 36, "S2PIE", 0, 0, "permissions are direct"),
        (37, 37, "S2POE", 0, 0, "no permission overlay"),
        (38, 38, "D128", 0, 0, "descriptors have 64 bits"),
        (39, 39, "RES0", 0, 0, RESERVED),
        (40, 40, "GCSH", 0, 0, ABSENT),
        (41, 41, "TL0", 0, 0, ABSENT),
        (43, 42, "RES0", 0, 0, RESERVED),
        (44, 44, "HAFT", 0, 0, "the hardware writes no descriptor"),
        (45, 45, "HDBSS", 0, 0, "no dirty state is kept"),
        (63, 46, "RES0", 0, 0, RESERVED),
    ],
};

/// The reset value of SCTLR_EL1. Its ones are RES1 if FEAT_ExS and FEAT_LSMAOC are absent.
const SCTLR_EL1: Register = Register {
    name: "SCTLR_EL1 (reset)",
    section: "DDI0487 D24.2.174",
    fields: &[
        (0, 0, "M", 0, 0, "PSCI starts a CPU with its MMU off (DEN0022, 6.4)"),
        (1, 1, "A", 0, 0, "no alignment checks at first"),
        (2, 2, "C", 0, 0, "PSCI starts a CPU with its caches off"),
        (3, 3, "SA", 0, 0, "no alignment checks at first"),
        (4, 4, "SA0", 0, 0, "no alignment checks at first"),
        (5, 5, "CP15BEN", 0, 0, "nothing of AArch32"),
        (6, 6, "nAA", 0, 0, ABSENT),
        (7, 7, "ITD", 0, 0, "nothing of AArch32"),
        (8, 8, "SED", 0, 0, "nothing of AArch32"),
        (9, 9, "UMA", 0, 0, "EL0 is EL1's to allow"),
        (10, 10, "EnRCTX", 0, 0, "EL0 is EL1's to allow"),
        (11, 11, "EOS", 1, 1, "exception exit synchronizes"),
        (12, 12, "I", 0, 0, "PSCI starts a CPU with its caches off"),
        (13, 13, "EnDB", 0, 0, "no pointer authentication"),
        (14, 14, "DZE", 0, 0, "EL0 is EL1's to allow"),
        (15, 15, "UCT", 0, 0, "EL0 is EL1's to allow"),
        (16, 16, "nTWI", 0, 0, "EL0 is EL1's to allow"),
        (17, 17, "RES0", 0, 0, RESERVED),
        (18, 18, "nTWE", 0, 0, "EL0 is EL1's to allow"),
        (19, 19, "WXN", 0, 0, "EL1's own choice"),
        (20, 20, "TSCXT", 1, 1, "EL0 does not reach SCXTNUM_EL0"),
        (21, 21, "IESB", 0, 0, ABSENT),
        (22, 22, "EIS", 1, 1, "exception entry synchronizes"),
        (23, 23, "SPAN", 1, 1, "PSTATE.PAN is left as it is"),
        (24, 24, "E0E", 0, 0, "little-endian"),
        (25, 25, "EE", 0, 0, "little-endian"),
        (26, 26, "UCI", 0, 0, "EL0 is EL1's to allow"),
        (27, 27, "EnDA", 0, 0, "no pointer authentication"),
        (28, 28, "nTLSMD", 1, 1, "nothing of AArch32: RES1"),
        (29, 29, "LSMAOE", 1, 1, "nothing of AArch32: RES1"),
        (30, 30, "EnIB", 0, 0, "no pointer authentication"),
        (31, 31, "EnIA", 0, 0, "no pointer authentication"),
        (63, 32, "CMOW to TIDCP", 0, 0, "no extension is on at first"),
    ],
};

/// EL2's own registers are the same while the host or a guest runs.
const SCTLR_EL2: Register = Register {
    name: "SCTLR_EL2 (E2H = 0)",
    section: "DDI0487 D24.2.175",
    fields: &[
        (0, 0, "M", 1, 1, "EL2's map holds what EL2 may do"),
        (1, 1, "A", 0, 0, "Normal memory can be accessed unaligned"),
        (2, 2, "C", 1, 1, "data is cached: tables and records are shared by CPUs"),
        (3, 3, "SA", 1, 1, "a stack pointer that is not aligned is a bug"),
        (4, 4, "RES1", 1, 1, "reserved with E2H = 0"),
        (5, 5, "RES1", 1, 1, "reserved with E2H = 0"),
        (6, 6, "nAA", 0, 0, "an atomic access that is not aligned is a bug"),
        (7, 7, "RES0", 0, 0, RESERVED),
        (8, 8, "RES0", 0, 0, RESERVED),
        (9, 9, "RES0", 0, 0, RESERVED),
        (10, 10, "RES0", 0, 0, RESERVED),
        (11, 11, "EOS", 1, 1, "ERET synchronizes"),
        (12, 12, "I", 1, 1, "instructions are cached"),
        (13, 13, "EnDB", 0, 0, "no pointer authentication at EL2"),
        (15, 14, "RES0", 0, 0, RESERVED),
        (16, 16, "RES1", 1, 1, "reserved with E2H = 0"),
        (17, 17, "RES0", 0, 0, RESERVED),
        (18, 18, "RES1", 1, 1, "reserved with E2H = 0"),
        (19, 19, "WXN", 1, 1, "writable memory never executes at EL2"),
        (20, 20, "RES0", 0, 0, RESERVED),
        (21, 21, "IESB", 0, 0, ABSENT),
        (22, 22, "EIS", 1, 1, "exception entry synchronizes: EL1's registers are read after it"),
        (23, 23, "RES1", 1, 1, "reserved with E2H = 0"),
        (24, 24, "RES0", 0, 0, RESERVED),
        (25, 25, "EE", 0, 0, "EL2 and its walks are little-endian"),
        (26, 26, "RES0", 0, 0, RESERVED),
        (27, 27, "EnDA", 0, 0, "no pointer authentication at EL2"),
        (28, 28, "RES1", 1, 1, "reserved with E2H = 0"),
        (29, 29, "RES1", 1, 1, "reserved with E2H = 0"),
        (30, 30, "EnIB", 0, 0, "no pointer authentication at EL2"),
        (31, 31, "EnIA", 0, 0, "no pointer authentication at EL2"),
        (63, 32, "CMOW to TIDCP", 0, 0, "no extension is on at EL2"),
    ],
};

const TCR_EL2: Register = Register {
    name: "TCR_EL2 (E2H = 0)",
    section: "DDI0487 D24.2.198",
    fields: &[
        (5, 0, "T0SZ", 16, 16, "EL2's addresses have 48 bits: any PA maps to itself"),
        (7, 6, "RES0", 0, 0, RESERVED),
        (9, 8, "IRGN0", 0b01, 0b01, "walks are cached"),
        (11, 10, "ORGN0", 0b01, 0b01, "walks are cached"),
        (13, 12, "SH0", 0b11, 0b11, "walks see what the boot CPU wrote: inner-shareable"),
        (15, 14, "TG0", 0b00, 0b00, "4 KiB granule"),
        (18, 16, "PS", PS, PS, "output addresses are as wide as the CPU's"),
        (19, 19, "RES0", 0, 0, RESERVED),
        (20, 20, "TBI", 0, 0, "the top byte counts: no address has two names"),
        (21, 21, "HA", 0, 0, "the hardware writes no descriptor"),
        (22, 22, "HD", 0, 0, "the hardware writes no descriptor"),
        (23, 23, "RES1", 1, 1, "reserved: should be one"),
        (24, 24, "HPD", 0, 0, "table permissions count"),
        (28, 25, "HWU59-62", 0, 0, "no implementation-defined attribute"),
        (29, 29, "TBID", 0, 0, ABSENT),
        (30, 30, "TCMA", 0, 0, ABSENT),
        (31, 31, "RES1", 1, 1, "reserved: should be one"),
        (32, 32, "DS", 0, 0, "output addresses have 48 bits at most"),
        (33, 33, "MTX", 0, 0, ABSENT),
        (63, 34, "RES0", 0, 0, RESERVED),
    ],
};

const MAIR_EL2: Register = Register {
    name: "MAIR_EL2",
    section: "DDI0487 D24.2.122",
    fields: &[
        (7, 0, "Attr0", 0x04, 0x04, "Device-nGnRE, for the console"),
        (15, 8, "Attr1", 0xff, 0xff, "Normal, write-back, for all RAM: as the host maps it"),
        (63, 16, "Attr2 to Attr7", 0, 0, "no descriptor names them"),
    ],
};

impl Register {
    /// Compares values with the table. Returns the first wrong field by its name.
    fn check(&self, host: u64, guest: u64) -> Result<(), String> {
        let Self { name, section, fields } = self;
        let mut next = 0;
        for &(high, low, field, for_host, for_guest, why) in *fields {
            if low != next || high < low {
                return Err(format!(
                    "{name}: the table has a gap or an overlap before {field} [{high}:{low}]"
                ));
            }
            next = high + 1;
            let mask = u64::MAX >> (63 - (high - low));
            for (who, value, expected) in [("the host", host, for_host), ("a guest", guest, for_guest)] {
                let found = value >> low & mask;
                if found != expected {
                    return Err(format!(
                        "{name}.{field} [{high}:{low}] of {who} is {found:#x}, not {expected:#x}: {why} ({section})"
                    ));
                }
            }
        }
        if next == u64::BITS { Ok(()) } else { Err(format!("{name}: the table ends at bit {next}")) }
    }
}

/// Each register with the code's values for the host and for a guest.
fn registers() -> [(&'static Register, u64, u64); 12] {
    // The code keeps one field of a reset value: HPMN, the number of event counters for EL1.
    let reset = u64::MAX << 5 | HPMN;
    [
        (&HCR_EL2, HOST_HCR, GUEST_HCR),
        (&CPTR_EL2, cptr(false), cptr(true)),
        (&MDCR_EL2, host_mdcr(reset), guest_mdcr(reset)),
        (&CNTHCTL_EL2, HOST_CNTHCTL, GUEST_CNTHCTL),
        (&ICH_HCR_EL2, HOST_ICH_HCR, GUEST_ICH_HCR),
        (&ICC_SRE_EL2, ICC_SRE, ICC_SRE),
        (&VTCR_EL2, vtcr(PS), vtcr(PS)),
        (&SCTLR_EL1, RESET_SCTLR_EL1, RESET_SCTLR_EL1),
        (&SCTLR_EL2, SCTLR, SCTLR),
        (&TCR_EL2, tcr(PS), tcr(PS)),
        (&MAIR_EL2, MAIR, MAIR),
        // While the CPU does not hold the host's FP registers, FP traps in the host too.
        (&CPTR_EL2, cptr(true) & !CPTR_TFP, cptr(false) | CPTR_TFP),
    ]
}

#[test]
fn every_bit_is_as_the_architecture_and_the_design_say() {
    let wrong: Vec<String> = registers()
        .into_iter()
        .filter_map(|(register, host, guest)| register.check(host, guest).err())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn any_other_bit_is_reported_by_its_name() {
    for (register, host, guest) in registers() {
        for bit in 0..u64::BITS {
            let (.., field, _, _, _) =
                register.fields.iter().find(|(high, low, ..)| (*low..=*high).contains(&bit)).unwrap();
            for (host, guest) in [(host ^ 1 << bit, guest), (host, guest ^ 1 << bit)] {
                let message = register.check(host, guest).unwrap_err();
                assert!(message.contains(&format!("{}.{field} ", register.name)), "{message}");
            }
        }
    }
}

#[test]
fn stage_2_is_on_for_both() {
    assert!(stage2_is_on(HOST_HCR) && stage2_is_on(GUEST_HCR) && !stage2_is_on(HCR_RW));
}

/// VTTBR_EL2 has BADDR in bits 47 to 1 and the VMID in bits 63 to 48 (Arm ARM DDI0487, D24.2.207).
#[test]
fn vttbr_has_the_root_and_the_vmid() {
    let vttbr = vttbr(Stage2Id { root: Pa(0x4_5678_9000), vmid: Vmid(0xab) });
    assert_eq!(vttbr, 0x00ab_0004_5678_9000);
    assert_eq!(vmid(vttbr), Vmid(0xab));
}
