//! The story from records as the parties write them.

use shared_abi::record::Record;

use super::*;
use crate::facts::Facts;
use crate::failure::Kind;
use crate::machine::Console;

const DIGEST: Digest = Digest([0x5a; 32]);
const MEASUREMENT: Digest = Digest([0xc3; 32]);

fn expected() -> Expected {
    Expected {
        cpus: 2,
        vcpus: 1,
        memory_bytes: 128 << 20,
        protected: true,
        measurement: Some(MEASUREMENT),
        oracle: false,
        demo: Some(ExpectedDisk {
            blocks: 64,
            write_bytes: 1 << 20,
            mode: DiskMode::ReadWrite,
            expected: DIGEST,
            file: Some(DIGEST),
        }),
    }
}

fn records() -> Vec<(Console, Record<'static>)> {
    use Console::{Guest, Host, Hypervisor};
    vec![
        (
            Hypervisor,
            Record::Hypervisor {
                memory_bytes: 4 << 20,
                pages: 1024,
                cpus: 2,
                text_bytes: 90_000,
                ram_bytes: 512 << 20,
            },
        ),
        (Hypervisor, Record::HostCpu { cpu: 0, stage2: true }),
        (Hypervisor, Record::HostCpu { cpu: 1, stage2: true }),
        (Host, Record::Host { el: 1, cpus: 2 }),
        (Host, Record::Vm { object_bytes: 128 << 20, pages_donated: 40, vcpus: 1 }),
        (
            Hypervisor,
            Record::VmStart {
                protected: true,
                measured: true,
                measurement: MEASUREMENT,
                vcpus: 1,
                pages: 30,
            },
        ),
        (Guest, Record::Guest { uid: Uid(kvm::UID), features: 0x1f, shares: 70 }),
        (Host, Record::Attack { read_faulted: true, write_faulted: true }),
        (
            Guest,
            Record::Disk {
                read_bytes: 5 << 20,
                written_bytes: 1 << 20,
                blocks_verified: 64,
                blocks_failed: 0,
                sha256: DIGEST,
                ticks: 62_500_000,
                frequency_hz: 62_500_000,
            },
        ),
        (Guest, Record::GuestDone { content_intact: true, hypercalls: 80, copied_bytes: 6 << 20 }),
        (
            Host,
            Record::GuestEnd {
                reason: GuestEnd::Off,
                pages_donated: 50,
                exits: 300,
                copied_bytes: 6 << 20,
                requests: 96,
            },
        ),
        (Hypervisor, Record::VmEnd { pages_returned: 50, hypercalls: 80, exits: 310 }),
        (Host, Record::Teardown { pages_returned: 50, pages_nonzero: 0 }),
        (Hypervisor, Record::PowerOff { host_faults: 2 }),
    ]
}

