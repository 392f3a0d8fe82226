//! The source tree as data.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the workspace.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is a directory of the workspace")
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
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{output:?}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
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
        let entries =
            fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
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

/// Whether a source file holds tests, or what is built only with a feature that nothing shipped has:
/// the oracle, what it sees of the core, seeded bugs. Its name says so, or the line that declares its module, or
/// that of a module around it.
#[must_use]
pub fn is_test_file(path: &Path) -> bool {
    let relative = path.strip_prefix(root()).unwrap_or(path);
    let named = relative
        .components()
        .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "benches")));
    named || is_declared_apart(path)
}

/// Whether the module in this file, or one around it, is declared to be no part of what is shipped.
fn is_declared_apart(path: &Path) -> bool {
    let (Some(directory), Some(name)) = (path.parent(), path.file_stem().and_then(OsStr::to_str)) else {
        return false;
    };
    let declaration = format!("mod {name};");
    let around = [directory.with_extension("rs"), directory.join("lib.rs"), directory.join("main.rs")];
    around
        .iter()
        .filter(|file| *file != path)
        .filter_map(|file| Some((file, fs::read_to_string(file).ok()?)))
        .any(|(file, text)| {
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            let Some(declared) = lines.iter().position(|line| line.ends_with(&declaration)) else {
                return false;
            };
            let apart = lines[..declared]
                .iter()
                .rev()
                .take_while(|line| line.starts_with("#["))
                .any(|line| is_apart(line));
            apart || is_declared_apart(file)
        })
}

/// The features that nothing shipped has.
const UNSHIPPED: [&str; 4] = ["\"verify\"", "\"oracle\"", "\"seeded-bugs\"", "\"trace\""];

/// Whether an attribute keeps an item out of what is shipped: tests, and what needs such a feature.
fn is_apart(line: &str) -> bool {
    line.starts_with("#[cfg(")
        && !line.contains("not(")
        && (line.contains("test") || UNSHIPPED.iter().any(|feature| line.contains(feature)))
}

/// The lines of a Rust or assembly source that hold code, without those that are built only for tests
/// or with a feature. The source is formatted: an item ends with its line, or with the first line that
/// starts where it starts and closes it.
#[must_use]
pub fn code_lines(source: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut in_block_comment = false;
    let mut source = source.lines();
    while let Some(line) = source.next() {
        let code = line.trim();
        if is_apart(code) {
            skip_item(&mut source);
            continue;
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

/// Skips the item that an attribute stands before.
fn skip_item<'a>(source: &mut impl Iterator<Item = &'a str>) {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut start = None;
    let mut has_block = false;
    for line in source {
        let code = line.trim();
        if start.is_none() && (code.starts_with("#[") || code.starts_with("//")) {
            continue;
        }
        let start = *start.get_or_insert(indent(line));
        has_block |= code.ends_with('{');
        let closed = code.ends_with([';', ',', '}']) && indent(line) == start;
        if closed || (!has_block && code.ends_with(';')) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shipped_does_not_count() {
        let source = "\
//! A file.
#[cfg(test)]
mod saved;

fn one() {
    #[cfg(feature = \"oracle\")]
    let _looks =
        look();
    two();
}

impl Three {
    /// Four.
    #[cfg(test)]
    #[must_use]
    fn four(&self) -> bool {
        true
    }
    #[cfg(not(test))]
    fn five(&self) {}
}
#[cfg(test)]
mod tests {
    fn six() {}
}
";
        let lines: Vec<&str> = code_lines(source).iter().map(|line| line.trim()).collect();
        let expected =
            ["fn one() {", "two();", "}", "impl Three {", "#[cfg(not(test))]", "fn five(&self) {}", "}"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_is_built_with_a_feature_is_apart() {
        let core = root().join("hypervisor/core/src");
        for file in ["verify.rs", "verify/vms.rs", "records/tests.rs"] {
            assert!(is_test_file(&core.join(file)), "{file}");
        }
        for file in ["lib.rs", "records.rs", "stage2/table.rs", "psci/host.rs"] {
            assert!(!is_test_file(&core.join(file)), "{file}");
        }
        let binary = root().join("hypervisor/src");
        for file in ["oracle.rs", "machine/trace.rs", "arch/controls/tests.rs"] {
            assert!(is_test_file(&binary.join(file)), "{file}");
        }
        for file in ["main.rs", "machine/el2.rs", "cpu/vectors.rs"] {
            assert!(!is_test_file(&binary.join(file)), "{file}");
        }
    }
}
