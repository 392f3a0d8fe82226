//! Two guests and a host that check registers in turns: the boot, and the lines that they report.

pub mod judge;
pub mod rules;

use std::fs;
use std::path::Path;
use std::str::FromStr;

use bootimg::pack::{Input, pack};
use qemu::bare::{Binary, HYPERVISOR};

use crate::payload::{build, built};
use crate::tool::{Tool, ToolRun};

/// CPUs of the machine.
const CPUS: &str = "2";
/// Memory of each of the two guests.
const HOST_ARGS: &str = "mem_bytes=67108864";
/// The host that gives the guests turns.
const HOST: Binary = Binary { package: "host", name: "registers-host", features: &[] };

/// Boots the hypervisor that ships, two guests with the payload `registers`, and their host.
///
/// # Panics
///
/// If something does not build.
#[must_use]
pub fn boot() -> ToolRun {
    let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let image = pack(&Input {
        hypervisor: &read(&build(HYPERVISOR)),
        host: &read(&build(HOST)),
        payload: Some(&read(&built("registers"))),
        initrd: Some(&rules::plan()),
        host_args: HOST_ARGS,
        ..Input::default()
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("image");
    fs::write(&path, image).expect("a new file");
    let arguments = ["--image", path.to_str().expect("a path of letters"), "--cpus", CPUS];
    Tool::boot_shipped(&arguments, "the test is about the world switch that ships").run()
}

/// A line of `key=value` words on the console.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(&'a str);

impl<'a> Line<'a> {
    /// The console's first line that begins with these words.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn find(console: &'a str, start: &str) -> Self {
        let mut lines = console.lines().filter_map(|line| line.trim_end().strip_prefix(start));
        Self(lines.next().unwrap_or_else(|| panic!("nobody said {start:?}:\n{console}")))
    }

    /// The value of a key, in decimal, or in hexadecimal behind `0x`.
    ///
    /// # Panics
    ///
    /// If there is no such key, or its value is no number.
    #[must_use]
    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        let words = self.0.split_whitespace();
        let mut values = words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let value = values.next().unwrap_or_else(|| panic!("no {key} in {:?}", self.0));
        match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => u64::from_str(value),
        }
        .unwrap_or_else(|error| panic!("{key}={value}: {error}"))
    }
}
