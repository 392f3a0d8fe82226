//! The `bootimg` tool: exit statuses, messages and records.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An arm64 Image of two pages, the second of which is `.bss`.
fn arm64_image() -> Vec<u8> {
    let mut image = vec![0x5a; 4096];
    image[..64].fill(0);
    image[16..24].copy_from_slice(&8192_u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("binary"), arm64_image()).unwrap();
        fs::write(directory.path().join("payload"), b"payload").unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn bootimg(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_bootimg"))
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .unwrap()
    }

    fn pack(&self) -> Output {
        self.bootimg(&[
            "pack",
            "--hypervisor",
            "binary",
            "--host",
            "binary",
            "--payload",
            "payload",
            "--host-args",
            "smp=1",
            "-o",
            "image",
        ])
    }
}

fn record(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn pack_verify_list() {
    let fixture = Fixture::new();
    let packed = fixture.pack();
    assert_eq!(packed.status.code(), Some(0), "{packed:?}");
    assert!(fixture.bootimg(&["verify", "image"]).status.success());

    let listed = fixture.bootimg(&["list", "image", "--json"]);
    assert!(listed.stdout.starts_with(br#"{"schema":"cloister.image-list/1","ok":true,"error":null"#));
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["schema"], "cloister.image-list/1");
    assert_eq!(listed["ok"], true);
    let kinds: Vec<_> = listed["image"]["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["payload", "host-args", "host"]);
    assert_eq!(listed["image"]["parts"][0]["offset"], "0x3000");
    assert_eq!(listed["image"]["parts"][0]["file_bytes"], 7);

    let table = fixture.bootimg(&["list", "image"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("part "), "{table}");
    assert!(table.contains("\nhypervisor "), "{table}");
}

#[test]
fn a_corrupted_image_fails_the_check() {
    let fixture = Fixture::new();
    fixture.pack();
    let mut image = fs::read(fixture.path("image")).unwrap();
    image[0x3003] ^= 1;
    fs::write(fixture.path("image"), &image).unwrap();

    let output = fixture.bootimg(&["verify", "image", "--json", "record"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("the payload is corrupted"), "{message}");
    let record = record(&fixture.path("record"));
    assert_eq!(record["ok"], false);
    assert_eq!(record["error"]["code"], "part-digest");
    assert_eq!(record["image"], serde_json::Value::Null);
}

#[test]
fn bad_input_is_named_and_leaves_nothing_behind() {
    let fixture = Fixture::new();
    for arguments in [
        &["pack", "--hypervisor", "payload", "--host", "binary", "-o", "image"][..],
        &["pack", "--hypervisor", "binary", "--host", "missing", "-o", "image"],
        &["pack", "--hypervisor", "binary", "--host", "binary", "--measurement", "12", "-o", "image"],
        &["verify", "missing"],
        &["verify", "payload"],
        &["list", "payload"],
        &["list"],
    ] {
        let output = fixture.bootimg(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    let mut names: Vec<_> =
        fs::read_dir(fixture.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["binary", "payload"]);
}
