//! Payloads from elsewhere: what runs, what is reported, what is refused.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use tests::payload;
use tests::tool::{Tool, ToolRun};

/// Boots this as a payload.
fn boot(content: &[u8], more: &[&str]) -> ToolRun {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, content);
    let arguments = ["--payload", path.to_str().unwrap(), "--cpus", "1"];
    Tool::boot(&[&arguments[..], more].concat()).run()
}

fn file(directory: &TempDir, content: &[u8]) -> PathBuf {
    let path = directory.path().join("payload");
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn a_flat_binary_prints_and_turns_itself_off() {
    let run = boot(&payload::hello("hello from flat land"), &[]);
    run.expect_status(0);
    assert_eq!(run.text("exit.reason"), "guest-off");
    assert!(run.text("console").contains("hello from flat land"), "{run}");
    for part in ["disk", "attack", "guest"] {
        assert!(run.field(part).is_null(), "{part}: {run}");
    }
    assert_eq!(*run.field("vm.protected"), true);
    assert_eq!(run.number("teardown.pages_nonzero"), 0);
}

/// The fault is the guest's own to handle; that it then gives up makes the run a failure, and the host
/// still tears the VM down and powers off.
#[test]
fn a_guest_that_faults_is_reported_and_the_machine_goes_on() {
    let run = boot(&payload::fault("about to fault"), &[]);
    run.expect_status(1);
    assert_eq!(run.number("teardown.pages_nonzero"), 0);
    let console = run.text("console");
    assert!(console.contains("about to fault"), "{run}");
    assert!(console.contains('!'), "the guest's own vector ran: {run}");
    assert!(!console.contains('?'), "the read came back: {run}");
}

#[test]
fn a_guest_that_hangs_ends_with_the_timeout() {
    let run = boot(&payload::hang("now hanging"), &["--timeout", "10"]);
    run.expect_status(124);
    assert_eq!(run.text("exit.reason"), "timeout");
    assert!(run.text("console").contains("now hanging"), "{run}");
}

/// Boots a payload of `guest-kernel`.
fn boot_built(name: &'static str, more: &[&str]) -> ToolRun {
    let path = payload::built(name);
    let arguments = ["--payload", path.to_str().unwrap(), "--cpus", "1"];
    Tool::boot(&[&arguments[..], more].concat()).run()
}

#[test]
fn hello_says_who_it_is_and_turns_itself_off() {
    for (flags, who) in [
        (&["--append", "a=b"][..], "Hello from a protected VM"),
        (&["--append", "a=b", "--unprotected"], "Hello from an ordinary VM"),
    ] {
        let run = boot_built("hello", flags);
        run.expect_status(0);
        assert_eq!(run.text("exit.reason"), "guest-off");
        let console = run.text("console");
        for text in [who, "a=b", "Good night."] {
            assert!(console.contains(text), "{text}: {run}");
        }
        assert_eq!(*run.field("vm.protected"), flags.len() == 2);
        assert_eq!(run.number("teardown.pages_nonzero"), 0);
    }
}

/// In a protected VM the fault's registers are no business of the host's, which reads the console.
#[test]
fn fault_says_why_and_tells_no_register() {
    let run = boot_built("fault", &[]);
    run.expect_status(1);
    let console = run.text("console");
    assert!(console.contains("about to read an address"), "{run}");
    assert!(console.contains("7ffffff000"), "FAR is told: {run}");
    assert!(!console.contains("did not fault"), "{run}");
    assert!(!console.contains("x19"), "a register is told: {run}");
    assert_eq!(run.number("teardown.pages_nonzero"), 0);
}

#[test]
fn hang_outlasts_the_timeout() {
    let run = boot_built("hang", &["--timeout", "10"]);
    run.expect_status(124);
    assert_eq!(run.text("exit.reason"), "timeout");
    assert!(run.text("console").contains("spinning for ever"), "{run}");
}

#[test]
fn files_that_are_no_payload_are_refused_with_what_they_are() {
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let mut x86_elf = vec![0; 64];
    x86_elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    x86_elf[18] = 62;
    for (content, word) in [(&[][..], "empty"), (&gzip, "gzip"), (&x86_elf, "ELF")] {
        let run = boot(content, &[]);
        run.expect_status(2);
        assert!(run.text("error.message").contains(word), "it should say {word}: {run}");
    }
}

#[test]
fn a_file_that_is_missing_is_bad_input() {
    let directory = tempfile::tempdir().unwrap();
    let payload = file(&directory, &payload::hello("never runs"));
    let payload = payload.to_str().unwrap();
    let missing = "/nonexistent/file";
    for arguments in
        [&["--disk", missing][..], &["--payload", missing], &["--payload", payload, "--initrd", missing]]
    {
        let run = Tool::boot(arguments).run();
        run.expect_status(2);
        assert!(run.text("error.message").contains(missing), "{run}");
    }
}
