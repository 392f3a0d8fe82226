//! Debian's package manager, without touching the machine's own lists of sources.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::right::Right;
use super::said;
use crate::failure::{Failure, Kind, Result};
use crate::process;
use crate::ui::Ui;

/// How long another package manager may keep its lock, in seconds.
const LOCK_SECONDS: u32 = 120;
/// The longest that a download and an installation may take.
const LIMIT: Duration = Duration::from_secs(1200);
/// The key that they are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with package lists of its own, which go when it does.
pub(super) struct Apt {
    right: Right,
    directory: TempDir,
    release: Option<String>,
}

impl Apt {
    /// apt with the machine's sources, and with `release` (such as `bookworm-backports`) beside them
    /// and preferred, if one is named.
    pub(super) fn new(right: Right, release: Option<&str>) -> Result<Self> {
        let problem = |error| Failure::system("can't make a directory for package lists", error);
        let directory = TempDir::with_prefix("cloister-apt-").map_err(problem)?;
        let apt = Self { right, directory, release: release.map(str::to_owned) };
        fs::create_dir_all(apt.directory.path().join("lists/partial")).map_err(problem)?;
        let mut sources = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
        if let Some(release) = release {
            let uri = mirror().ok_or_else(|| {
                Failure::system("can't use the machine's package sources", "they name no Debian mirror")
            })?;
            sources.push_str(&format!("\ndeb [signed-by={KEYRING}] {uri} {release} main\n"));
        }
        fs::write(apt.directory.path().join("sources.list"), sources).map_err(problem)?;
        Ok(apt)
    }

    /// Downloads the lists and installs packages.
    pub(super) fn install(&self, packages: &[&str], ui: Ui) -> Result<()> {
        self.get(&["update"], "reading Debian's package lists", ui)?;
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        if let Some(release) = &self.release {
            arguments.extend(["-t", release]);
        }
        arguments.extend(packages);
        let names: Vec<&str> = packages.iter().copied().filter(|name| !name.ends_with('-')).collect();
        self.get(&arguments, &format!("installing {}", names.join(", ")), ui)
    }

    fn get(&self, arguments: &[&str], what: &str, ui: Ui) -> Result<()> {
        let step = ui.step(what);
        let mut command = self.right.command("apt-get");
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        let directory = self.directory.path();
        for option in [
            option("Dir::Etc::SourceList", &directory.join("sources.list")),
            option("Dir::State::Lists", &directory.join("lists")),
            // The machine's caches are made from its own lists.
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            format!("DPkg::Lock::Timeout={LOCK_SECONDS}"),
        ] {
            command.args(["-o", &option]);
        }
        command.args(arguments);
        let output = process::run(&mut command, LIMIT, |line| step.detail(line))?;
        if output.success() {
            step.done();
            return Ok(());
        }
        drop(step);
        let reason = said(&output);
        let hint = if reason.contains("Could not get lock") || reason.contains("is held by") {
            format!(
                "\nAnother package manager has held its lock for {LOCK_SECONDS} s: \
                 try again when it is done."
            )
        } else {
            String::new()
        };
        Err(Failure::new(Kind::NotPrepared, format!("{what} failed. Output of apt-get:\n{reason}{hint}")))
    }
}

impl Drop for Apt {
    fn drop(&mut self) {
        // What apt wrote as root through sudo, `TempDir` can't remove. Failing leaves a temporary
        // directory behind, which is all that can be lost.
        if self.right == Right::Sudo {
            let mut command = self.right.command("rm");
            command.args(["-rf", "--"]).arg(self.directory.path());
            let _ = process::run(&mut command, Duration::from_secs(60), |_| ());
        }
    }
}

/// The text of all the machine's sources.
fn machine_sources() -> String {
    let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") else {
        return text;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let known = path.extension().is_some_and(|extension| extension == "sources" || extension == "list");
        if known {
            text.push('\n');
            text.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
    text
}

/// The mirror of Debian that this machine uses, if its sources name one.
pub(super) fn mirror() -> Option<String> {
    debian_uri(&machine_sources())
}

/// The mirror of Debian that sources name, in either of apt's two formats.
fn debian_uri(sources: &str) -> Option<String> {
    sources
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .flat_map(|line| line.split_whitespace())
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.contains("://") && word.ends_with("/debian"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_comes_from_the_machines_sources() {
        let deb822 = "Types: deb\n# http://archive.example/debian/1\n\
                      URIs: http://mirror.example/debian/\nSuites: bookworm\n";
        assert_eq!(debian_uri(deb822).as_deref(), Some("http://mirror.example/debian"));
        let lines = "deb http://security.example/debian-security bookworm-security main\n\
                     deb [arch=amd64] https://mirror.example/debian bookworm main\n";
        assert_eq!(debian_uri(lines).as_deref(), Some("https://mirror.example/debian"));
        assert_eq!(debian_uri("# nothing\n"), None);
    }
}
