//! Coverage of the transition table: each call's success, and each reason for which the specification refuses the
//! call.

use std::collections::BTreeMap;
use std::string::{String, ToString};

use hyp_verify::lockstep::Verdict;
use hyp_verify::lockstep::action::{Action, CALLS, GuestStep};
use hyp_verify::spec::guest::GuestRefusal as G;
use hyp_verify::spec::host::Refusal as R;

/// The reasons to refuse each host call.
const HOST_ROWS: &[(&str, &[R])] = &[
    ("version", &[]),
    ("vm-create", &[R::BadLength, R::BeyondMemory, R::OddRoot, R::Full, R::NotRam, R::NotHosts]),
    ("vm-top-up", &[R::BadLength, R::BeyondMemory, R::NoVm, R::Dying, R::NotRam, R::NotHosts]),
    ("object-create", &[R::BadLength, R::NoVm, R::Dying, R::Started, R::Full]),
    (
        "object-bind",
        &[R::BeyondIpaSpace, R::NoObject, R::Dying, R::OutsideObject, R::Started, R::AlreadyBound, R::Full],
    ),
    ("object-unbind", &[R::NoObject, R::Dying, R::OutsideObject, R::Started, R::NotBound, R::NotAbsent]),
    (
        "object-populate",
        &[
            R::BeyondMemory,
            R::NoObject,
            R::Dying,
            R::OutsideObject,
            R::Started,
            R::NotBound,
            R::NotAbsent,
            R::NotRam,
            R::NotHosts,
        ],
    ),
    ("object-reclaim", &[R::NoObject, R::Dying, R::OutsideObject]),
    ("object-query", &[R::NoObject, R::Dying, R::OutsideObject]),
    ("object-destroy", &[R::NoObject, R::Dying, R::StillPresent, R::Started]),
    ("vcpu-create", &[R::NoVm, R::Dying, R::Started, R::WrongIndex, R::Full]),
    ("vm-start", &[R::NoVm, R::Dying, R::Started, R::NothingToRun]),
    ("vm-destroy", &[R::NoVm, R::Loaded]),
    ("force-reclaim", &[R::NotRam, R::NotPrivate, R::Dying]),
    ("vm-counters", &[R::NoVm]),
    ("load", &[R::NoVm, R::NotRunning, R::Dying, R::NoVcpu, R::Loaded, R::Off]),
];

/// The reasons to refuse each guest call.
const GUEST_ROWS: &[(&str, &[G])] = &[
    (
        "guest share",
        &[G::Ordinary, G::Unaligned, G::BeyondIpaSpace, G::NotZero, G::Poisoned, G::Shared, G::Hole],
    ),
    (
        "guest unshare",
        &[G::Ordinary, G::Unaligned, G::BeyondIpaSpace, G::NotZero, G::Poisoned, G::NotShared, G::Hole],
    ),
    (
        "guest relinquish",
        &[G::Ordinary, G::Unaligned, G::BeyondIpaSpace, G::NotZero, G::Poisoned, G::Shared, G::Hole],
    ),
    ("guest cpu-on", &[G::NoSuchVcpu, G::AlreadyOn]),
    ("guest cpu-off", &[]),
    ("guest system-off", &[]),
    ("guest touch", &[]),
];

/// The number of times that each row was taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Coverage {
    rows: BTreeMap<(String, Verdict), u64>,
    pub(super) steps: u64,
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Host { call, .. } => CALLS.get(*call).map_or("?", |(name, _)| name),
        Action::Touch { .. } => "touch",
        Action::Load { .. } => "load",
        Action::Put { .. } => "put",
        Action::Guest { call, .. } => match call {
            GuestStep::Share(_) => "guest share",
            GuestStep::Unshare(_) => "guest unshare",
            GuestStep::Relinquish(_) => "guest relinquish",
            GuestStep::CpuOn(_) => "guest cpu-on",
            GuestStep::CpuOff => "guest cpu-off",
            GuestStep::SystemOff => "guest system-off",
            GuestStep::Touch(_) => "guest touch",
        },
    }
}

impl Coverage {
    pub(super) fn count(&mut self, action: &Action, verdict: Verdict) {
        *self.rows.entry((name(action).to_string(), verdict)).or_default() += 1;
        self.steps += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (row, count) in &other.rows {
            *self.rows.entry(row.clone()).or_default() += count;
        }
        self.steps += other.steps;
    }

    pub(super) fn taken(&self, name: &str, verdict: Verdict) -> u64 {
        self.rows.get(&(name.to_string(), verdict)).copied().unwrap_or(0)
    }

    /// Returns the rows that were never taken.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for (name, refusals) in HOST_ROWS {
            rows.push((*name, Verdict::Done));
            rows.extend(refusals.iter().map(|refusal| (*name, Verdict::Refused(*refusal))));
        }
        for (name, refusals) in GUEST_ROWS {
            let done = match *name {
                "guest cpu-off" | "guest system-off" => Verdict::Exit,
                _ => Verdict::Done,
            };
            rows.push((*name, done));
            rows.extend(refusals.iter().map(|refusal| (*name, Verdict::GuestRefused(*refusal))));
        }
        rows.extend([
            ("guest share", Verdict::Exit),
            ("guest touch", Verdict::Exit),
            ("touch", Verdict::Done),
            ("touch", Verdict::Abort),
            ("put", Verdict::Done),
            ("object-populate", Verdict::NoMemory),
            ("object-reclaim", Verdict::NoMemory),
            ("object-create", Verdict::NoMemory),
            ("vcpu-create", Verdict::NoMemory),
            ("force-reclaim", Verdict::NoMemory),
        ]);
        let missing = rows.iter().filter(|(name, verdict)| self.taken(name, *verdict) == 0);
        missing.map(|(name, verdict)| format!("{name}: {verdict:?}")).collect()
    }

    /// Returns refusals of the specification that have no row.
    pub(super) fn unknown(&self) -> Vec<String> {
        let known = |name: &str, verdict: Verdict| match verdict {
            Verdict::Refused(refusal) => {
                HOST_ROWS.iter().any(|(row, all)| *row == name && all.contains(&refusal))
            }
            Verdict::GuestRefused(refusal) => {
                GUEST_ROWS.iter().any(|(row, all)| *row == name && all.contains(&refusal))
            }
            _ => true,
        };
        let rows = self.rows.keys().filter(|(name, verdict)| !known(name, *verdict));
        rows.map(|(name, verdict)| format!("{name}: {verdict:?}")).collect()
    }

    pub(super) fn print(&self) {
        for ((name, verdict), count) in &self.rows {
            println!("{count:>9}  {name:<17} {verdict:?}");
        }
    }
}
