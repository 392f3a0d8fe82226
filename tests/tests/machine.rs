//! How the tool drives QEMU, and what becomes of an image that is damaged on its way.

use std::fs;
use std::time::Duration;

use tests::payload;
use tests::tool::{Tool, ToolRun, ends_within};
use tests::wrapper::Wrapper;

/// A payload and a line in it that can be found again in the image.
const MARKER: &str = "CloisterMarker";

fn payload_with_marker() -> Vec<u8> {
    let mut bytes = payload::hello("hello");
    bytes.extend(MARKER.bytes());
    bytes.resize(bytes.len() + 64, 0x20);
    bytes
}

/// Boots a small payload in this QEMU.
fn boot_in(qemu: &Wrapper) -> ToolRun {
    let path = qemu.directory().join("payload");
    fs::write(&path, payload_with_marker()).unwrap();
    let payload = path.to_str().unwrap();
    Tool::boot(&["--payload", payload, "--cpus", "2", "--timeout", "60"]).with(qemu).run()
}

#[test]
fn the_machine_has_what_it_needs_and_nothing_else() {
    let qemu = Wrapper::new();
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk.img");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let disk = disk.to_str().unwrap();
    let run = Tool::boot(&["--cpus", "2", "--disk", disk]).with(&qemu).run();
    run.expect_status(0);

    let arguments = qemu.arguments();
    let values = |option: &str| -> Vec<&str> {
        arguments.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].as_str()).collect()
    };
    let has = |option: &str| arguments.iter().any(|argument| argument == option);

    assert!(has("-nodefaults"), "{arguments:?}");
    let machine = [values("-M"), values("-machine")].concat().join(",");
    for property in ["virt", "virtualization=on", "gic-version=3", "iommu=smmuv3", "its=off"] {
        assert!(machine.split(',').any(|word| word == property), "{property}: {arguments:?}");
    }
    assert_eq!(values("-serial").len(), 2, "{arguments:?}");

    let devices: Vec<&str> =
        values("-device").into_iter().filter(|device| device.starts_with("virtio-")).collect();
    assert!(devices.len() >= 2, "a disk and a console: {arguments:?}");
    for device in devices {
        for property in ["iommu_platform=on", "disable-legacy=on"] {
            assert!(device.split(',').any(|word| word == property), "{device} without {property}");
        }
        let kind = device.split(',').next().unwrap_or_default();
        assert!(!kind.ends_with("-device"), "{kind} is a virtio-mmio device, which no SMMU confines");
    }
    for forbidden in ["semihosting", "-fw_cfg", "-pflash", "-bios", "-net", "-netdev"] {
        assert!(!arguments.iter().any(|argument| argument.contains(forbidden)), "{forbidden}: {arguments:?}");
    }
}

#[test]
fn a_corrupted_payload_is_refused_by_the_hypervisor() {
    let run = boot_in(&Wrapper::that_corrupts_after(MARKER));
    run.expect_status(1);
    assert_eq!(run.text("exit.reason"), "refused");
    let message = run.text("error.message");
    assert!(message.contains("payload is corrupted"), "{run}");
    assert!(run.field("vm").is_null(), "nothing was started: {run}");
}

#[test]
fn a_truncated_image_is_refused_by_the_hypervisor() {
    // Beyond the hypervisor and the payload, in the room below the host.
    let run = boot_in(&Wrapper::that_truncates_to((2 << 20) - 4096));
    run.expect_status(1);
    assert_eq!(run.text("exit.reason"), "refused");
}

/// A run that was interrupted leaves no QEMU behind.
#[track_caller]
fn no_orphan_after(signal: &str) {
    let qemu = Wrapper::new();
    let path = qemu.directory().join("payload");
    fs::write(&path, payload::hang("hanging")).unwrap();
    let arguments = ["--payload", path.to_str().unwrap(), "--cpus", "1"];
    let running = Tool::boot(&arguments).with(&qemu).start();
    let process = qemu.process(Duration::from_secs(500));
    std::thread::sleep(Duration::from_millis(500));
    running.signal(signal);
    let run = running.finish();
    assert_ne!(run.status, Some(0), "{run}");
    assert!(ends_within(process, Duration::from_secs(10)), "QEMU survived SIG{signal}");
}

#[test]
fn no_qemu_survives_ctrl_c() {
    no_orphan_after("INT");
}

#[test]
fn no_qemu_survives_termination() {
    no_orphan_after("TERM");
}

#[test]
#[cfg(target_os = "linux")]
fn no_qemu_survives_the_tools_sudden_death() {
    no_orphan_after("KILL");
}
