//! What a booted hypervisor really did, held to the rules of the protocol; and what ships, which notes nothing of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hyp_core::machine::event::{Event, Scope};
use hyp_core::machine::geometry::{Geometry, Granule4K};
use hyp_trace::{InWords, Traced, in_order};
use hyp_verify::protocol::Checker;
use shared_abi::addr::Pfn;
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle};
use tests::payload;
use tests::tool::Tool;
use tests::workspace::root;

/// The feature's hypervisor and the shipped one, as the tool builds them.
const WITH_TRACE: &str = "target/bare-trace/aarch64-unknown-none-softfloat/bare/hypervisor";
const SHIPPED: &str = "target/bare/aarch64-unknown-none-softfloat/bare/hypervisor";

/// What only the trace brings along: the start of an event's line, the argument that asks for it, its module's name
/// in symbols, its file's in debug information.
const MARKS: [&str; 4] = ["@event", "trace=on", "10hypervisor5trace", "trace.rs"];

/// The events of a trace file, in their order, all of them.
fn read(path: &Path) -> Vec<(usize, Event)> {
    let text = fs::read_to_string(path).unwrap();
    let events = text.lines().map(|line| {
        let (words, meaning) = line.split_once(" ; ").expect("words ; meaning");
        let traced = Traced::parse(words.trim()).unwrap_or_else(|| panic!("no event: {line}"));
        assert_eq!(InWords(traced.event).to_string(), meaning);
        traced
    });
    in_order(events.collect()).unwrap()
}

/// What kind of event it is, as far as a boot must have it.
const fn kind(event: Event) -> &'static str {
    match event {
        Event::Stage2Id(_) => "space",
        Event::Write { .. } => "write",
        Event::Barrier(_) => "barrier",
        Event::Tlbi { scope, .. } => match scope {
            Scope::Ipa(_) => "tlbi by IPA",
            Scope::Combined => "tlbi of combined entries",
            Scope::All => "tlbi of a VMID",
            Scope::CombinedHere | Scope::InstructionsHere => "tlbi for another vCPU",
        },
        Event::Wipe(_) => "wipe",
        Event::Clean(_) => "clean",
        Event::Taken(_) => "lock taken",
        Event::Released(_) => "lock released",
        Event::CallBegin(_) => "call",
        Event::CallEnd(_) => "call ends",
        Event::Load(..) => "load",
        Event::Put(..) => "put",
        Event::Enter(_) => "enter",
        Event::Dropped(_) => "dropped",
    }
}

/// The least that a boot of the demo has of each.
const LEAST: &[(&str, usize)] = &[
    ("space", 2),
    ("write", 500),
    ("barrier", 50),
    ("tlbi by IPA", 2),
    ("tlbi of combined entries", 2),
    ("tlbi of a VMID", 2),
    ("wipe", 10),
    ("clean", 1),
    // A vCPU that is resumed takes none.
    ("lock taken", 100),
    ("lock released", 100),
    ("call", 100),
    ("call ends", 100),
    ("load", 50),
    ("put", 50),
    ("enter", 100),
];

/// The demo gives a page back and touches it again (MEM_RELINQUISH): the VM lost it, it was wiped, and a
/// wiped one came by a call of the host's. Nothing else in the demo takes a single page from a VM.
#[track_caller]
fn a_page_went_back_and_another_came(events: &[(usize, Event)]) {
    let (object, first) = (ObjectHandle(0), Pfn(0));
    let populate =
        HostCall::ObjectPopulate { object, offset: 0, first, pages: 1, content: InitialContent::Zero };
    let (populate, _) = populate.emit();
    let one_page = |event: Event| matches!(event, Event::Wipe(pages) if pages.len() == 1);
    let mut events = events.iter().map(|(_, event)| *event);
    let lost = |event| matches!(event, Event::Tlbi { vmid, scope: Scope::Ipa(_) } if vmid.0 != 0);
    assert!(events.any(lost), "no page went back");
    assert!(events.any(one_page), "it was not wiped");
    assert!(events.any(|event| event == Event::CallBegin(populate)), "the host brought no other");
    assert!(events.any(one_page), "which was not wiped");
}

