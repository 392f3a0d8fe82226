//! Decodes the hypervisor's trace: from console lines to events, and from the lines of all CPUs to one stream in
//! order. The tool that boots the hypervisor and the protocol checker of `hyp-verify` use it.

#![forbid(unsafe_code)]

use std::fmt;

use hyp_core::limits::MAX_VMS;
use hyp_core::machine::event::{Barrier, Event, Scope, kind};
use hyp_core::machine::lock::LockId;
use hyp_core::machine::{Stage2Id, Vmid};
use shared_abi::addr::{Pa, PageRange, Pfn};
use shared_abi::host_call::VcpuIndex;

/// The first word of an event's line.
pub const LINE: &str = kind::LINE;

/// An event with its CPU and its place in the order of all CPUs' events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Its number, from 0.
    pub number: u64,
    /// The CPU.
    pub cpu: usize,
    /// The event.
    pub event: Event,
}

/// Why a trace is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// A CPU's ring was full, so that events are lost.
    #[error("CPU {cpu} dropped {count} events")]
    Dropped {
        /// The CPU.
        cpu: usize,
        /// The number of lost events.
        count: u64,
    },
    /// The event with this number is missing or occurs twice.
    #[error("event {0} is missing or occurs twice")]
    Missing(u64),
}

/// Returns the event that [`Event::encode`] encoded as these words, or `None` if they encode no event.
#[must_use]
pub fn decode(words: [u64; 2]) -> Option<Event> {
    event_of(words).filter(|event| event.encode() == words)
}

fn event_of([first, second]: [u64; 2]) -> Option<Event> {
    let byte = |at: usize| first.to_le_bytes().get(at).copied().unwrap_or(0);
    let vmid = Vmid(byte(1));
    let range = || PageRange::<Pfn>::new(Pfn(second), first >> 8);
    let lock = || match usize::try_from(second).ok()? {
        index if index < MAX_VMS => Some(LockId::slot(index)),
        MAX_VMS => Some(LockId::HOST),
        _ => None,
    };
    let vcpu = || u32::try_from(second).ok().map(VcpuIndex);
    Some(match first & kind::MASK {
        kind::SPACE => Event::Stage2Id(Stage2Id { root: Pa(second), vmid }),
        kind::WRITE => Event::Write {
            table: Pfn(first >> 24),
            index: usize::from(u16::from_le_bytes([byte(1), byte(2)])),
            value: second,
        },
        kind::BARRIER => Event::Barrier(match byte(1) {
            0 => Barrier::DsbIshst,
            1 => Barrier::DsbIsh,
            2 => Barrier::DsbNsh,
            3 => Barrier::Isb,
            _ => return None,
        }),
        kind::TLBI => Event::Tlbi {
            vmid,
            scope: match byte(2) {
                0 => Scope::Ipa(second),
                1 => Scope::Combined,
                2 => Scope::All,
                3 => Scope::CombinedHere,
                4 => Scope::InstructionsHere,
                _ => return None,
            },
        },
        kind::WIPE => Event::Wipe(range()?),
        kind::CLEAN => Event::Clean(range()?),
        kind::TAKEN => Event::Taken(lock()?),
        kind::RELEASED => Event::Released(lock()?),
        kind::CALL_BEGIN => Event::CallBegin(u32::try_from(second).ok()?),
        kind::CALL_END => Event::CallEnd(second),
        kind::LOAD => Event::Load(vmid, vcpu()?),
        kind::PUT => Event::Put(vmid, vcpu()?),
        kind::ENTER => Event::Enter(second),
        kind::DROPPED => Event::Dropped(second),
        _ => return None,
    })
}

impl Traced {
    /// Parses the line that a CPU prints for an event. Returns `None` for any other line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(kind::LINE)?.split_ascii_whitespace();
        let mut next = || u64::from_str_radix(words.next()?, 16).ok();
        Some(Self {
            cpu: usize::try_from(next()?).ok()?,
            number: next()?,
            event: decode([next()?, next()?])?,
        })
    }

    /// Returns the line that [`Self::parse`] parses.
    #[must_use]
    pub fn line(&self) -> String {
        let [first, second] = self.event.encode();
        format!("{} {:x} {:x} {first:x} {second:x}", kind::LINE, self.cpu, self.number)
    }
}

/// Returns the events of all CPUs in one order, each with its CPU.
///
/// # Errors
///
/// [`Incomplete`] if an event is missing.
pub fn in_order(mut trace: Vec<Traced>) -> Result<Vec<(usize, Event)>, Incomplete> {
    trace.sort_by_key(|traced| traced.number);
    for (traced, number) in trace.iter().zip(0..) {
        if traced.number != number {
            return Err(Incomplete::Missing(number));
        }
        if let Event::Dropped(count) = traced.event {
            let cpu = traced.cpu;
            return Err(Incomplete::Dropped { cpu, count });
        }
    }
    Ok(trace.iter().map(|found| (found.cpu, found.event)).collect())
}

/// An event in words: the action and its operands.
#[derive(Clone, Copy, Debug)]
pub struct InWords(pub Event);

