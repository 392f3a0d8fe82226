//! The story of a boot: the points that must hold, and whether they do.

mod amount;
mod verdict;

use shared_abi::kvm;
use shared_abi::record::{Digest, GuestEnd, Uid};

use crate::facts::Facts;
use crate::machine::DiskMode;
use crate::run::Ended;
use crate::ui::{Style, paint};
use amount::short;
pub use amount::{bytes, count, uuid};
pub use verdict::{contradiction, failure, last_words};

/// The expectations for a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// CPUs of the machine.
    pub cpus: u32,
    /// vCPUs of the guest.
    pub vcpus: u32,
    /// Memory of the guest in bytes.
    pub memory_bytes: u64,
    /// Whether the VM is protected.
    pub protected: bool,
    /// The launch measurement; `None` for a payload from elsewhere.
    pub measurement: Option<Digest>,
    /// Whether the hypervisor has its oracle.
    pub oracle: bool,
    /// The demo's disk; `None` for a payload from elsewhere.
    pub demo: Option<ExpectedDisk>,
}

/// The demo's expected use of its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedDisk {
    /// Blocks to verify.
    pub blocks: u64,
    /// Bytes to write.
    pub write_bytes: u64,
    /// Whether it may write.
    pub mode: DiskMode,
    /// The digest that the disk must have in the end.
    pub expected: Digest,
    /// The digest of the file; `None` until the machine is off.
    pub file: Option<Digest>,
}

/// One point of the story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its topic.
    pub topic: &'static str,
    /// Whether the point holds.
    pub holds: bool,
    /// What happened.
    pub text: String,
}

impl Line {
    /// The line for people.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let (mark, style) = if self.holds { ("ok", Style::Good) } else { ("NO", Style::Bad) };
        format!(
            "  {}  {}  {}",
            paint(colour, style, mark),
            paint(colour, Style::Bold, &format!("{:<10}", self.topic)),
            self.text
        )
    }
}

/// The story, point by point.
#[must_use]
pub fn tell(facts: &Facts, ended: &Ended, expected: &Expected) -> Vec<Line> {
    let mut lines = vec![hypervisor(facts, expected), host(facts, expected), vm(facts, expected)];
    if let Some(disk) = &expected.demo {
        lines.push(guest(facts, expected));
        lines.push(disk_line(facts, disk));
        lines.push(cost(facts));
        if expected.protected {
            lines.push(attack(facts));
        }
    }
    lines.push(guest_end(facts));
    lines.push(teardown(facts, expected));
    if expected.oracle {
        lines.push(oracle(facts));
    }
    lines.push(power_off(facts, ended));
    lines
}

fn silent(topic: &'static str, who: &str) -> Line {
    Line { topic, holds: false, text: format!("{who} reported nothing: --verbose shows its console") }
}

fn hypervisor(facts: &Facts, expected: &Expected) -> Line {
    const TOPIC: &str = "hypervisor";
    let Some(hypervisor) = facts.hypervisor else {
        return silent(TOPIC, "the hypervisor");
    };
    Line {
        topic: TOPIC,
        holds: hypervisor.cpus == u64::from(expected.cpus),
        text: format!(
            "owns EL2 on {}: {} of memory ({} pages), {} of code",
            count(hypervisor.cpus, "CPU"),
            bytes(hypervisor.memory_bytes),
            hypervisor.pages,
            bytes(hypervisor.text_bytes)
        ),
    }
}

fn host(facts: &Facts, expected: &Expected) -> Line {
    const TOPIC: &str = "host";
    let Some(host) = facts.host else {
        return silent(TOPIC, "the host");
    };
    let under = facts.host_cpus.values().filter(|stage2| **stage2).count() as u64;
    let entered = facts.host_cpus.len() as u64;
    Line {
        topic: TOPIC,
        holds: host.el == 1
            && under == entered
            && entered == host.cpus
            && host.cpus == u64::from(expected.cpus),
        text: format!(
            "runs at EL{} under stage 2 on {under} of {}",
            host.el,
            count(entered.max(host.cpus), "CPU")
        ),
    }
}

