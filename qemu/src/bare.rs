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
    /// The features that it is built with, in a directory of their own if there are any.
    pub features: &'static [&'static str],
}

/// The hypervisor.
pub const HYPERVISOR: Binary = Binary { package: "hypervisor", name: "hypervisor", features: &[] };
/// The host.
pub const HOST: Binary = Binary { package: "host", name: "host", features: &[] };
/// The payload that boots by default.
pub const DEMO: Binary = Binary { package: "guest-kernel", name: "demo", features: &[] };

/// The payload that times primitives.
pub const BENCH: Binary = Binary { package: "guest-kernel", name: "bench", features: &[] };

/// Packages with something for bare metal in them, in the order of their checks, and what else cargo is told: the
/// hypervisor is checked as it ships, and with all that it can have.
const CHECKED: [(&str, &[&str]); 5] = [
    ("hypervisor", &[]),
    ("hypervisor", &["--features", "seeded-bugs,trace"]),
    ("host", &[]),
    ("guest-kernel", &[]),
    // The part that the hypervisor and the host use.
    ("bootimg", &["--lib", "--no-default-features"]),
];

impl Binary {
    /// Where its ELF file is once it is built.
    #[must_use]
    pub fn elf(self, root: &Path) -> PathBuf {
        root.join(self.target_directory()).join(BARE_TARGET).join("bare").join(self.name)
    }

    /// Where it is built: what is built with a feature never takes the place of what is shipped.
    fn target_directory(self) -> String {
        std::iter::once(TARGET_DIRECTORY).chain(self.features.iter().copied()).collect::<Vec<_>>().join("-")
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
        match self.features {
            [] => {}
            [feature] => what.push_str(&format!(" with the feature {feature}")),
            features => what.push_str(&format!(" with the features {}", features.join(" and "))),
        }
        command.args(self.features.iter().flat_map(|feature| ["--features", feature]));
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
    for (package, arguments) in CHECKED {
        let mut command = toolchain.cargo("clippy", &root, TARGET_DIRECTORY);
        command.args(["-p", package]).args(arguments).args(["--", "-D", "warnings"]);
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
        None => "took more than half an hour, so the tool stopped it",
    };
    Err(Failure::new(Kind::Build, format!("{what} {end}. Output of cargo:\n{}", output.text.trim_end())))
}
