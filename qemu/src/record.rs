//! The record of a boot for programs: `cloister.boot/1`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use shared_abi::record::GuestEnd;

use crate::facts::Facts;
use crate::failure::{Failure, FailureRecord, Kind, Result};
use crate::setup::Prepared;
use crate::story::{Expected, uuid};

/// Where a record goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere.
    None,
    /// Standard output, which then carries nothing else.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl Destination {
    /// What `--json [FILE]` means.
    #[must_use]
    pub fn from_argument(argument: Option<&Option<PathBuf>>) -> Self {
        match argument {
            None => Self::None,
            Some(None) => Self::Stdout,
            Some(Some(file)) => Self::File(file.clone()),
        }
    }

    /// Writes a record there; a file by rename, so that it is whole or not there at all.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    pub fn write(&self, record: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(record)
            .map_err(|error| Failure::system("can't make the record", error))?
            + "\n";
        match self {
            Self::None => Ok(()),
            Self::Stdout => {
                use std::io::Write as _;
                std::io::stdout()
                    .write_all(text.as_bytes())
                    .map_err(|error| Failure::system("can't write the record", error))
            }
            Self::File(file) => write_file(file, &text),
        }
    }
}

fn write_file(file: &Path, text: &str) -> Result<()> {
    bootimg::file::write_by_rename(file, text.as_bytes()).map_err(|error| Failure::input(file, error))
}

/// The record of a boot.
#[derive(Debug, Serialize)]
pub struct BootRecord {
    schema: &'static str,
    ok: bool,
    error: Option<FailureRecord>,
    hypervisor: Option<HypervisorRecord>,
    host: Option<HostRecord>,
    vm: Option<VmRecord>,
    guest: Option<GuestRecord>,
    disk: Option<DiskRecord>,
    cost: Option<CostRecord>,
    attack: Option<AttackRecord>,
    dma: Option<DmaRecord>,
    teardown: Option<TeardownRecord>,
    oracle: Option<OracleRecord>,
    console: Option<String>,
    exit: ExitRecord,
}

#[derive(Debug, Serialize)]
struct HypervisorRecord {
    memory_bytes: u64,
    pages: u64,
    cpus: u64,
    text_bytes: u64,
}

#[derive(Debug, Serialize)]
struct HostRecord {
    el: u64,
    stage2: bool,
}

#[derive(Debug, Serialize)]
struct VmRecord {
    protected: bool,
    measured: bool,
    vcpus: u64,
    object_bytes: Option<u64>,
    pages_donated: Option<u64>,
}

#[derive(Debug, Serialize)]
struct GuestRecord {
    uid: String,
    features: u64,
    shares: u64,
}

#[derive(Debug, Serialize)]
struct DiskRecord {
    read_bytes: u64,
    written_bytes: u64,
    blocks_verified: u64,
    sha256_expected: String,
    sha256_guest: String,
    sha256_file: Option<String>,
}

#[derive(Debug, Serialize)]
struct CostRecord {
    hypercalls: u64,
    exits: u64,
    copied_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct AttackRecord {
    read_faulted: bool,
    write_faulted: bool,
    host_continued: bool,
    content_intact: Option<bool>,
}

#[derive(Debug, Serialize)]
struct DmaRecord {
    confined: bool,
}

#[derive(Debug, Serialize)]
struct TeardownRecord {
    pages_returned: u64,
    pages_nonzero: u64,
}

#[derive(Debug, Serialize)]
struct OracleRecord {
    checks: u64,
}

#[derive(Debug, Serialize)]
struct ExitRecord {
    reason: Option<&'static str>,
    status: u8,
}

/// What there is to record of a boot, however far it came.
#[derive(Clone, Debug, Default)]
pub struct BootResult {
    /// What was reported.
    pub facts: Facts,
    /// What the boot was held to; `None` if it came to no boot.
    pub expected: Option<Expected>,
    /// What the guest printed; `None` if it came to no boot.
    pub console: Option<String>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

impl BootResult {
    /// A boot that failed before there was a machine.
    #[must_use]
    pub fn not_booted(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }

