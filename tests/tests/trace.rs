//! What a booted hypervisor really did, held to the rules of the protocol.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hyp_core::event::{Event, Scope};
use hyp_core::geometry::{Geometry, Granule4K};
use hyp_trace::{InWords, Traced, in_order};
use hyp_verify::protocol::Checker;
use shared_abi::addr::Pfn;
use shared_abi::host_call::{Content, HostCall, ObjectHandle};
use tests::tool::Tool;

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
        Event::Space(_) => "space",
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
    let populate = HostCall::ObjectPopulate { object, offset: 0, first, pages: 1, content: Content::Zero };
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
    let why = "the rules are for what ships, and the oracle takes locks that it does not take";
    let run = Tool::boot_shipped(&arguments, why).run();
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

#[test]
fn what_the_hypervisor_does_not_understand_it_refuses_and_by_default_it_traces_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let image = path.to_str().unwrap();
    let pack = |arguments: &[&str]| {
        let all = [&["image", "pack", "--output", image], arguments].concat();
        let run = Tool::new(&all).run();
        assert_eq!(run.status, Some(0), "{run}");
    };
    pack(&["--hypervisor-args", "trace=maybe"]);
    let run = Tool::boot_shipped(&["--image", image], "an image has the hypervisor that was packed").run();
    run.expect_status(1);
    assert!(run.stderr.contains("unknown argument"), "{run}");

    pack(&[]);
    let parsed = fs::read(&path).unwrap();
    let parsed = bootimg::file::verify(&parsed).unwrap();
    assert_eq!(parsed.text(bootimg::Kind::HypervisorArgs), None);
}
