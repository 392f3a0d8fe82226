//! Seeded bugs: known faults that a test run switches on one at a time, to show that a test fails.
//!
//! A test proves little unless a fault makes it fail. Each `Bug` here has occurred in a similar hypervisor: a
//! missing check, wipe, TLB invalidation or barrier, or a count that is off by one.
//!
//! `hyp_verify::seeded::SeededMachine`, a wrapper around the machine, injects the bugs in maintenance, wipes
//! and table entries. A `seeded!` on a separate line injects each bug in a decision. `cargo seeded` switches
//! on each bug in turn and prints the tests that fail (`hypervisor/verify/tests/seeded.rs` lists them).
//!
//! Without the feature `seeded-bugs`, `seeded!` expands to the right value or to nothing. A test shows that
//! the shipped image contains neither a bug nor the wrapper.

/// `seeded!(right, Bug => wrong)` is `wrong` if the bug is on, else `right`.
/// `seeded!(Bug => wrong)` runs `wrong` if the bug is on.
#[cfg(feature = "seeded-bugs")]
macro_rules! seeded {
    ($right:expr, $bug:ident => $wrong:expr) => {
        if $crate::seeded::is_on($crate::seeded::Bug::$bug) { $wrong } else { $right }
    };
    ($bug:ident => $wrong:expr) => {
        if $crate::seeded::is_on($crate::seeded::Bug::$bug) {
            $wrong
        }
    };
}

/// `seeded!(right, Bug => wrong)` is `right`; `seeded!(Bug => wrong)` is nothing.
#[cfg(not(feature = "seeded-bugs"))]
macro_rules! seeded {
    ($right:expr, $bug:ident => $wrong:expr) => {
        $right
    };
    ($bug:ident => $wrong:expr) => {};
}

#[cfg(feature = "seeded-bugs")]
pub use on::*;

#[cfg(feature = "seeded-bugs")]
mod on {
    use core::sync::atomic::{AtomicUsize, Ordering};

