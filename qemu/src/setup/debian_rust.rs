//! Debian's Rust, which brings the sources of its library along.

use std::path::Path;

use super::apt::Apt;
use super::{Setup, ask, not_prepared};
use crate::failure::Result;
use crate::toolchain::{DEBIAN_LINKER, Toolchain};

/// Compiler, cargo, the library's sources, linker and lints.
const PACKAGES: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "lld-19", "rust-web-clippy"];

/// The oldest minor version of Rust 1 that builds the workspace: its `rust-version`.
const MINOR: u32 = 95;

/// What Debian's Rust on this machine lacks; `None` if it is complete.
pub(super) fn problem() -> Option<String> {
    let rustc = Toolchain::Debian.rustc();
    let rustc = rustc.to_str()?;
    let Some(version) = ask(rustc, &["--version"]) else {
        return Some(format!("{rustc} is missing"));
    };
    if minor(&version).is_none_or(|minor| minor < MINOR) {
        return Some(format!("{rustc} is {}, older than 1.{MINOR}", version.trim()));
    }
    let Some(sysroot) = ask(rustc, &["--print", "sysroot"]) else {
        return Some(format!("{rustc} does not print its sysroot"));
    };
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    if !sources.is_dir() {
        return Some(format!("the library sources at {} are missing", sources.display()));
    }
    for program in ["cargo", "cargo-clippy", DEBIAN_LINKER] {
        let path = Path::new("/usr/bin").join(program);
        if !path.is_file() {
            return Some(format!("{} is missing", path.display()));
        }
    }
    None
}

/// The minor version in `rustc 1.96.0 (..)`.
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

impl Setup {
    /// Sees to it that it is there.
    pub(super) fn debian_rust(&self) -> Result<()> {
        let Some(problem) = problem() else {
            return Ok(());
        };
        let missing = format!("Debian's Rust can't build for bare metal: {problem}");
        if !self.system.is_debian() {
            return Err(not_prepared(
                &format!("{missing}. This system is not Debian: use --toolchain rustup"),
                &[],
            ));
        }
        let commands =
            ["sudo apt-get update".to_owned(), format!("sudo apt-get install {}", PACKAGES.join(" "))];
        let right = self.right(&missing, &commands)?;
        Apt::new(right, None)?.install(&PACKAGES, self.ui)?;
        match self::problem() {
            None => Ok(()),
            Some(problem) => Err(not_prepared(
                &format!(
                    "the tool installed Debian's Rust, but it can't build for bare metal: {problem}. Use --toolchain rustup"
                ),
                &[],
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_rust_are_read() {
        assert_eq!(minor("rustc 1.96.0 (30a34c682 2026-05-25)"), Some(96));
        assert_eq!(minor("rustc 2.0.0"), None);
        assert_eq!(minor(""), None);
    }
}
