//! The Rust that builds for bare metal, and how a cargo inside cargo is called.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use crate::workspace::BARE_TARGET;

/// The variable that forces a toolchain.
pub const VARIABLE: &str = "CLOISTER_TOOLCHAIN";

/// Where Debian's packages put their Rust.
const DEBIAN_BIN: &str = "/usr/bin";
/// The linker that goes with it: Debian's rustc brings none along.
pub const DEBIAN_LINKER: &str = "ld.lld-19";

/// A Rust that can build for the bare-metal target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Toolchain {
    /// The one that runs this tool, with the target's library installed beside it
    Rustup,
    /// Debian's packages, which build the target's library from source
    Debian,
}

/// Variables of the outer cargo's and of the user's that would change what the inner one builds:
/// whole names, and beginnings of names.
const REMOVED: [&str; 9] = [
    "CARGO",
    "CARGO_ENCODED_RUSTFLAGS",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];
const REMOVED_PREFIXES: [&str; 5] =
    ["CARGO_BUILD_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PROFILE_", "CARGO_TARGET_"];

fn is_removed(name: &str) -> bool {
    REMOVED.contains(&name) || REMOVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

impl Toolchain {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }

    /// The directory of its programs, if that is known: for rustup, where the outer cargo is.
    fn directory(self, outer_cargo: Option<&Path>) -> Option<PathBuf> {
        match self {
            Self::Debian => Some(DEBIAN_BIN.into()),
            Self::Rustup => outer_cargo?
                .parent()
                .filter(|directory| directory.join("rustc").is_file())
                .map(Path::to_owned),
        }
    }

    /// Its rustc.
    #[must_use]
    pub fn rustc(self) -> PathBuf {
        let directory = self.directory(std::env::var_os("CARGO").as_ref().map(Path::new));
        directory.map_or_else(|| "rustc".into(), |directory| directory.join("rustc"))
    }

    /// A call of its cargo for the bare-metal target: `cargo VERB`, with the profile of the bare-metal
    /// binaries, in the workspace at `root`; it builds in `target_directory` there.
    #[must_use]
    pub fn cargo(self, verb: &str, root: &Path, target_directory: &str) -> Command {
        let directory = self.directory(std::env::var_os("CARGO").as_ref().map(Path::new));
        let program = |name: &str| {
            let path = directory.as_ref().map(|directory| directory.join(name));
            path.unwrap_or_else(|| name.into())
        };
        let mut command = Command::new(program("cargo"));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_removed) {
                command.env_remove(name);
            }
        }
        if let Some(directory) = &directory {
            // `cargo clippy` looks for its driver there, and rustup's proxies must not come first.
            let path = std::env::var_os("PATH").unwrap_or_default();
            let paths = std::iter::once(directory.clone()).chain(std::env::split_paths(&path));
            if let Ok(path) = std::env::join_paths(paths) {
                command.env("PATH", path);
            }
            command.env("RUSTC", program("rustc"));
        }
        command
            .current_dir(root)
            .arg(verb)
            .args(self.arguments())
            .args(["--target-dir", target_directory])
            .envs(self.variables());
        command
    }

    /// Arguments of every call.
    fn arguments(self) -> Vec<&'static str> {
        let mut arguments = vec!["--locked", "--target", BARE_TARGET, "--profile", "bare"];
        if self == Self::Debian {
            arguments.extend([
                "-Zbuild-std=core,alloc,compiler_builtins",
                "-Zbuild-std-features=compiler-builtins-mem",
            ]);
        }
        arguments
    }

    /// Variables of every call.
    fn variables(self) -> Vec<(&'static str, OsString)> {
        // `core` is built with a few lints of the future that are not ours to heed.
        let mut variables = vec![("CARGO_FUTURE_INCOMPAT_REPORT_FREQUENCY", OsString::from("never"))];
        if self == Self::Debian {
            // Lets a stable cargo take `-Z`.
            variables.push(("RUSTC_BOOTSTRAP", "1".into()));
            variables.push(("CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_LINKER", DEBIAN_LINKER.into()));
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(command: &Command, name: &str) -> Option<OsString> {
        command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value.map(ToOwned::to_owned))
    }

    #[test]
    fn debians_cargo_builds_the_library_itself() {
        let command = Toolchain::Debian.cargo("build", Path::new("/w"), "target/bare");
        assert_eq!(command.get_program(), "/usr/bin/cargo");
        assert_eq!(command.get_current_dir(), Some(Path::new("/w")));
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments[0], "build");
        for wanted in ["--locked", "target/bare", "bare", BARE_TARGET] {
            assert!(arguments.iter().any(|argument| *argument == wanted));
        }
        assert!(arguments.iter().any(|a| { a.to_str().is_some_and(|a| a.starts_with("-Zbuild-std=core")) }));
        assert_eq!(environment(&command, "RUSTC"), Some("/usr/bin/rustc".into()));
        assert_eq!(environment(&command, "RUSTC_BOOTSTRAP"), Some("1".into()));
    }

    #[test]
    fn rustups_cargo_uses_the_installed_library() {
        let command = Toolchain::Rustup.cargo("build", Path::new("/w"), "target/bare");
        assert!(command.get_args().all(|argument| argument.to_str().is_some_and(|a| !a.starts_with("-Z"))));
        assert_eq!(environment(&command, "RUSTC_BOOTSTRAP"), None);
    }

    #[test]
    fn what_would_change_the_build_is_removed() {
        for name in
            ["RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "CARGO_PKG_NAME", "RUSTUP_TOOLCHAIN"]
        {
            assert!(is_removed(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "PATH", "HOME"] {
            assert!(!is_removed(name), "{name}");
        }
    }
}