    /// Makes the enum and its table. The number is the bug's class (`docs/verification.md`).
    macro_rules! bugs {
        ($($(#[doc = $text:literal])+ $name:ident: $class:literal,)+) => {
            /// A bug that can be switched on.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
            pub enum Bug {
                $($(#[doc = $text])+ $name,)+
            }

            impl Bug {
                /// All bugs.
                pub const ALL: &[Self] = &[$(Self::$name,)+];

                /// The bug's name, as [`choose`] takes it.
                pub const fn name(self) -> &'static str {
                    match self {
                        $(Self::$name => stringify!($name),)+
                    }
                }

                /// The bug's class, 1 to 19.
                pub const fn class(self) -> u8 {
                    match self {
                        $(Self::$name => $class,)+
                    }
                }

                /// The bug's effect.
                pub const fn text(self) -> &'static str {
                    match self {
                        $(Self::$name => concat!($($text),+),)+
                    }
                }
            }
        };
    }

    bugs! {
        /// A pool may start at an odd page, so its root tables are misaligned.
        OddRoot: 1,
        /// A vCPU that is off stays owned by the CPU that failed to load it.
        OwnershipLeaked: 2,
        /// A vCPU's initial registers are not written to its context page.
        StartForgotten: 2,
        /// Forced reclaim does not read the page state again under the VM's lock.
        StaleOwner: 3,
        /// A measured page may be replaced before the start.
        MeasuredSwapped: 3,
        /// The measurement hashes the first page in the place of each page.
        FirstPageMeasured: 3,
        /// An empty range is accepted.
        EmptyRange: 4,
        /// A donation checks only its first page, and accepts one that is lent or shared.
        LentTwice: 5,
        /// An object page may be bound twice.
        BoundTwice: 5,
        /// The MMIO guard accepts a page of the guest's memory.
        GuardOverMemory: 5,
        /// A guest may relinquish a shared page.
        RelinquishShared: 5,
        /// The first leaf of a gather is not invalidated.
        LeafForgotten: 6,
        /// Every invalidation uses the host's VMID.
        WrongVmid: 6,
        /// An invalidation of all host translations does nothing.
        RangeCutShort: 6,
        /// Entries that combine both stages stay in the TLBs.
        CombinedKept: 6,
        /// Entries that combine both stages stay in the TLBs of other CPUs.
        OtherCpusForgotten: 6,
        /// A VMID is reused without TLB invalidation.
        VmidReused: 6,
        /// A vCPU uses the stage-1 translations of the VM's previous vCPU on the CPU.
        PreviousVcpu: 6,
        /// A vCPU uses the cached instructions of the VM's previous vCPU on the CPU.
        InstructionsKept: 6,
        /// The TLB invalidation does not wait for the descriptor's write.
        TlbiTooEarly: 7,
        /// The CPU does not wait for the TLB invalidation.
        TlbiUnfinished: 7,
        /// The CPU continues without an ISB after a TLB invalidation.
        IsbForgotten: 7,
        /// A new translation is not published to the table walkers.
        Unpublished: 7,
        /// The host keeps its mapping of donated pages.
        HostKeepsMapping: 8,
        /// A stale object handle resolves to the slot's next object.
        StaleObject: 8,
        /// A dying VM accepts pages.
        DyingVm: 8,
        /// Teardown proceeds while a vCPU runs.
        TornWhileLoaded: 8,
        /// A block stays in the TLBs when it is removed or replaced by a table.
        NoBreak: 9,
        /// A block with one deviating page counts as uniform.
        BlockTooEarly: 9,
        /// A wipe covers only the first page of a run.
        FirstPageWiped: 9,
        /// No page is wiped, neither at donation nor at return.
        WipeForgotten: 10,
        /// Kept content is not cleaned from the caches.
        KeptUncleaned: 10,
        /// Only the first page of kept content is cleaned.
        FirstPageCleaned: 10,
        /// A page lent to an ordinary VM is wiped at return.
        LentWiped: 10,
        /// A guest reads zeroes where the host reclaimed a page.
        PoisonForgotten: 10,
        /// A binding may end one page beyond the IPA space.
        BoundBeyond: 11,
        /// An MMIO access may extend into the next page.
        AcrossPages: 11,
        /// A share returns one page more than it converted.
        OneTooMany: 11,
        /// An MMIO write exposes the whole register to the host.
        WholeRegister: 12,
        /// The value of an MMIO read is not truncated to the access size.
        AnswerUnmasked: 12,
        /// The host may finish an MMIO access twice.
        AnsweredTwice: 12,
        /// The upper half of x0 is ignored in a host call.
        HighBits: 13,
        /// An ID register shows SVE.
        HiddenFeature: 13,
        /// The host's lock is taken before a VM's.
        LockOrder: 14,
        /// Two CPU_ON calls for one vCPU both succeed.
        CpuOnAgain: 14,
        /// Two host CPU_ON calls for one CPU both succeed.
        ReservedTwice: 14,
        /// A CPU resumes a cached vCPU after its VM was stopped or its MMIO guard changed.
        RevokeForgotten: 14,
        /// An unshare does not lower the count of shared pages, and a share raises it twice.
        SharedUncounted: 15,
        /// Teardown stops at its bound and leaks the remaining pages.
        LeftBehind: 15,
        /// A change starts although the pool has too few tables.
        TablesUncounted: 15,
        /// The host's tables may lie in memory that is not reserved.
        TablesUnreserved: 16,
        /// Denied devices are mapped for the host.
        DeniedDevice: 16,
        /// An unexpected trap stops the VM.
        TrapIsFatal: 17,
        /// The host retries a refused access endlessly.
        RetriedForEver: 17,
        /// A CPU that the device tree lists twice counts twice.
        FirmwareTrusted: 19,
    }

    /// [`FIRST`] plus the number of the bug that is on, [`NONE`], or [`NOT_ASKED`] before the first query.
    static CHOSEN: AtomicUsize = AtomicUsize::new(NOT_ASKED);
    const NOT_ASKED: usize = 0;
    const NONE: usize = 1;
    const FIRST: usize = 2;

    /// Switches a bug on and all others off. Returns whether there is a bug of that name.
    pub fn choose(name: &str) -> bool {
        let found = (FIRST..).zip(Bug::ALL).find(|(_, bug)| bug.name() == name);
        CHOSEN.store(found.map_or(NONE, |(place, _)| place), Ordering::Relaxed);
        found.is_some()
    }

    /// Returns whether the bug is on.
    pub fn is_on(bug: Bug) -> bool {
        let chosen = match CHOSEN.load(Ordering::Relaxed) {
            NOT_ASKED => ask(),
            chosen => chosen,
        };
        chosen == FIRST.wrapping_add(bug as usize)
    }

    /// Reads the bug's name from the environment of a test process.
    #[cfg(not(target_os = "none"))]
    fn ask() -> usize {
        let name = std::env::var("CLOISTER_SEEDED").unwrap_or_default();
        assert!(choose(&name) || name.is_empty(), "there is no bug {name}");
        CHOSEN.load(Ordering::Relaxed)
    }

    #[cfg(target_os = "none")]
    const fn ask() -> usize {
        NONE
    }
}
