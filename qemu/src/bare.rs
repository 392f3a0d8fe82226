//! Builds and checks the bare-metal binaries.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::{Failure, Kind, Result};
use crate::process;
use crate::toolchain::Toolchain;
use crate::ui::Ui;
use crate::workspace::{self, BARE_TARGET};

/// The longest that one call of cargo may take: a first build on a slow machine, waiting for another.
const LIMIT: Duration = Duration::from_secs(1800);

/// Where bare-metal binaries are built.
const TARGET_DIRECTORY: &str = "target/bare";

/// A bare-metal binary of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Its package.
    pub package: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The feature that it is built with, if any, in a directory of its own.
    pub feature: Option<&'static str>,
}

/// The hypervisor.
pub const HYPERVISOR: Binary = Binary { package: "hypervisor", name: "hypervisor", feature: None };
/// The hypervisor that checks itself after each call.
pub const HYPERVISOR_WITH_ORACLE: Binary = Binary { feature: Some("oracle"), ..HYPERVISOR };
/// The hypervisor with bugs to switch on, which checks itself as well.
pub const HYPERVISOR_WITH_BUGS: Binary = Binary { feature: Some("seeded-bugs"), ..HYPERVISOR };
/// The host.
pub const HOST: Binary = Binary { package: "host", name: "host", feature: None };
/// The payload that boots by default.
pub const DEMO: Binary = Binary { package: "guest-kernel", name: "demo", feature: None };

/// The payload that times primitives.
pub const BENCH: Binary = Binary { package: "guest-kernel", name: "bench", feature: None };

/// Packages with something for bare metal in them, in the order of their checks.
const CHECKED: [&str; 4] = ["hypervisor", "host", "guest-kernel", "bootimg"];

impl Binary {
    /// Where its ELF file is once it is built.
    #[must_use]
    pub fn elf(self, root: &Path) -> PathBuf {
        root.join(self.target_directory()).join(BARE_TARGET).join("bare").join(self.name)
    }

    /// Where it is built: what is built with a feature never takes the place of what is shipped.
    fn target_directory(self) -> String {
        match self.feature {
            None => TARGET_DIRECTORY.to_owned(),
            Some(feature) => format!("{TARGET_DIRECTORY}-{feature}"),
        }
    }

    /// Builds it and reads its ELF file.
    ///
    /// # Errors
    ///
    /// A build failure comes with all that cargo said.
    pub fn build(self, toolchain: Toolchain, ui: Ui) -> Result<Vec<u8>> {
        let root = workspace::root()?;
        let mut command = toolchain.cargo("build", &root, &self.target_directory());
        // By itself: the features of one binary must not reach another.
        command.args(["-p", self.package, "--bin", self.name]);
        let mut what = if self.name == self.package {
            format!("building the {}", self.name)
        } else {
            format!("building {} of {}", self.name, self.package)
        };
        if let Some(feature) = self.feature {
            command.args(["--features", feature]);
            what.push_str(&format!(" with its feature {feature}"));
        }
        cargo(&mut command, &what, ui)?;
        let elf = self.elf(&root);
        fs::read(&elf).map_err(|error| Failure::system(elf.display(), error))
    }
}

/// Runs clippy with warnings denied over all that is built for bare metal.
///
/// # Errors
///
/// What cargo said when it found something.
pub fn check(toolchain: Toolchain, ui: Ui) -> Result<()> {
    let root = workspace::root()?;
    let mut found = Vec::new();
    for package in CHECKED {
        let mut command = toolchain.cargo("clippy", &root, TARGET_DIRECTORY);
        command.args(["-p", package]);
        if package == "bootimg" {
            // What the hypervisor and the host use of it.
            command.args(["--lib", "--no-default-features"]);
        }
        command.args(["--", "-D", "warnings"]);
        let what = format!("checking {package} for bare metal");
        match cargo(&mut command, &what, ui) {
            // The others are worth a look all the same.
            Err(failure) if failure.kind == Kind::Build => found.push(failure.message),
            result => result?,
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Kind::Build, found.join("\n\n")))
}

fn cargo(command: &mut std::process::Command, what: &str, ui: Ui) -> Result<()> {
    let step = ui.step(what);
    let output =
        process::run(command, LIMIT, |line| step.detail(line)).map_err(|failure| match failure.kind {
            Kind::System => Failure::new(Kind::Build, failure.message),
            _ => failure,
        })?;
    if output.success() {
        step.done();
        return Ok(());
    }
    drop(step);
    let end = match output.status {
        Some(_) => "failed",
        None => "took more than half an hour and was stopped",
    };
    Err(Failure::new(Kind::Build, format!("{what} {end}; cargo said:\n{}", output.text.trim_end())))
}
