//! Bugs that can be switched on, one at a time, to see that the tests notice.
//!
//! A test that passes shows little unless something makes it fail. Each `Bug` is one that a hypervisor
//! of this kind had: a check, a wipe, a TLB invalidation, a barrier left out, a count off by one.
//!
//! `hyp_verify::seeded::SeededMachine` carries the bugs of maintenance, wipes and entries: it is between the
//! core and its machine. Each bug of a decision has a place in the code, a `seeded!` on a line of its own.
//! `cargo seeded` switches on one bug after the other and prints which tests fail with it
//! (`hypervisor/verify/tests/seeded.rs` has the list).
//!
//! Without the feature `seeded-bugs` a place is the right value, or nothing. The shipped image has neither
//! place nor wrapper, which a test holds.

/// `seeded!(right, Bug => wrong)`: the right value, or with that bug on the wrong one.
/// `seeded!(Bug => wrong)`: with that bug on, does something wrong.
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

/// `seeded!(right, Bug => wrong)`: the right value. `seeded!(Bug => wrong)`: nothing.
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

    /// Makes the enum and its table. The number is the class: `docs/verification.md` lists them.
    macro_rules! bugs {
        ($($(#[doc = $text:literal])+ $name:ident: $class:literal,)+) => {
            /// A bug that can be switched on.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
            pub enum Bug {
                $($(#[doc = $text])+ $name,)+
            }

            impl Bug {
                /// All of them.
                pub const ALL: &[Self] = &[$(Self::$name,)+];

                /// Its name, by which it is chosen.
                pub const fn name(self) -> &'static str {
                    match self {
                        $(Self::$name => stringify!($name),)+
                    }
                }

                /// The class of bugs that it belongs to, 1 to 19.
                pub const fn class(self) -> u8 {
                    match self {
                        $(Self::$name => $class,)+
                    }
                }

                /// What goes wrong.
                pub const fn text(self) -> &'static str {
                    match self {
                        $(Self::$name => concat!($($text),+),)+
                    }
                }
            }
        };
    }

    bugs! {
        /// A pool may begin at an odd page: its root tables are misaligned.
        OddRoot: 1,
        /// A vCPU that is off stays taken by the CPU that failed to load it.
        OwnershipLeaked: 2,
        /// A vCPU's first registers are not put where it is to find them.
        StartForgotten: 2,
        /// Taking a page by force does not look at the record again once it has the VM's lock.
        StaleOwner: 3,
        /// A page that was measured may be replaced before the start.
        MeasuredSwapped: 3,
        /// Of pages that are measured, the first is measured in the place of each.
        FirstPageMeasured: 3,
        /// A range of no pages passes for one.
        EmptyRange: 4,
        /// Of a donation's pages only the first is looked at, and it may be lent or shared already.
        LentTwice: 5,
        /// A page of an object may be bound at two places.
        BoundTwice: 5,
        /// A guest may name its own memory a device.
        GuardOverMemory: 5,
        /// A guest may give a page back that it shares.
        RelinquishShared: 5,
        /// The first leaf of a gather is not invalidated.
        LeafForgotten: 6,
        /// Translations are invalidated by the host's VMID, whoever has them.
        WrongVmid: 6,
        /// Of the host's translations nothing is invalidated if that is all of them.
        RangeCutShort: 6,
        /// What combines both stages stays in the TLBs.
        CombinedKept: 6,
        /// What combines both stages stays in the TLBs of the other CPUs.
        OtherCpusForgotten: 6,
        /// A VMID is used again without having left the TLBs.
        VmidReused: 6,
        /// Another vCPU of the VM finds the translations of the last.
        PreviousVcpu: 6,
        /// Another vCPU of the VM finds the instructions that the last has cached.
        InstructionsKept: 6,
        /// The TLB invalidation does not wait for the descriptor's write.
        TlbiTooEarly: 7,
        /// The TLB invalidation is not waited for.
        TlbiUnfinished: 7,
        /// A CPU goes on before it has seen its own TLB invalidation.
        IsbForgotten: 7,
        /// A new translation is not made visible to the walkers.
        Unpublished: 7,
        /// The host keeps its mapping of what it gave away.
        HostKeepsMapping: 8,
        /// A handle of an object that is gone names the next in its place.
        StaleObject: 8,
        /// Pages go to a VM that is being torn down.
        DyingVm: 8,
        /// A VM is torn down while a CPU runs it.
        TornWhileLoaded: 8,
        /// A block stays in the TLBs, also if a table takes its place.
        NoBreak: 9,
        /// A block with one page of somebody else's in it counts as uniform.
        BlockTooEarly: 9,
        /// Of a run that is wiped only the first page is.
        FirstPageWiped: 9,
        /// Nothing is wiped: neither what the host gives nor what it takes back.
        WipeForgotten: 10,
        /// Content that is kept is not cleaned out of the caches.
        KeptUncleaned: 10,
        /// Of content that is kept only the first page is cleaned.
        FirstPageCleaned: 10,
        /// What an ordinary VM was lent is wiped.
        LentWiped: 10,
        /// A guest may meet zeroes where the host took a page by force.
        PoisonForgotten: 10,
        /// A binding may end one page beyond the guest's address space.
        BoundBeyond: 11,
        /// An MMIO access may reach into the next page.
        AcrossPages: 11,
        /// A share returns one page more than it did.
        OneTooMany: 11,
        /// An MMIO write shows the host all of the register.
        WholeRegister: 12,
        /// The host's answer to an MMIO read is not cut to its size.
        AnswerUnmasked: 12,
        /// The host may answer one MMIO access twice.
        AnsweredTwice: 12,
        /// The upper half of a function number of the host's is ignored.
        HighBits: 13,
        /// SVE shows in an ID register.
        HiddenFeature: 13,
        /// The host's lock is taken before a VM's.
        LockOrder: 14,
        /// Two guests' CPU_ON of one vCPU both succeed.
        CpuOnAgain: 14,
        /// Two CPU_ON of the host's for one CPU both succeed.
        ReservedTwice: 14,
        /// A CPU goes on with what it knows of a vCPU, though its VM was stopped, or its MMIO guard changed.
        RevokeForgotten: 14,
        /// Pages that are no longer shared are still counted, and others twice.
        SharedUncounted: 15,
        /// A teardown that has reached its bound forgets the rest.
        LeftBehind: 15,
        /// A change that the pool has no tables for begins.
        TablesUncounted: 15,
        /// The host's tables may lie in memory that is not reserved.
        TablesUnreserved: 16,
        /// Devices that are denied to the host are mapped like others.
        DeniedDevice: 16,
        /// An instruction that nobody foresaw ends the VM.
        TrapIsFatal: 17,
        /// An access that the host may not make is tried again for ever.
        RetriedForEver: 17,
        /// A CPU that the firmware names twice counts twice.
        FirmwareTrusted: 19,
    }

    /// The bug that is on, counted from [`FIRST`]; [`NONE`]; or nobody has asked yet.
    static CHOSEN: AtomicUsize = AtomicUsize::new(NOT_ASKED);
    const NOT_ASKED: usize = 0;
    const NONE: usize = 1;
    const FIRST: usize = 2;

    /// Switches a bug on, and all others off. Answers whether there is one of that name.
    pub fn choose(name: &str) -> bool {
        let found = (FIRST..).zip(Bug::ALL).find(|(_, bug)| bug.name() == name);
        CHOSEN.store(found.map_or(NONE, |(place, _)| place), Ordering::Relaxed);
        found.is_some()
    }

    /// Whether that bug is on.
    pub fn is_on(bug: Bug) -> bool {
        let chosen = match CHOSEN.load(Ordering::Relaxed) {
            NOT_ASKED => ask(),
            chosen => chosen,
        };
        chosen == FIRST.wrapping_add(bug as usize)
    }

    /// A test's process is told by its environment.
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
