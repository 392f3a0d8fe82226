//! What the hypervisor did, as a stream of typed events: what a checker of the architecture's rules and
//! a reader of a trace have to know, and nothing that a guest keeps secret. An event holds addresses,
//! spaces, numbers of calls and descriptors; never the content of a page or a register of a guest's.
//!
//! The fake machine records the events of a test, the ring at EL2 those of a boot.

use shared_abi::addr::{PageRange, Pfn};
use shared_abi::host_call::VcpuIndex;

use crate::machine::lock::LockId;
use crate::machine::{Stage2Id, Vmid};

/// A barrier (Arm ARM DDI0487, B2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Barrier {
    /// DSB ISHST.
    DsbIshst = 0,
    /// DSB ISH.
    DsbIsh = 1,
    /// DSB NSH.
    DsbNsh = 2,
    /// ISB.
    Isb = 3,
}

/// What a TLB invalidation, or one of instruction caches, reaches (Arm ARM DDI0487, D8.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// TLBI IPAS2E1IS: stage-2 entries for an IPA page, on all CPUs.
    Ipa(u64),
    /// TLBI VMALLE1IS: entries that combine both stages, on all CPUs.
    Combined,
    /// TLBI VMALLS12E1IS: everything, on all CPUs.
    All,
    /// TLBI VMALLE1: entries that combine both stages, on this CPU.
    CombinedHere,
    /// IC IALLU: all instruction caches of this CPU.
    InstructionsHere,
}

/// One thing that a CPU did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// From now on these tables are a space's.
    Stage2Id(Stage2Id),
    /// An entry was written: of a translation table, an object's table, or a free page's link. What it
    /// was before is not told: it may be what a guest left in a page that came back.
    Write {
        /// The table's page.
        table: Pfn,
        /// Which entry; below 512.
        index: usize,
        /// What it is now.
        value: u64,
    },
    /// A barrier was executed.
    Barrier(Barrier),
    /// Translations were invalidated.
    Tlbi {
        /// The VMID in VTTBR_EL2 at that moment.
        vmid: Vmid,
        /// Which of its translations.
        scope: Scope,
    },
    /// Pages were zeroed, and cleaned to the point of coherency.
    Wipe(PageRange<Pfn>),
    /// Pages were cleaned to the point of coherency, and instruction caches invalidated.
    Clean(PageRange<Pfn>),
    /// A lock was taken.
    Taken(LockId),
    /// A lock is about to be given back.
    Released(LockId),
    /// A call of the host's begins: its function number.
    CallBegin(u32),
    /// It ends: x0.
    CallEnd(u64),
    /// A vCPU of that VM was loaded on this CPU.
    Load(Vmid, VcpuIndex),
    /// It was put.
    Put(Vmid, VcpuIndex),
    /// EL1 is about to run, with this in VTTBR_EL2.
    Enter(u64),
    /// This CPU's ring was full: so many events are missing before this one.
    Dropped(u64),
}

impl Event {
    /// The event in two words: what it is in the low byte of the first, and its numbers. The reader is
    /// `hyp_trace::decode`.
    pub const fn encode(self) -> [u64; 2] {
        match self {
            Self::Stage2Id(stage2_id) => [kind::SPACE | (stage2_id.vmid.0 as u64) << 8, stage2_id.root.0],
            Self::Write { table, index, value } => [kind::WRITE | (index as u64) << 8 | table.0 << 24, value],
            Self::Barrier(barrier) => [kind::BARRIER | (barrier as u8 as u64) << 8, 0],
            Self::Tlbi { vmid, scope } => {
                let (scope, page) = match scope {
                    Scope::Ipa(page) => (0, page),
                    Scope::Combined => (1, 0),
                    Scope::All => (2, 0),
                    Scope::CombinedHere => (3, 0),
                    Scope::InstructionsHere => (4, 0),
                };
                [kind::TLBI | (vmid.0 as u64) << 8 | scope << 16, page]
            }
            Self::Wipe(pages) => [kind::WIPE | pages.len() << 8, pages.first().0],
            Self::Clean(pages) => [kind::CLEAN | pages.len() << 8, pages.first().0],
            Self::Taken(lock) => [kind::TAKEN, lock.code()],
            Self::Released(lock) => [kind::RELEASED, lock.code()],
            Self::CallBegin(function) => [kind::CALL_BEGIN, function as u64],
            Self::CallEnd(status) => [kind::CALL_END, status],
            Self::Load(vmid, vcpu) => [kind::LOAD | (vmid.0 as u64) << 8, vcpu.0 as u64],
            Self::Put(vmid, vcpu) => [kind::PUT | (vmid.0 as u64) << 8, vcpu.0 as u64],
            Self::Enter(vttbr) => [kind::ENTER, vttbr],
            Self::Dropped(count) => [kind::DROPPED, count],
        }
    }
}

/// What the low byte of an event's first word says it is.
pub mod kind {
    /// What the line of an event starts with, on a console.
    pub const LINE: &str = "@event";
    /// The byte.
    pub const MASK: u64 = 0xff;
    /// [`Event::Stage2Id`](super::Event::Stage2Id).
    pub const SPACE: u64 = 1;
    /// [`Event::Write`](super::Event::Write).
    pub const WRITE: u64 = 2;
    /// [`Event::Barrier`](super::Event::Barrier).
    pub const BARRIER: u64 = 3;
    /// [`Event::Tlbi`](super::Event::Tlbi).
    pub const TLBI: u64 = 4;
    /// [`Event::Wipe`](super::Event::Wipe).
    pub const WIPE: u64 = 5;
    /// [`Event::Clean`](super::Event::Clean).
    pub const CLEAN: u64 = 6;
    /// [`Event::Taken`](super::Event::Taken).
    pub const TAKEN: u64 = 7;
    /// [`Event::Released`](super::Event::Released).
    pub const RELEASED: u64 = 8;
    /// [`Event::CallBegin`](super::Event::CallBegin).
    pub const CALL_BEGIN: u64 = 9;
    /// [`Event::CallEnd`](super::Event::CallEnd).
    pub const CALL_END: u64 = 10;
    /// [`Event::Load`](super::Event::Load).
    pub const LOAD: u64 = 11;
    /// [`Event::Put`](super::Event::Put).
    pub const PUT: u64 = 12;
    /// [`Event::Enter`](super::Event::Enter).
    pub const ENTER: u64 = 13;
    /// [`Event::Dropped`](super::Event::Dropped).
    pub const DROPPED: u64 = 14;
}
