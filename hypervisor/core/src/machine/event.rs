//! Typed events that record what the hypervisor does. A checker of the architecture's rules and a trace
//! reader use them.
//!
//! An event holds addresses, stage-2 ids, call numbers and descriptors. It never holds the content of a page
//! or a guest register, so a trace reveals no guest secret. The fake machine records the events of a test.
//! The rings at EL2 record the events of a booted machine.

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

/// The scope of a TLB or instruction cache invalidation (Arm ARM DDI0487, D8.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// TLBI IPAS2E1IS: stage-2 entries for an IPA page, on all CPUs.
    Ipa(u64),
    /// TLBI VMALLE1IS: entries that combine both stages, on all CPUs.
    Combined,
    /// TLBI VMALLS12E1IS: all stage-1 and stage-2 entries of the current VMID, on all CPUs.
    All,
    /// TLBI VMALLE1: entries that combine both stages, on this CPU.
    CombinedHere,
    /// IC IALLU: all instruction caches of this CPU.
    InstructionsHere,
}

/// A single action of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A stage-2 address space with these root tables exists from now on.
    Stage2Id(Stage2Id),
    /// A table entry was written: of a translation table, of an object's table, or the link in a free page.
    /// The event omits the old value, because it may be guest content in a page that was returned.
    Write {
        /// The page that holds the table.
        table: Pfn,
        /// The index of the entry; below 512.
        index: usize,
        /// The new value.
        value: u64,
    },
    /// A barrier was executed.
    Barrier(Barrier),
    /// Translations were invalidated.
    Tlbi {
        /// The VMID in VTTBR_EL2 at that moment.
        vmid: Vmid,
        /// The translations that were invalidated.
        scope: Scope,
    },
    /// Pages were zeroed, and cleaned to the point of coherency.
    Wipe(PageRange<Pfn>),
    /// Pages were cleaned to the point of coherency, and instruction caches invalidated.
    Clean(PageRange<Pfn>),
    /// A lock was taken.
    Taken(LockId),
    /// A lock is about to be released.
    Released(LockId),
    /// A host call begins; the value is its function number.
    CallBegin(u32),
    /// The host call ends; the value is x0.
    CallEnd(u64),
    /// A vCPU of the VM with this VMID was loaded on this CPU.
    Load(Vmid, VcpuIndex),
    /// The vCPU was put.
    Put(Vmid, VcpuIndex),
    /// EL1 is about to run, with this value in VTTBR_EL2.
    Enter(u64),
    /// This CPU's ring was full: this many events are missing before this one.
    Dropped(u64),
}

impl Event {
    /// Encodes the event in two words. The low byte of the first word is its [`kind`]; the other bits hold
    /// its numbers. `hyp_trace::decode` reads them.
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

/// Event kinds, in the low byte of an event's first word.
pub mod kind {
    /// The prefix of an event's line on a console.
    pub const LINE: &str = "@event";
    /// Mask of the kind in the first word.
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