#[test]
fn a_boot_keeps_the_rules() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace");
    let trace = path.to_str().unwrap();
    let arguments = ["--cpus", "2", "--smp", "2", "--trace", trace];
    let why =
        "the rules are for what the core does by itself, and the oracle takes locks that it does not take";
    let run = Tool::boot_unwatched(&arguments, why).run();
    run.expect_status(0);

    let events = read(&path);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, event) in &events {
        *counts.entry(kind(*event)).or_default() += 1;
    }
    println!("{counts:#?}");
    for (kind, least) in LEAST {
        let found = counts.get(kind).copied().unwrap_or(0);
        assert!(found >= *least, "{kind}: {found}, expected {least}");
    }
    for cpu in 0..2 {
        assert!(events.iter().any(|(by, _)| *by == cpu), "CPU {cpu}");
    }

    a_page_went_back_and_another_came(&events);

    let mut checker = Checker::new(Granule4K::INDEX_BITS);
    if let Err(violation) = checker.observe_all(&events) {
        panic!("{violation}");
    }
    println!("{}", checker.summary());

    // The trace is what was checked: without its invalidations it is refused.
    let spoiled = events.into_iter().filter(|(_, event)| !matches!(event, Event::Tlbi { .. }));
    let mut checker = Checker::new(Granule4K::INDEX_BITS);
    let spoiled: Vec<_> = spoiled.collect();
    assert!(checker.observe_all(&spoiled).is_err());
}

/// Packs an image with these arguments for a small payload, which says "hello".
fn pack(directory: &Path, name: &str, arguments: &[&str]) -> String {
    let payload = directory.join("payload");
    fs::write(&payload, payload::hello("hello")).unwrap();
    let image = directory.join(name).to_str().unwrap().to_owned();
    let parts = ["image", "pack", "--output", &image, "--payload", payload.to_str().unwrap()];
    let run = Tool::new(&[&parts, arguments].concat()).run();
    assert_eq!(run.status, Some(0), "{run}");
    image
}

#[test]
fn an_image_is_traced_if_its_hypervisor_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let boot = |image: &str| {
        let arguments = ["--image", image, "--cpus", "1", "--trace", trace.to_str().unwrap()];
        Tool::boot_unwatched(&arguments, "an image has the hypervisor that was packed").run()
    };
    let lacks = boot(&pack(directory.path(), "shipped", &[]));
    lacks.expect_status(2);
    assert!(lacks.stderr.contains("has no trace"), "{lacks}");
    assert!(!trace.exists());

    let has = boot(&pack(directory.path(), "traced", &["--hypervisor-args", "trace=on"]));
    has.expect_status(0);
    assert!(read(&trace).iter().any(|(_, event)| matches!(event, Event::Enter(_))));
}

#[test]
fn a_hypervisor_can_have_the_trace_and_the_oracle() {
    let directory = tempfile::tempdir().unwrap();
    let (payload, trace) = (directory.path().join("payload"), directory.path().join("trace"));
    fs::write(&payload, payload::hello("hello")).unwrap();
    let run = Tool::boot(&[
        "--payload",
        payload.to_str().unwrap(),
        "--trace",
        trace.to_str().unwrap(),
        "--cpus",
        "1",
    ])
    .run();
    run.expect_status(0);
    assert!(read(&trace).iter().any(|(_, event)| matches!(event, Event::Enter(_))));
}

#[test]
fn what_ships_has_no_trace_and_refuses_what_it_does_not_understand() {
    let directory = tempfile::tempdir().unwrap();
    pack(directory.path(), "traced", &["--hypervisor-args", "trace=on"]);
    let image = pack(directory.path(), "refused", &["--hypervisor-args", "trace=maybe"]);
    let run = Tool::boot_unwatched(&["--image", &image], "an image has the hypervisor that was packed").run();
    run.expect_status(1);
    assert!(run.stderr.contains("unknown argument"), "{run}");

    let (with_trace, shipped) = (elf(WITH_TRACE), elf(SHIPPED));
    for mark in MARKS {
        assert!(contains(&with_trace, mark), "no mark of the trace: {mark}");
        assert!(!contains(&shipped, mark), "a mark of the trace: {mark}");
    }
}

fn elf(path: &str) -> Vec<u8> {
    fs::read(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn contains(bytes: &[u8], mark: &str) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark.as_bytes())
}
