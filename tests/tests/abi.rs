//! `docs/abi.md` says what the code does.

use std::fs;

use bootimg::Kind;
use shared_abi::addr::{Gfn, Ipa, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, VcpuIndex, VmHandle};
use shared_abi::kvm::{feature, function, trng};
use shared_abi::vcpu::{AccessSize, Entry, Exit, ExitRecord, ListRegister, Resume, StopReason};
use tests::workspace::root;

/// The rows of the document's tables, as their cells.
fn rows() -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("docs/abi.md")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// Whether some row starts with these cells.
#[track_caller]
fn expect_row(first: &str, second: &str) {
    let found = rows().iter().any(|row| row.len() > 1 && row[0] == first && row[1] == second);
    assert!(found, "docs/abi.md has no row | {first} | {second} |");
}

/// An ID as the document writes it.
fn hex(id: u32) -> String {
    format!("{:#06x}_{:04x}", id >> 16, id & 0xffff)
}

/// The name of an enum's variant.
fn variant(value: impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let end = text.find(|c: char| !c.is_alphanumeric());
    text[..end.unwrap_or(text.len())].to_owned()
}

#[test]
fn every_host_call_is_documented() {
    let (vm, object) = (VmHandle(1), ObjectHandle(1));
    let (first, pages, offset) = (Pfn(2), 3, 0);
    let entry = Entry { resume: Resume::Continue, list_registers: [ListRegister::EMPTY; 4] };
    let calls = [
        HostCall::Version,
        HostCall::VmCreate { protected: true, first, pages },
        HostCall::VmTopUp { vm, first, pages },
        HostCall::ObjectCreate { vm, pages },
        HostCall::ObjectBind { object, offset, gfn: Gfn(1), pages },
        HostCall::ObjectUnbind { object, offset, pages },
        HostCall::ObjectPopulate { object, offset, first, pages, content: InitialContent::Keep },
        HostCall::ObjectReclaim { object, offset, pages },
        HostCall::ObjectQuery { object, offset },
        HostCall::ObjectDestroy { object },
        HostCall::VcpuCreate { vm, index: VcpuIndex(0) },
        HostCall::VmStart { vm, entry: Ipa(0), argument: 0 },
        HostCall::VcpuRun { vm, vcpu: VcpuIndex(0), entry },
        HostCall::VmDestroy { vm },
        HostCall::ForceReclaim { page: first },
        HostCall::VmCounters { vm },
    ];
    for call in calls {
        expect_row(&hex(call.emit().0), &variant(call));
    }
    let documented = rows().iter().filter(|row| row[0].starts_with("0xc600_80")).count();
    assert_eq!(documented, calls.len(), "the document has calls of its own");
}

#[test]
fn every_error_is_documented() {
    for error in (0..64_i64).filter_map(|code| CallError::from_code((-code).cast_unsigned())) {
        expect_row(&error.code().cast_signed().to_string(), &variant(error));
    }
}

#[test]
fn every_exit_is_documented() {
    let (ipa, size) = (Ipa(0), AccessSize::Word);
    for exit in [
        Exit::Interrupted,
        Exit::Wfi { deadline: None },
        Exit::MmioRead { ipa, size },
        Exit::MmioWrite { ipa, size, value: 0 },
        Exit::MemoryFault { gfn: Gfn(0) },
        Exit::NeedPages { pages: 1 },
        Exit::Sgi { sgi1r: 0 },
        Exit::CpuOn { vcpu: VcpuIndex(1) },
        Exit::CpuOff,
        Exit::SystemOff,
        Exit::SystemReset,
        Exit::Stopped(StopReason::Poisoned(Gfn(0))),
        Exit::Relinquished { gfn: Gfn(0) },
    ] {
        let record = ExitRecord { exit, list_registers: [ListRegister::EMPTY; 4], timer_fired: false };
        expect_row(&record.emit()[0].to_string(), &variant(exit));
    }
}

#[test]
fn every_guest_call_is_documented() {
    for (id, name) in [
        (function::FEATURES, "FEATURES"),
        (function::MEMINFO, "MEMINFO"),
        (function::MEM_SHARE, "MEM_SHARE"),
        (function::MEM_UNSHARE, "MEM_UNSHARE"),
        (function::MMIO_GUARD_INFO, "MMIO_GUARD_INFO"),
        (function::MMIO_GUARD_ENROLL, "MMIO_GUARD_ENROLL"),
        (function::MMIO_GUARD_MAP, "MMIO_GUARD_MAP"),
        (function::MMIO_GUARD_UNMAP, "MMIO_GUARD_UNMAP"),
        (function::MEM_RELINQUISH, "MEM_RELINQUISH"),
        (trng::VERSION, "TRNG_VERSION"),
        (trng::FEATURES, "TRNG_FEATURES"),
        (trng::GET_UUID, "TRNG_GET_UUID"),
        (trng::RND32, "TRNG_RND32"),
        (trng::RND64, "TRNG_RND64"),
    ] {
        expect_row(&hex(id), name);
    }
    let features = feature::FEATURES
        | feature::MEMINFO
        | feature::MEM_SHARE
        | feature::MEM_UNSHARE
        | feature::MMIO_GUARD_INFO
        | feature::MMIO_GUARD_ENROLL
        | feature::MMIO_GUARD_MAP
        | feature::MMIO_GUARD_UNMAP
        | feature::MEM_RELINQUISH;
    assert_eq!(features, 0x3fd, "as the document and the story's test say");
}

#[test]
fn every_part_of_an_image_is_documented() {
    for kind in Kind::ALL {
        expect_row(&(kind as u32).to_string(), kind.name());
    }
}