fn vm(facts: &Facts, expected: &Expected) -> Line {
    const TOPIC: &str = "VM";
    let (Some(vm), Some(start)) = (facts.vm, facts.vm_start) else {
        return silent(TOPIC, "the host");
    };
    let measured = expected.measurement.is_some();
    let as_expected =
        expected.measurement.is_none_or(|measurement| start.measured && measurement == start.measurement);
    let measurement = match (measured, as_expected) {
        (true, true) => format!("the measurement matches the manifest ({})", short(&start.measurement)),
        (true, false) => {
            format!("the measurement {} does NOT match the manifest", short(&start.measurement))
        }
        (false, _) => format!("unmeasured payload ({})", short(&start.measurement)),
    };
    let (kind, given, reach) = if start.protected {
        ("protected", "donated", "; the host's CPUs can no longer reach these pages (DMA not confined yet)")
    } else {
        ("ordinary", "lent or donated", "; the host can still reach the pages that it lent")
    };
    Line {
        topic: TOPIC,
        holds: start.protected == expected.protected
            && start.vcpus == u64::from(expected.vcpus)
            && vm.object_bytes == expected.memory_bytes
            && as_expected,
        text: format!(
            "{kind}, {}: a memory object of {}, {} {given}, {measurement}{reach}",
            count(start.vcpus, "vCPU"),
            bytes(vm.object_bytes),
            count(vm.pages_donated, "page"),
        ),
    }
}

fn guest(facts: &Facts, expected: &Expected) -> Line {
    const TOPIC: &str = "guest";
    let Some(guest) = facts.guest else {
        return silent(TOPIC, "the guest");
    };
    let known = guest.uid == Uid(kvm::UID);
    let whose = if known { "KVM's" } else { "unknown" };
    Line {
        topic: TOPIC,
        // An ordinary VM has nothing to share: the host reaches its memory as it is.
        holds: known && guest.features != 0 && (guest.shares != 0 || !expected.protected),
        text: format!(
            "found the hypervisor by its UID {} ({whose}), FEATURES {:#x}; shared {}",
            uuid(guest.uid),
            guest.features,
            count(guest.shares, "page"),
        ),
    }
}

fn disk_line(facts: &Facts, expected: &ExpectedDisk) -> Line {
    const TOPIC: &str = "disk";
    let Some(disk) = facts.disk else {
        return silent(TOPIC, "the guest");
    };
    let guest_agrees = disk.sha256 == expected.expected;
    let file_agrees = expected.file == Some(expected.expected);
    let content = match (guest_agrees, file_agrees) {
        (true, true) => {
            format!("the file has the expected SHA-256 ({})", short(&expected.expected))
        }
        (false, _) => "the guest computed another SHA-256 than expected".to_owned(),
        (true, false) => "the file has another SHA-256 than expected".to_owned(),
    };
    let failed = match disk.blocks_failed {
        0 => String::new(),
        failed => format!(", {} WRONG", count(failed, "block")),
    };
    let wrote = match expected.mode {
        DiskMode::ReadWrite => format!(", wrote {} and read it back", bytes(disk.written_bytes)),
        DiskMode::ReadOnly => ", wrote nothing".to_owned(),
    };
    Line {
        topic: TOPIC,
        holds: disk.blocks_failed == 0
            && disk.blocks_verified >= expected.blocks
            && disk.written_bytes == expected.write_bytes
            && guest_agrees
            && file_agrees,
        text: format!(
            "read {}, verified {} by SHA-256{failed}{wrote}; {content}",
            bytes(disk.read_bytes),
            count(disk.blocks_verified, "block"),
        ),
    }
}

