//! The source tree as data.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the workspace.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package is a directory of the workspace")
}

/// The workspace's packages, each with its dependencies on other packages of the workspace, those for
/// tests only apart.
///
/// # Panics
///
/// If cargo can't tell.
#[must_use]
pub fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{output:?}");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap_or_default().to_owned();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let local = list(&package["dependencies"])
                .iter()
                .filter(|dependency| dependency["path"].is_string() && dependency["kind"] != "dev")
                .map(name)
                .collect();
            (name(package), local)
        })
        .collect()
}

/// All files with one of these extensions under a directory of the workspace, build output apart.
///
/// # Panics
///
/// If a directory can't be read.
#[must_use]
pub fn files(directory: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root().join(directory)];
    while let Some(directory) = pending.pop() {
        let entries = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for entry in entries {
            let path = entry.expect("a directory entry").path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() {
                if name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                    pending.push(path);
                }
            } else if path
                .extension()
                .and_then(OsStr::to_str)
                .is_some_and(|extension| extensions.contains(&extension))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Whether a source file holds tests, or what only tests are built with (the fake machine), only.
#[must_use]
pub fn is_test_file(path: &Path) -> bool {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.components().any(|part| {
        matches!(
            part.as_os_str().to_str(),
            Some("tests" | "tests.rs" | "benches" | "fake" | "fake.rs")
        )
    })
}

/// The lines of a Rust or assembly source that hold code, without those of its test modules.
#[must_use]
pub fn code_lines(source: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut in_block_comment = false;
    for line in source.lines() {
        let code = line.trim();
        // By this project's order of a file, unit tests are what it ends with.
        if code == "#[cfg(test)]" {
            break;
        }
        if in_block_comment {
            in_block_comment = !code.contains("*/");
            continue;
        }
        if code.starts_with("/*") {
            in_block_comment = !code.contains("*/");
        } else if !code.is_empty() && !code.starts_with("//") {
            lines.push(line);
        }
    }
    lines
}
