//! The rules, each with where it comes from.

use core::fmt;

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident = $name:literal, $source:literal;)*) => {
        /// A rule of the architecture's or of ours that a stream of events may break.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$rule,)*];

            /// Its name, as messages have it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$rule => $name,)*
                }
            }

            /// Where it comes from.
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
    /// A valid entry becomes another valid one only by way of an invalid one, and only after the old
    /// translation has left all TLBs.
    BreakBeforeMake = "break-before-make",
        "Arm ARM DDI0487, D8.17.1: TLB maintenance, break-before-make";
    /// An entry's write is visible to the walkers (DSB ISHST) before its translation is invalidated.
    VisibleFirst = "DSB ISHST before TLBI",
        "Arm ARM DDI0487, D8.17.5: ordering and completion of TLB maintenance";
    /// What was taken away is invalidated by its IPA before its lock is given back.
    Invalidated = "TLBI for what was taken away",
        "Arm ARM DDI0487, D8.17.1 and D8.17.4: TLBI IPAS2E1IS reaches one IPA";
    /// A whole table that was taken away takes the whole VMID with it: its entries may be cached one by
    /// one, and so may the table itself.
    WholeVmid = "TLBI VMALLS12E1IS for a table",
        "Arm ARM DDI0487, D8.17.4: scope of TLB maintenance; D8.16.2: caching of tables";
    /// A TLBI names the VMID of the space whose entry was changed: VTTBR_EL2 holds it.
    RightVmid = "the right VMID",
        "Arm ARM DDI0487, D8.17.4: TLBI by the current VMID";
    /// After TLBI IPAS2E1IS and DSB ISH, entries that combine both stages go too: TLBI VMALLE1IS.
    CombinedToo = "DSB ISH and TLBI VMALLE1IS after TLBI IPAS2E1IS",
        "Arm ARM DDI0487, D8.17.4: IPAS2E1 need not reach what combines both stages";
    /// TLB maintenance is complete (DSB ISH) before its lock is given back.
    Complete = "DSB ISH after TLBI",
        "Arm ARM DDI0487, D8.17.5: ordering and completion of TLB maintenance";
    /// This CPU has seen that it is (ISB).
    Synchronized = "ISB after DSB ISH",
        "Arm ARM DDI0487, D8.17.5: a context synchronization event after completion";
    /// New entries are published (DSB ISHST, ISB) before their lock is given back.
    Published = "DSB ISHST and ISB after making entries valid",
        "Arm ARM DDI0487, D8.2.6: visibility of descriptor writes to walkers";
    /// A page is wiped, cleaned, made a table or mapped for another only after nobody translates to it
    /// any more.
    GoneBeforeReuse = "no reuse before the invalidation is complete",
        "docs/architecture.md: a transition; Arm ARM DDI0487, D8.17.1";
    /// A page comes to a guest wiped or cleaned to the point of coherency, and back from one wiped.
    HandOver = "wiped or cleaned before hand-over",
        "docs/abi.md: wipes; Arm ARM DDI0487, D7.5.9: point of coherency";
    /// A table's page was wiped before its first entry is written, and nobody reaches it.
    TablePage = "a table's page is wiped and nobody's",
        "docs/architecture.md: memory; Arm ARM DDI0487, D8.3.1: what is not written is no descriptor";
    /// A VMID is used again only after TLBI VMALLS12E1IS, when nothing was left in its tables.
    VmidReuse = "TLBI VMALLS12E1IS before a VMID is used again",
        "Arm ARM DDI0487, D8.16.3: VMIDs tag TLB entries";
    /// Where another vCPU of the VM ran last on this CPU, its combined translations and instructions go
    /// first: TLBI VMALLE1, IC IALLU, DSB, ISB.
    PreviousVcpu = "the CPU forgets the previous vCPU",
        "Arm ARM DDI0487, D8.16.3: ASIDs are the guest's, and vCPUs may use one for two spaces";
    /// A descriptor has no bit that we do not use: no Contiguous, no software bits, an aligned address.
    Descriptor = "plain descriptors",
        "Arm ARM DDI0487, D8.3.1: descriptor formats; D8.7.1: the Contiguous bit";
    /// VTTBR_EL2 names the host's space, or that of the vCPU that is loaded here, without CnP.
    Vttbr = "VTTBR_EL2 is the owner's",
        "Arm ARM DDI0487, D24.2.207: VTTBR_EL2; D8.16.4: Common not Private";
    /// Locks are taken in their order, and by one CPU at a time.
    LockOrder = "the lock order",
        "docs/locking.md";
    /// No lock is held when EL1 runs or a call ends.
    LockHeld = "no lock across a world switch",
        "docs/locking.md";
    /// A space's tables change under its lock.
    UnderLock = "tables change under their lock",
        "docs/locking.md";
    /// A vCPU is loaded on one CPU at a time.
    OneCpu = "a vCPU is on one CPU",
        "docs/abi.md: VcpuRun";
    /// Nothing is missing from the stream, and it makes sense.
    Stream = "the stream is whole",
        "hypervisor/core/src/machine/event.rs";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.source())
    }
}