impl fmt::Display for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = |f: &mut fmt::Formatter<'_>, name, pages: &PageRange<Pfn>| {
            write!(f, "{name} {:#x}, {} pages", pages.first().base().0, pages.len())
        };
        match &self.0 {
            Event::Stage2Id(stage2_id) => {
                write!(f, "space vmid {} root {:#x}", stage2_id.vmid.0, stage2_id.root.0)
            }
            Event::Write { table, index, value } => {
                write!(f, "write {:#x}[{index}] = {value:#x}", table.base().0)
            }
            Event::Barrier(barrier) => f.write_str(match barrier {
                Barrier::DsbIshst => "dsb ishst",
                Barrier::DsbIsh => "dsb ish",
                Barrier::DsbNsh => "dsb nsh",
                Barrier::Isb => "isb",
            }),
            Event::Tlbi { vmid, scope } => match scope {
                Scope::Ipa(page) => write!(f, "tlbi ipas2e1is {page:#x}000 vmid {}", vmid.0),
                Scope::Combined => write!(f, "tlbi vmalle1is vmid {}", vmid.0),
                Scope::All => write!(f, "tlbi vmalls12e1is vmid {}", vmid.0),
                Scope::CombinedHere => write!(f, "tlbi vmalle1 vmid {}", vmid.0),
                Scope::InstructionsHere => write!(f, "ic iallu"),
            },
            Event::Wipe(range) => pages(f, "wipe", range),
            Event::Clean(range) => pages(f, "clean", range),
            Event::Taken(lock) => write!(f, "take {lock:?}"),
            Event::Released(lock) => write!(f, "release {lock:?}"),
            Event::CallBegin(function) => write!(f, "call {function:#x}"),
            Event::CallEnd(status) => write!(f, "call ends: {status:#x}"),
            Event::Load(vmid, vcpu) => write!(f, "load vmid {} vcpu {}", vmid.0, vcpu.0),
            Event::Put(vmid, vcpu) => write!(f, "put vmid {} vcpu {}", vmid.0, vcpu.0),
            Event::Enter(vttbr) => write!(f, "enter vttbr {vttbr:#x}"),
            Event::Dropped(count) => write!(f, "dropped {count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One event of each kind, with the extreme values of its numbers.
    fn all() -> Vec<Event> {
        let range = |first, pages| PageRange::<Pfn>::new(Pfn(first), pages).unwrap();
        let vmid = Vmid(16);
        let mut events = vec![
            Event::Stage2Id(Stage2Id { root: Pa(0x7fff_e000), vmid }),
            Event::Write { table: Pfn((1 << 36) - 1), index: 511, value: u64::MAX },
            Event::Wipe(range((1 << 36) - 1, 1)),
            Event::Clean(range(0, 1 << 28)),
            Event::CallBegin(0xc600_8012),
            Event::CallEnd(u64::MAX),
            Event::Load(vmid, VcpuIndex(15)),
            Event::Put(vmid, VcpuIndex(0)),
            Event::Enter(0x0010_0000_4000_0000),
            Event::Dropped(1),
        ];
        for lock in [LockId::slot(0), LockId::slot(15), LockId::HOST] {
            events.extend([Event::Taken(lock), Event::Released(lock)]);
        }
        for barrier in [Barrier::DsbIshst, Barrier::DsbIsh, Barrier::DsbNsh, Barrier::Isb] {
            events.push(Event::Barrier(barrier));
        }
        for scope in [
            Scope::Ipa((1 << 28) - 1),
            Scope::Combined,
            Scope::All,
            Scope::CombinedHere,
            Scope::InstructionsHere,
        ] {
            events.push(Event::Tlbi { vmid, scope });
        }
        events
    }

    #[test]
    fn what_was_written_is_read() {
        for (event, number) in all().into_iter().zip(0..) {
            let traced = Traced { number, cpu: 3, event };
            assert_eq!(Traced::parse(&traced.line()), Some(traced));
        }
    }

    #[test]
    fn what_is_no_event_is_none() {
        for line in [
            "",
            "@event",
            "@event 0 0 0",
            "@event 0 0 0 0",
            "@event 0 0 ff 0",
            "@event x 0 1 0",
            "@event 0 0 3 ff",
            "@event 0 0 50004 0",
            "@event 0 0 7 11",
            "@cloister event",
        ] {
            assert_eq!(Traced::parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_trace_with_a_hole_is_none() {
        let at = |number, event| Traced { number, cpu: 0, event };
        let isb = Event::Barrier(Barrier::Isb);
        assert_eq!(in_order(vec![at(1, isb), at(0, isb)]), Ok(vec![(0, isb); 2]));
        assert_eq!(in_order(vec![at(0, isb), at(2, isb)]), Err(Incomplete::Missing(1)));
        assert_eq!(in_order(vec![at(0, isb), at(0, isb)]), Err(Incomplete::Missing(1)));
        assert_eq!(in_order(vec![at(0, Event::Dropped(7))]), Err(Incomplete::Dropped { cpu: 0, count: 7 }));
    }
}
