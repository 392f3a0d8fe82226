//! The rules, each with its source.

use core::fmt;

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident = $name:literal, $source:literal;)*) => {
        /// A rule of the architecture or of the core that a stream of events may break.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Self] = &[$(Self::$rule,)*];

            /// The rule's name in messages.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$rule => $name,)*
                }
            }

            /// The rule's source.
            #[must_use]
            pub const fn source(self) -> &'static str {
                match self {
                    $(Self::$rule => $source,)*
                }
            }
        }
    };
}

rules! {
    /// A valid entry is replaced by another only after it is made invalid, and then the old translation is
    /// invalidated in all TLBs.
    BreakBeforeMake = "break-before-make",
        "Arm ARM DDI0487, D8.17.1: TLB maintenance, break-before-make";
    /// An entry's write is visible to the walkers (DSB ISHST) before its translation is invalidated.
    VisibleFirst = "DSB ISHST before TLBI",
        "Arm ARM DDI0487, D8.17.5: ordering and completion of TLB maintenance";
    /// A removed leaf is invalidated by its IPA before its lock is released.
    Invalidated = "TLBI for what was taken away",
        "Arm ARM DDI0487, D8.17.1 and D8.17.4: TLBI IPAS2E1IS reaches one IPA";
    /// If a table is removed, its whole VMID is invalidated: TLBs may hold its entries, and the table itself.
    WholeVmid = "TLBI VMALLS12E1IS for a table",
        "Arm ARM DDI0487, D8.17.4: scope of TLB maintenance; D8.16.2: caching of tables";
    /// VTTBR_EL2 holds the VMID of the changed address space when a TLBI is issued.
    RightVmid = "the right VMID",
        "Arm ARM DDI0487, D8.17.4: TLBI by the current VMID";
    /// After TLBI IPAS2E1IS and DSB ISH, TLBI VMALLE1IS invalidates the entries that combine both stages.
    CombinedToo = "DSB ISH and TLBI VMALLE1IS after TLBI IPAS2E1IS",
        "Arm ARM DDI0487, D8.17.4: IPAS2E1 need not reach what combines both stages";
    /// TLB maintenance is complete (DSB ISH) before its lock is released.
    Complete = "DSB ISH after TLBI",
        "Arm ARM DDI0487, D8.17.5: ordering and completion of TLB maintenance";
    /// This CPU executes an ISB after the DSB ISH.
    Synchronized = "ISB after DSB ISH",
        "Arm ARM DDI0487, D8.17.5: a context synchronization event after completion";
    /// New entries are published (DSB ISHST, ISB) before their lock is released.
    Published = "DSB ISHST and ISB after making entries valid",
        "Arm ARM DDI0487, D8.2.6: visibility of descriptor writes to walkers";
    /// A page is wiped, cleaned, used as a table or mapped for another party only after no TLB translates to it.
    GoneBeforeReuse = "no reuse before the invalidation is complete",
        "docs/architecture.md: a transition; Arm ARM DDI0487, D8.17.1";
    /// A page is wiped or cleaned to the point of coherency before a guest gets it, and wiped before the host gets it
    /// back.
    HandOver = "wiped or cleaned before hand-over",
        "docs/abi.md: wipes; Arm ARM DDI0487, D7.5.9: point of coherency";
    /// A table's page is wiped before its first entry is written, and no party reaches it.
    TablePage = "a table's page is wiped and nobody's",
        "docs/architecture.md: memory; Arm ARM DDI0487, D8.3.1: what is not written is no descriptor";
    /// If a VMID's tables may have been walked, TLBI VMALLS12E1IS precedes the VMID's next use.
    VmidReuse = "TLBI VMALLS12E1IS before a VMID is used again",
        "Arm ARM DDI0487, D8.16.3: VMIDs tag TLB entries";
    /// If another vCPU of the VM ran last on this CPU, the CPU first invalidates its combined translations and
    /// instructions: TLBI VMALLE1, IC IALLU, DSB, ISB.
    PreviousVcpu = "the CPU forgets the previous vCPU",
        "Arm ARM DDI0487, D8.16.3: ASIDs are the guest's, and vCPUs may use one for two spaces";
    /// A descriptor sets no bit that the core does not use (Contiguous, software bits), and its address is aligned.
    Descriptor = "plain descriptors",
        "Arm ARM DDI0487, D8.3.1: descriptor formats; D8.7.1: the Contiguous bit";
    /// VTTBR_EL2 names the host's address space or that of the loaded vCPU, without CnP.
    Vttbr = "VTTBR_EL2 is the owner's",
        "Arm ARM DDI0487, D24.2.207: VTTBR_EL2; D8.16.4: Common not Private";
    /// A CPU takes locks in their order, and no two CPUs hold the same lock.
    LockOrder = "the lock order",
        "docs/locking.md";
    /// A CPU holds no lock when EL1 runs or a call ends.
    LockHeld = "no lock across a world switch",
        "docs/locking.md";
    /// A CPU changes an address space's tables only under its lock.
    UnderLock = "tables change under their lock",
        "docs/locking.md";
    /// A vCPU is loaded on at most one CPU.
    OneCpu = "a vCPU is on one CPU",
        "docs/abi.md: VcpuRun";
    /// The stream is complete and consistent.
    Stream = "the stream is whole",
        "hypervisor/core/src/machine/event.rs";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.source())
    }
}
