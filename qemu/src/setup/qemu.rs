//! QEMU: found, judged by its version, or installed.

use std::fmt;

use super::apt::{self, Apt};
use super::system::System;
use super::{Setup, ask, not_prepared};
use crate::failure::Result;

/// The program.
pub const PROGRAM: &str = "qemu-system-aarch64";

/// The oldest version that boots Cloister: a second PL011 for the non-secure world (9.1) and the
/// SMMUv3's stage 2 (8.1), as tried with 10.0.
const WANTED: Version = Version { major: 10, minor: 0 };

/// Debian's package, and beside it what keeps the network boot ROMs out.
const PACKAGES: [&str; 2] = ["qemu-system-arm", "ipxe-qemu-"];

/// A version of QEMU, as far as it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A QEMU that boots Cloister.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    /// Its version as it says it, such as `10.0.2`.
    pub version: String,
}

/// What was found under the program's name.
enum Found {
    Good(Qemu),
    Old(String),
    Strange(String),
    Nothing,
}

impl Setup {
    /// The machine's QEMU; installed, if it is missing or old and that can be done.
    pub(super) fn qemu(&self) -> Result<Qemu> {
        let missing = match find() {
            Found::Good(qemu) => return Ok(qemu),
            Found::Old(version) => {
                format!("QEMU {version} is too old: Cloister needs {WANTED} or newer")
            }
            Found::Strange(line) => format!(
                "{PROGRAM} does not print its version (but {line:?}): Cloister needs QEMU {WANTED} or newer"
            ),
            Found::Nothing => {
                format!("{PROGRAM} is not in PATH: Cloister needs QEMU {WANTED} or newer")
            }
        };
        let commands = commands(&self.system);
        let release = match &self.system {
            System::Debian { codename } if codename == "bookworm" => Some("bookworm-backports"),
            System::Debian { .. } => None,
            // Their packages are as old as the release is, so nothing is installed in the hope of it.
            System::Ubuntu { .. } | System::Fedora | System::MacOs | System::Other => {
                return Err(not_prepared(&missing, &commands));
            }
        };
        let right = self.right(&missing, &commands)?;
        self.ui.note(&missing);
        Apt::new(right, release)?.install(&PACKAGES, self.ui)?;
        match find() {
            Found::Good(qemu) => Ok(qemu),
            Found::Old(version) => Err(not_prepared(
                &format!(
                    "the tool installed QEMU, but the first {PROGRAM} in PATH is {version}: put {WANTED} or \
                     newer first"
                ),
                &[],
            )),
            Found::Strange(_) | Found::Nothing => Err(not_prepared(&missing, &commands)),
        }
    }
}

fn find() -> Found {
    match ask(PROGRAM, &["--version"]) {
        None => Found::Nothing,
        Some(text) => judge(text.lines().next().unwrap_or_default()),
    }
}

/// Reads the first line of `--version`: `QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)`.
fn judge(line: &str) -> Found {
    let Some(text) = line.split_once(" version ").and_then(|(_, rest)| rest.split([' ', '(']).next()) else {
        return Found::Strange(line.to_owned());
    };
    let mut numbers = text.split('.').map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Found::Strange(line.to_owned());
    };
    if (Version { major, minor }) < WANTED {
        Found::Old(text.to_owned())
    } else {
        Found::Good(Qemu { version: text.to_owned() })
    }
}

/// The commands by which a user of that system gets a QEMU that is new enough.
fn commands(system: &System) -> Vec<String> {
    let mirror = apt::mirror().unwrap_or_else(|| "YOUR-DEBIAN-MIRROR".into());
    let backports = format!(
        "echo 'deb {mirror} bookworm-backports main' | sudo tee /etc/apt/sources.list.d/backports.list"
    );
    let lines: &[&str] = match system {
        System::Debian { codename } if codename == "bookworm" => &[
            backports.as_str(),
            "sudo apt-get update",
            "sudo apt-get install -t bookworm-backports qemu-system-arm",
        ],
        System::Debian { .. } => &["sudo apt-get update", "sudo apt-get install qemu-system-arm"],
        System::Ubuntu { version } if version.as_str() >= "25.10" => {
            &["sudo apt-get update", "sudo apt-get install qemu-system-arm"]
        }
        System::Ubuntu { .. } => &[
            "sudo apt-get update",
            "sudo apt-get install build-essential ninja-build pkg-config python3-venv libglib2.0-dev flex bison wget xz-utils",
            "wget https://download.qemu.org/qemu-10.0.2.tar.xz && tar xf qemu-10.0.2.tar.xz",
            "cd qemu-10.0.2 && ./configure --target-list=aarch64-softmmu && make -j\"$(nproc)\" && sudo make install",
        ],
        System::Fedora => &["sudo dnf install qemu-system-aarch64-core"],
        System::MacOs => &["brew install qemu"],
        System::Other => &[],
    };
    lines.iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged() {
        let good = |line| matches!(judge(line), Found::Good(_));
        assert!(good("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"));
        assert!(good("QEMU emulator version 11.1.0"));
        assert!(good("QEMU emulator version 10.1.0-rc2"));
        assert!(matches!(
            judge("QEMU emulator version 7.2.11 (Debian 1:7.2)"),
            Found::Old(version) if version == "7.2.11"
        ));
        assert!(matches!(judge("QEMU emulator version 9.2.4"), Found::Old(_)));
        assert!(matches!(judge("hello"), Found::Strange(_)));
        assert!(matches!(judge("QEMU version ten"), Found::Strange(_)));
    }

    #[test]
    fn every_known_system_has_its_commands() {
        let first = |system: &System| commands(system).first().cloned().unwrap_or_default();
        assert!(first(&System::MacOs).contains("brew"));
        assert!(first(&System::Fedora).contains("dnf"));
        let ubuntu = |version: &str| commands(&System::Ubuntu { version: version.into() });
        assert!(ubuntu("24.04").iter().any(|line| line.contains("configure")));
        assert!(!ubuntu("26.04").iter().any(|line| line.contains("configure")));
        let bookworm = System::Debian { codename: "bookworm".into() };
        assert!(first(&bookworm).contains("backports"));
    }
}
