//! What really happened in the machine, each fact from the party that knows it.

use std::collections::BTreeMap;
use std::time::Duration;

use shared_abi::record::{Digest, GuestEnd as End, Record, Uid};

use crate::machine::Console;

/// Hypervisor: it owns EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HypervisorFacts {
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// The same in pages.
    pub pages: u64,
    /// CPUs of the machine.
    pub cpus: u64,
    /// Executable bytes.
    pub text_bytes: u64,
}

/// Hypervisor: a VM started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmStart {
    /// Private by default.
    pub protected: bool,
    /// Its measurement is the manifest's.
    pub measured: bool,
    /// The measurement.
    pub measurement: Digest,
    /// vCPUs.
    pub vcpus: u64,
}

/// Hypervisor: a VM is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmEnd {
    /// Pages that it gave back, wiped.
    pub pages_returned: u64,
    /// Hypercalls answered.
    pub hypercalls: u64,
    /// Exits to the host.
    pub exits: u64,
}

/// Host: it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its exception level.
    pub el: u64,
    /// CPUs that came up.
    pub cpus: u64,
}

/// Host: the VM is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmFacts {
    /// Size of its memory object in bytes.
    pub object_bytes: u64,
    /// Pages donated before it ran.
    pub pages_donated: u64,
}

/// Host: it tried to reach a private page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attack {
    /// The read took a fault.
    pub read_faulted: bool,
    /// The write took a fault.
    pub write_faulted: bool,
}

/// Host: the VM's run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestEnd {
    /// How it ended.
    pub reason: End,
    /// Pages donated over its life.
    pub pages_donated: u64,
    /// Bytes that the VMM copied.
    pub copied_bytes: u64,
}

/// Host: it looked at the pages that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Teardown {
    /// How many.
    pub pages_returned: u64,
    /// How many were not all zeroes.
    pub pages_nonzero: u64,
}

/// Guest: what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The vendor-hypervisor UID.
    pub uid: Uid,
    /// Word 0 of FEATURES.
    pub features: u64,
    /// Pages that it shared.
    pub shares: u64,
}

/// Guest: its disk job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Blocks whose digest was right.
    pub blocks_verified: u64,
    /// Blocks whose digest was not.
    pub blocks_failed: u64,
    /// The disk's digest as the guest left it.
    pub sha256: Digest,
    /// How long it took in the machine's time; `None` if its clock has no frequency.
    pub time: Option<Duration>,
}

/// Guest: all done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestDone {
    /// Its private memory is as it left it.
    pub content_intact: bool,
    /// Bytes copied between private and shared memory.
    pub copied_bytes: u64,
}

/// All that was reported. What nobody reported is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Hypervisor: it owns EL2.
    pub hypervisor: Option<HypervisorFacts>,
    /// Hypervisor: CPUs that entered the host, and whether under stage 2 each time.
    pub host_cpus: BTreeMap<u64, bool>,
    /// Hypervisor: the VM started.
    pub vm_start: Option<VmStart>,
    /// Hypervisor: the VM is gone.
    pub vm_end: Option<VmEnd>,
    /// Hypervisor: how often its oracle looked, if it has one.
    pub oracle_checks: Option<u64>,
    /// Hypervisor: the host asked for power off.
    pub power_off: bool,
    /// Hypervisor: it panicked.
    pub panic: Option<String>,
    /// Hypervisor or host: who refused to go on, and why.
    pub refused: Option<(Console, String)>,
    /// Host: it runs.
    pub host: Option<Host>,
    /// Host: the VM is made.
    pub vm: Option<VmFacts>,
    /// Host: it attacked.
    pub attack: Option<Attack>,
    /// Host: the VM's run is over.
    pub guest_end: Option<GuestEnd>,
    /// Host: what came back.
    pub teardown: Option<Teardown>,
    /// Guest: what it found.
    pub guest: Option<Guest>,
    /// Guest: its disk job.
    pub disk: Option<Disk>,
    /// Guest: all done.
    pub guest_done: Option<GuestDone>,
}

impl Facts {
    /// Takes in a line of a console. A record counts only from the party whose word it is: the host
    /// can't report for the hypervisor, nor a guest for the host.
    pub fn observe(&mut self, console: Console, line: &str) {
        let Some(record) = Record::parse(line) else {
            return;
        };
        match console {
            Console::Hypervisor => self.hypervisor_says(record),
            Console::Host => self.host_says(record),
            Console::Guest => self.guest_says(record),
        }
    }

    /// Whether the machine is about to power off.
    #[must_use]
    pub const fn ending(&self) -> bool {
        self.power_off || self.panic.is_some() || self.refused.is_some()
    }