fn cost(facts: &Facts) -> Line {
    const TOPIC: &str = "cost";
    let (Some(disk), Some(end), Some(copied)) = (facts.disk, facts.vm_end, facts.copied_bytes()) else {
        return silent(TOPIC, "guest or host");
    };
    const MIB: f64 = 1_048_576.0;
    let moved = (disk.read_bytes + disk.written_bytes) as f64 / MIB;
    let throughput = match disk.time {
        Some(time) if !time.is_zero() => {
            format!("{:.1} MiB/s under emulation", moved / time.as_secs_f64())
        }
        _ => "no time measured".to_owned(),
    };
    Line {
        topic: TOPIC,
        holds: true,
        text: format!(
            "{throughput}; {}, {}, {} copied",
            count(end.hypercalls, "hypercall"),
            count(end.exits, "exit"),
            bytes(copied),
        ),
    }
}

fn attack(facts: &Facts) -> Line {
    const TOPIC: &str = "attack";
    let Some(attack) = facts.attack else {
        return silent(TOPIC, "the host");
    };
    let outcome = |faulted| {
        if faulted { "took a fault" } else { "WENT THROUGH" }
    };
    let intact = facts.guest_done.is_some_and(|done| done.content_intact);
    let continued = facts.guest_end.is_some();
    Line {
        topic: TOPIC,
        holds: attack.read_faulted && attack.write_faulted && intact && continued,
        text: format!(
            "the host read a private page of the guest: it {}; wrote it: it {}; {}, and the guest's content {}",
            outcome(attack.read_faulted),
            outcome(attack.write_faulted),
            if continued { "the host continued" } else { "the host did NOT continue" },
            if intact { "is intact" } else { "is NOT reported intact" },
        ),
    }
}

fn guest_end(facts: &Facts) -> Line {
    const TOPIC: &str = "guest";
    let Some(end) = facts.guest_end else {
        return silent(TOPIC, "the host");
    };
    Line {
        topic: TOPIC,
        holds: end.reason == GuestEnd::Off,
        text: match end.reason {
            GuestEnd::Off => "turned itself off",
            GuestEnd::Reset => "requested a reset, which ends its run",
            GuestEnd::Stopped => "was stopped",
        }
        .to_owned(),
    }
}

fn teardown(facts: &Facts, expected: &Expected) -> Line {
    const TOPIC: &str = "teardown";
    let (Some(teardown), Some(end)) = (facts.teardown, facts.guest_end) else {
        return silent(TOPIC, "the host");
    };
    let wiped = match teardown.pages_nonzero {
        0 => "all of them zeroes".to_owned(),
        dirty => format!("{} NOT WIPED", count(dirty, "page")),
    };
    Line {
        topic: TOPIC,
        holds: facts.vm_end.is_some()
            && teardown.pages_nonzero == 0
            && (!expected.protected || teardown.pages_returned == end.pages_donated),
        text: if expected.protected {
            format!(
                "VM destroyed: {} of {} donated came back, {wiped}",
                teardown.pages_returned,
                count(end.pages_donated, "page"),
            )
        } else {
            format!("VM destroyed: {} of its pool came back, {wiped}", count(teardown.pages_returned, "page"),)
        },
    }
}

fn oracle(facts: &Facts) -> Line {
    const TOPIC: &str = "oracle";
    let Some(checks) = facts.oracle_checks else {
        return silent(TOPIC, "the hypervisor's oracle");
    };
    Line {
        topic: TOPIC,
        holds: checks != 0,
        text: format!("compared all tables with the owner map {}", count(checks, "time")),
    }
}

fn power_off(facts: &Facts, ended: &Ended) -> Line {
    let clean = facts.power_off && *ended == Ended::PoweredOff;
    Line {
        topic: "power",
        holds: clean,
        text: if clean {
            "clean power-off".to_owned()
        } else {
            "the machine did NOT power off cleanly".to_owned()
        },
    }
}

#[cfg(test)]
mod tests;