fn facts(records: &[(Console, Record<'_>)]) -> Facts {
    let mut facts = Facts::default();
    for (console, record) in records {
        facts.observe(*console, &record.to_string());
    }
    facts
}

/// The topics of the points that do not hold.
fn wrong(records: &[(Console, Record<'_>)], expected: &Expected) -> Vec<&'static str> {
    tell(&facts(records), &Ended::PoweredOff, expected)
        .into_iter()
        .filter(|line| !line.holds)
        .map(|line| line.topic)
        .collect()
}

#[test]
fn when_all_went_well_every_point_holds() {
    assert_eq!(wrong(&records(), &expected()), Vec::<&str>::new());
    let text: String = tell(&facts(&records()), &Ended::PoweredOff, &expected())
        .iter()
        .map(|line| line.render(false) + "\n")
        .collect();
    for part in [
        "owns EL2 on 2 CPUs",
        "EL1 under stage 2 on 2 of 2 CPUs",
        "DMA not confined yet",
        "28b46fb6-2ec5-11e9-a9ca-4b564d003a74",
        "verified 64 blocks",
        "6.0 MiB/s",
        "the host continued",
        "50 of 50 pages donated came back",
        "clean power-off",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains('\x1b'));
}

#[test]
fn each_record_that_is_missing_is_missed() {
    for missing in 0..records().len() {
        let mut some = records();
        let (_, record) = some.remove(missing);
        assert!(!wrong(&some, &expected()).is_empty(), "{record}");
    }
}

#[test]
fn each_thing_that_went_wrong_is_told() {
    type Change = fn(&mut Record<'static>);
    let changes: [(&str, Change); 12] = [
        ("host", |r| {
            if let Record::HostCpu { cpu: 1, stage2 } = r {
                *stage2 = false;
            }
        }),
        ("host", |r| {
            if let Record::Host { el, .. } = r {
                *el = 2;
            }
        }),
        ("VM", |r| {
            if let Record::VmStart { measured, .. } = r {
                *measured = false;
            }
        }),
        ("VM", |r| {
            if let Record::VmStart { measurement, .. } = r {
                *measurement = DIGEST;
            }
        }),
        ("VM", |r| {
            if let Record::VmStart { protected, .. } = r {
                *protected = false;
            }
        }),
        ("guest", |r| {
            if let Record::Guest { uid, .. } = r {
                *uid = Uid([0; 4]);
            }
        }),
        ("disk", |r| {
            if let Record::Disk { blocks_failed, .. } = r {
                *blocks_failed = 1;
            }
        }),
        ("disk", |r| {
            if let Record::Disk { sha256, .. } = r {
                *sha256 = MEASUREMENT;
            }
        }),
        ("attack", |r| {
            if let Record::Attack { write_faulted, .. } = r {
                *write_faulted = false;
            }
        }),
        ("attack", |r| {
            if let Record::GuestDone { content_intact, .. } = r {
                *content_intact = false;
            }
        }),
        ("guest", |r| {
            if let Record::GuestEnd { reason, .. } = r {
                *reason = GuestEnd::Stopped;
            }
        }),
        ("teardown", |r| {
            if let Record::Teardown { pages_nonzero, .. } = r {
                *pages_nonzero = 1;
            }
        }),
    ];
    for (topic, change) in changes {
        let mut some = records();
        for (_, record) in &mut some {
            change(record);
        }
        assert_eq!(wrong(&some, &expected()), [topic]);
    }
}

#[test]
fn the_file_has_the_last_word_about_the_disk() {
    let mut expected = expected();
    if let Some(disk) = &mut expected.demo {
        disk.file = Some(MEASUREMENT);
    }
    assert_eq!(wrong(&records(), &expected), ["disk"]);
}

#[test]
fn a_payload_from_elsewhere_is_held_to_less() {
    let mut some = records();
    some.retain(|(console, record)| *console != Console::Guest && !matches!(record, Record::Attack { .. }));
    for (_, record) in &mut some {
        if let Record::VmStart { measured, .. } = record {
            *measured = false;
        }
    }
    let expected = Expected { measurement: None, demo: None, ..expected() };
    assert_eq!(wrong(&some, &expected), Vec::<&str>::new());
}

#[test]
fn an_ordinary_vm_is_not_attacked_and_returns_what_was_lent() {
    let mut some = records();
    some.retain(|(_, record)| !matches!(record, Record::Attack { .. }));
    for (_, record) in &mut some {
        match record {
            Record::VmStart { protected, .. } => *protected = false,
            Record::Teardown { pages_returned, .. } => *pages_returned = 12,
            _ => {}
        }
    }
    let expected = Expected { protected: false, ..expected() };
    assert_eq!(wrong(&some, &expected), Vec::<&str>::new());
}

#[test]
fn an_oracle_has_to_have_looked() {
    let expected = Expected { oracle: true, ..expected() };
    let mut some = records();
    assert_eq!(wrong(&some, &expected), ["oracle"]);
    let end = some.len() - 1;
    some.insert(end, (Console::Hypervisor, Record::Oracle { checks: 0 }));
    assert_eq!(wrong(&some, &expected), ["oracle"]);
    some[end].1 = Record::Oracle { checks: 7 };
    assert_eq!(wrong(&some, &expected), Vec::<&str>::new());
}

#[test]
fn failures_have_a_kind() {
    let kind = |line: &str, ended: &Ended| {
        let mut facts = Facts::default();
        facts.observe(Console::Hypervisor, line);
        failure(&facts, ended, Some(9)).map(|failure| failure.kind)
    };
    assert_eq!(kind("", &Ended::PoweredOff), None);
    assert_eq!(kind("@cloister panic at x", &Ended::TimedOut), Some(Kind::Panic));
    assert_eq!(kind("@cloister refused it", &Ended::PoweredOff), Some(Kind::Refused));
    assert_eq!(kind("", &Ended::TimedOut), Some(Kind::Timeout));
    assert_eq!(kind("", &Ended::Stuck), Some(Kind::Run));
    assert_eq!(kind("", &Ended::Broke("status 1".into())), Some(Kind::Run));
}

#[test]
fn amounts_are_written_for_people() {
    assert_eq!(bytes(12), "12 bytes");
    assert_eq!(bytes(4 << 20), "4 MiB");
    assert_eq!(bytes(1536), "1.5 KiB");
    assert_eq!(count(1, "page"), "1 page");
    assert_eq!(count(0, "page"), "0 pages");
}