    fn hypervisor_says(&mut self, record: Record<'_>) {
        match record {
            Record::Hypervisor { memory_bytes, pages, cpus, text_bytes, ram_bytes: _ } => {
                self.hypervisor = Some(HypervisorFacts { memory_bytes, pages, cpus, text_bytes });
            }
            Record::HostCpu { cpu, stage2 } => {
                let under = self.host_cpus.entry(cpu).or_insert(true);
                *under &= stage2;
            }
            Record::VmStart { protected, measured, measurement, vcpus, pages: _ } => {
                self.vm_start = Some(VmStart { protected, measured, measurement, vcpus });
            }
            Record::VmEnd { pages_returned, hypercalls, exits } => {
                self.vm_end = Some(VmEnd { pages_returned, hypercalls, exits });
            }
            Record::Oracle { checks } => self.oracle_checks = Some(checks),
            Record::PowerOff { .. } => self.power_off = true,
            Record::Panic { message } => {
                self.panic.get_or_insert_with(|| message.to_owned());
            }
            Record::Refused { message } => self.refuse(Console::Hypervisor, message),
            _ => {}
        }
    }

    fn host_says(&mut self, record: Record<'_>) {
        match record {
            Record::Host { el, cpus } => self.host = Some(Host { el, cpus }),
            Record::Vm { object_bytes, pages_donated, vcpus: _ } => {
                self.vm = Some(VmFacts { object_bytes, pages_donated });
            }
            Record::Attack { read_faulted, write_faulted } => {
                self.attack = Some(Attack { read_faulted, write_faulted });
            }
            Record::GuestEnd { reason, pages_donated, copied_bytes, .. } => {
                self.guest_end = Some(GuestEnd { reason, pages_donated, copied_bytes });
            }
            Record::Teardown { pages_returned, pages_nonzero } => {
                self.teardown = Some(Teardown { pages_returned, pages_nonzero });
            }
            Record::Refused { message } => self.refuse(Console::Host, message),
            _ => {}
        }
    }

    fn guest_says(&mut self, record: Record<'_>) {
        match record {
            Record::Guest { uid, features, shares } => {
                self.guest = Some(Guest { uid, features, shares });
            }
            Record::Disk {
                read_bytes,
                written_bytes,
                blocks_verified,
                blocks_failed,
                sha256,
                ticks,
                frequency_hz,
            } => {
                self.disk = Some(Disk {
                    read_bytes,
                    written_bytes,
                    blocks_verified,
                    blocks_failed,
                    sha256,
                    time: duration(ticks, frequency_hz),
                });
            }
            Record::GuestDone { content_intact, hypercalls: _, copied_bytes } => {
                self.guest_done = Some(GuestDone { content_intact, copied_bytes });
            }
            _ => {}
        }
    }

    fn refuse(&mut self, console: Console, message: &str) {
        self.refused.get_or_insert_with(|| (console, message.to_owned()));
    }

    /// Bytes copied by anyone to get data in or out of shared memory; `None` until the host has told.
    #[must_use]
    pub fn copied_bytes(&self) -> Option<u64> {
        let guest = self.guest_done.map_or(0, |done| done.copied_bytes);
        Some(self.guest_end?.copied_bytes.saturating_add(guest))
    }
}

/// A duration from ticks of a clock.
fn duration(ticks: u64, frequency_hz: u64) -> Option<Duration> {
    const NANOSECONDS: u128 = 1_000_000_000;
    let nanoseconds = (u128::from(ticks) * NANOSECONDS).checked_div(frequency_hz.into())?;
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_only_from_whose_word_it_is() {
        let mut facts = Facts::default();
        let power_off = Record::PowerOff { host_faults: 2 }.to_string();
        facts.observe(Console::Host, &power_off);
        facts.observe(Console::Guest, &power_off);
        let host = Record::Host { el: 1, cpus: 4 }.to_string();
        facts.observe(Console::Guest, &host);
        facts.observe(Console::Hypervisor, &host);
        facts.observe(Console::Guest, "@cloister panic not mine to say");
        facts.observe(Console::Host, "@cloister panic not mine to say");
        assert_eq!(facts, Facts::default());
        facts.observe(Console::Hypervisor, &power_off);
        facts.observe(Console::Host, &host);
        assert!(facts.power_off && facts.host.is_some());
    }

    #[test]
    fn a_cpu_that_was_once_without_stage_2_stays_so() {
        let mut facts = Facts::default();
        for (cpu, stage2) in [(0, true), (1, false), (1, true)] {
            facts.observe(Console::Hypervisor, &Record::HostCpu { cpu, stage2 }.to_string());
        }
        assert_eq!(facts.host_cpus, BTreeMap::from([(0, true), (1, false)]));
    }

    #[test]
    fn the_first_refusal_is_the_reason() {
        let mut facts = Facts::default();
        facts.observe(Console::Hypervisor, "@cloister refused one");
        facts.observe(Console::Host, "@cloister refused two");
        assert_eq!(facts.refused, Some((Console::Hypervisor, "one".into())));
        assert!(facts.ending());
    }
}