    /// The exit status of the tool.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.failure.as_ref().map_or(crate::failure::status::OK, |failure| failure.kind.status())
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> BootRecord {
        let facts = &self.facts;
        let demo = self.expected.as_ref().and_then(|e| e.demo.as_ref());
        let is_demo = demo.is_some();
        BootRecord {
            schema: "cloister.boot/1",
            ok: self.failure.is_none(),
            error: self.failure.as_ref().map(Failure::record),
            hypervisor: facts.hypervisor.map(|hypervisor| HypervisorRecord {
                memory_bytes: hypervisor.memory_bytes,
                pages: hypervisor.pages,
                cpus: hypervisor.cpus,
                text_bytes: hypervisor.text_bytes,
            }),
            host: facts.host.map(|host| HostRecord {
                el: host.el,
                stage2: !facts.host_cpus.is_empty() && facts.host_cpus.values().all(|stage2| *stage2),
            }),
            vm: facts.vm_start.map(|start| VmRecord {
                protected: start.protected,
                measured: start.measured,
                vcpus: start.vcpus,
                object_bytes: facts.vm.map(|vm| vm.object_bytes),
                pages_donated: facts
                    .guest_end
                    .map(|end| end.pages_donated)
                    .or(facts.vm.map(|vm| vm.pages_donated)),
            }),
            guest: facts.guest.filter(|_| is_demo).map(|guest| GuestRecord {
                uid: uuid(guest.uid),
                features: guest.features,
                shares: guest.shares,
            }),
            disk: facts.disk.zip(demo).map(|(disk, demo)| DiskRecord {
                read_bytes: disk.read_bytes,
                written_bytes: disk.written_bytes,
                blocks_verified: disk.blocks_verified,
                sha256_expected: demo.expected.to_string(),
                sha256_guest: disk.sha256.to_string(),
                sha256_file: demo.file.map(|digest| digest.to_string()),
            }),
            cost: facts.vm_end.map(|end| CostRecord {
                hypercalls: end.hypercalls,
                exits: end.exits,
                copied_bytes: facts.copied_bytes(),
            }),
            attack: facts.attack.filter(|_| is_demo).map(|attack| AttackRecord {
                read_faulted: attack.read_faulted,
                write_faulted: attack.write_faulted,
                host_continued: facts.guest_end.is_some(),
                content_intact: facts.guest_done.map(|done| done.content_intact),
            }),
            // Nothing confines DMA yet, whatever the machine did.
            dma: facts.hypervisor.map(|_| DmaRecord { confined: false }),
            teardown: facts.teardown.map(|teardown| TeardownRecord {
                pages_returned: teardown.pages_returned,
                pages_nonzero: teardown.pages_nonzero,
            }),
            oracle: facts.oracle_checks.map(|checks| OracleRecord { checks }),
            console: self.console.clone(),
            exit: ExitRecord { reason: self.reason(), status: self.status() },
        }
    }

    fn reason(&self) -> Option<&'static str> {
        match self.failure.as_ref().map(|failure| failure.kind) {
            Some(Kind::Panic) => Some("panic"),
            Some(Kind::Refused) => Some("refused"),
            Some(Kind::Timeout) => Some("timeout"),
            _ => {
                let end = self.facts.guest_end?;
                (end.reason == GuestEnd::Off).then_some("guest-off")
            }
        }
    }
}

/// The record of `setup`: `cloister.setup/1`.
#[derive(Debug, Serialize)]
pub struct SetupRecord {
    schema: &'static str,
    ok: bool,
    error: Option<FailureRecord>,
    qemu: Option<String>,
    toolchain: Option<&'static str>,
}

impl SetupRecord {
    /// What came out.
    #[must_use]
    pub fn new(result: &Result<Prepared>) -> Self {
        let prepared = result.as_ref().ok();
        Self {
            schema: "cloister.setup/1",
            ok: prepared.is_some(),
            error: result.as_ref().err().map(Failure::record),
            qemu: prepared.map(|prepared| prepared.qemu.version.clone()),
            toolchain: prepared.map(|prepared| prepared.toolchain.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_starts_with_its_schema_and_is_written_on_failure() {
        let result = BootResult::not_booted(Failure::usage("no such file"));
        let text = serde_json::to_string(&result.record()).unwrap();
        assert!(
            text.starts_with(
                "{\"schema\":\"cloister.boot/1\",\"ok\":false,\
                 \"error\":{\"code\":\"usage\",\"message\":\"no such file\"}"
            ),
            "{text}"
        );
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value["hypervisor"].is_null() && value["exit"]["reason"].is_null());
        assert_eq!(value["exit"]["status"], 2);
        let keys: Vec<_> = [
            "hypervisor",
            "host",
            "vm",
            "guest",
            "disk",
            "cost",
            "attack",
            "dma",
            "teardown",
            "oracle",
            "console",
            "exit",
        ]
        .into_iter()
        .filter(|key| value.get(key).is_none())
        .collect();
        assert!(keys.is_empty(), "{keys:?} are missing");
    }

    #[test]
    fn a_file_is_whole_or_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("record.json");
        let record = BootResult::default().record();
        Destination::File(file.clone()).write(&record).unwrap();
        assert!(std::fs::read_to_string(&file).unwrap().ends_with("}\n"));
        let nowhere = directory.path().join("missing/record.json");
        assert!(Destination::File(nowhere).write(&record).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
