//! The whole story, told by the parties that know: what the record of a plain `boot` says.

use std::fs;

use tests::tool::{Tool, ToolRun};

/// The vendor-hypervisor functions that a guest of a protected VM finds: FEATURES, MEMINFO, MEM_SHARE,
/// MEM_UNSHARE and the MMIO guard's four.
const PROTECTED_FEATURES: u64 = 0x3fd;
/// Those that a guest of an ordinary VM finds: FEATURES alone.
const ORDINARY_FEATURES: u64 = 1;

/// What the demo prints once it gave a page back and touched it again.
const GAVE_BACK: &str = "gave a page back, and found one of zeroes in its place";

/// What is true of every run of the demo payload that went well.
#[track_caller]
fn expect_demo(run: &ToolRun, cpus: u64) {
    run.expect_status(0);
    assert_eq!(run.text("exit.reason"), "guest-off");
    assert_eq!(run.number("exit.status"), 0);

    assert_eq!(run.number("hypervisor.cpus"), cpus);
    assert_eq!(run.number("hypervisor.memory_bytes"), run.number("hypervisor.pages") * 4096);
    assert!(run.number("hypervisor.text_bytes") > 0);
    assert_eq!(run.number("host.el"), 1);
    assert_eq!(*run.field("host.stage2"), true);

    assert_eq!(run.number("vm.vcpus"), 1);
    assert_eq!(run.number("vm.object_bytes"), 128 << 20);
    assert_eq!(run.text("guest.uid"), "28b46fb6-2ec5-11e9-a9ca-4b564d003a74");

    assert!(run.number("disk.read_bytes") > 0);
    assert!(run.number("disk.written_bytes") > 0);
    assert!(run.number("disk.blocks_verified") > 0);
    let expected = run.text("disk.sha256_expected");
    assert_eq!(expected.len(), 64);
    assert_eq!(run.text("disk.sha256_guest"), expected);
    assert_eq!(run.text("disk.sha256_file"), expected);

    assert!(run.number("cost.hypercalls") > 0);
    assert!(run.number("cost.exits") > 0);
    assert!(run.number("cost.copied_bytes") >= run.number("disk.read_bytes"));
    assert_eq!(*run.field("dma.confined"), false);
    assert!(!run.text("console").is_empty());
}

/// What is true only of a protected VM's.
#[track_caller]
fn expect_protected(run: &ToolRun) {
    assert_eq!(*run.field("vm.protected"), true);
    assert_eq!(*run.field("vm.measured"), true);
    assert_eq!(run.number("guest.features"), PROTECTED_FEATURES);
    assert!(run.number("guest.shares") > 0);
    for fact in ["read_faulted", "write_faulted", "host_continued", "content_intact"] {
        assert_eq!(*run.field(&format!("attack.{fact}")), true, "{fact}");
    }
    // The host brought another page, and counted right.
    assert!(run.text("console").contains(GAVE_BACK), "{run}");
    assert!(run.number("vm.pages_donated") > 0);
    assert_eq!(
        run.number("teardown.pages_returned"),
        run.number("vm.pages_donated"),
        "every page comes back"
    );
    assert_eq!(run.number("teardown.pages_nonzero"), 0);
}

#[test]
fn a_protected_guest_does_disk_io_on_one_cpu() {
    let run = Tool::boot(&["--cpus", "1"]).run();
    expect_demo(&run, 1);
    expect_protected(&run);
}

#[test]
fn what_ships_tells_the_same_story() {
    let run = Tool::boot_shipped(&["--cpus", "2"], "the binary that ships has to run too").run();
    expect_demo(&run, 2);
    expect_protected(&run);
    assert!(run.field("oracle").is_null(), "{run}");
}

#[test]
fn a_protected_guest_does_disk_io_on_four_cpus_with_the_users_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    let content: Vec<u8> =
        (0_u32..192 * 1024).flat_map(|word| word.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    fs::write(&path, &content).unwrap();

    let disk = path.to_str().unwrap();
    let run = Tool::boot(&["--cpus", "4", "--disk", disk]).run();
    expect_demo(&run, 4);
    expect_protected(&run);
    assert!(run.number("disk.read_bytes") >= content.len() as u64);
    assert!(fs::read(&path).unwrap() == content, "the demo writes to a scratch copy");
}

#[test]
fn an_ordinary_vm_runs_the_same_payload() {
    let run = Tool::boot(&["--unprotected", "--cpus", "2"]).run();
    expect_demo(&run, 2);
    assert_eq!(*run.field("vm.protected"), false);
    assert_eq!(run.number("guest.features"), ORDINARY_FEATURES);
    assert_eq!(run.number("guest.shares"), 0, "there is nothing to share");
    assert!(run.field("attack").is_null());
    assert!(!run.text("console").contains(GAVE_BACK), "the call is not offered");
}

#[test]
fn the_record_goes_to_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record.json");
    let missing = directory.path().join("missing.img");
    let arguments = ["boot", "--disk", missing.to_str().unwrap(), "--json"];
    let run = Tool::new(&[&arguments[..], &[path.to_str().unwrap()]].concat()).run();
    assert_eq!(run.status, Some(2), "{run}");
    assert_eq!(run.stdout, "");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(record["schema"], "cloister.boot/1");
    assert_eq!(record["ok"], false);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
