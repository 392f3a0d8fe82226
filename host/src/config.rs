//! What the host is told to run: one line of `key=value` words, packed into the boot image.

use core::fmt;
use core::str::FromStr;

use shared_abi::addr::PAGE_SIZE;

use crate::machine::{MAX_VCPUS, VirtioKind};

/// What the host does with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// The guest has one.
    ReadWrite,
    /// The guest has one and can't write it.
    ReadOnly,
    /// The guest has none.
    None,
}

/// Whose the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestKind {
    /// The demo: it gets a virtio console beside its disk.
    Demo,
    /// Anybody's: it gets the devices that were asked for.
    Foreign,
    /// The benchmark: it gets a virtio console, and the host keeps count beside it.
    Bench,
}

/// The host's configuration. [`fmt::Display`] writes the line that [`FromStr`] reads.
///
/// ```
/// use host::config::HostConfig;
/// let config: HostConfig = "smp=2 disk=none kind=foreign".parse()?;
/// assert_eq!(config.vcpus, 2);
/// assert_eq!(config.to_string().parse(), Ok(config));
/// # Ok::<(), host::config::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// vCPUs of the guest, 1 to [`MAX_VCPUS`] (`smp`).
    pub vcpus: u32,
    /// Memory of the guest in bytes, whole pages (`mem_bytes`).
    pub memory_bytes: u64,
    /// Whether the guest's memory is private by default (`protected`).
    pub protected: bool,
    /// Whether the host attacks a private page while the guest runs (`attack`).
    pub attack: bool,
    /// The guest's disk (`disk`: `rw`, `ro` or `none`).
    pub disk: Disk,
    /// Whose the payload is (`kind`: `demo`, `foreign` or `bench`).
    pub kind: GuestKind,
}

impl Default for HostConfig {
    /// One vCPU, 128 MiB, protected, not attacked, no disk, anybody's payload.
    fn default() -> Self {
        Self {
            vcpus: 1,
            memory_bytes: 128 << 20,
            protected: true,
            attack: false,
            disk: Disk::None,
            kind: GuestKind::Foreign,
        }
    }
}

impl HostConfig {
    /// The virtio devices that this guest gets, in the order of their addresses.
    pub fn virtio_devices(&self) -> impl Iterator<Item = VirtioKind> {
        let console = (self.kind != GuestKind::Foreign).then_some(VirtioKind::Console);
        let block = (self.disk != Disk::None).then_some(VirtioKind::Block);
        console.into_iter().chain(block)
    }
}

/// Why a line is no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A word is not `key=value`.
    #[error("host arguments: a word has no '='")]
    NotKeyValue,
    /// A key is none of ours.
    #[error("host arguments: unknown key")]
    UnknownKey,
    /// A value is not one that its key takes.
    #[error("host arguments: bad value for {0}")]
    BadValue(&'static str),
}

impl FromStr for HostConfig {
    type Err = ConfigError;

    /// Reads a line; a key that is missing has its default, the last of two equal keys counts.
    fn from_str(line: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for word in line.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or(ConfigError::NotKeyValue)?;
            match key {
                "smp" => config.vcpus = number(value, "smp", |n| (1..=MAX_VCPUS).contains(&n))?,
                "mem_bytes" => {
                    config.memory_bytes =
                        number(value, "mem_bytes", |n: u64| n != 0 && n.is_multiple_of(PAGE_SIZE))?;
                }
                "protected" => config.protected = number(value, "protected", |_| true)?,
                "attack" => config.attack = number(value, "attack", |_| true)?,
                "disk" => {
                    config.disk = choice(
                        value,
                        "disk",
                        &[("rw", Disk::ReadWrite), ("ro", Disk::ReadOnly), ("none", Disk::None)],
                    )?;
                }
                "kind" => {
                    config.kind = choice(
                        value,
                        "kind",
                        &[
                            ("demo", GuestKind::Demo),
                            ("foreign", GuestKind::Foreign),
                            ("bench", GuestKind::Bench),
                        ],
                    )?;
                }
                _ => return Err(ConfigError::UnknownKey),
            }
        }
        Ok(config)
    }
}

fn number<T: FromStr + Copy>(
    value: &str,
    key: &'static str,
    fits: impl Fn(T) -> bool,
) -> Result<T, ConfigError> {
    value.parse().ok().filter(|value| fits(*value)).ok_or(ConfigError::BadValue(key))
}

fn choice<T: Copy>(value: &str, key: &'static str, of: &[(&str, T)]) -> Result<T, ConfigError> {
    of.iter().find_map(|(name, choice)| (*name == value).then_some(*choice)).ok_or(ConfigError::BadValue(key))
}

impl fmt::Display for HostConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = match self.disk {
            Disk::ReadWrite => "rw",
            Disk::ReadOnly => "ro",
            Disk::None => "none",
        };
        let kind = match self.kind {
            GuestKind::Demo => "demo",
            GuestKind::Foreign => "foreign",
            GuestKind::Bench => "bench",
        };
        write!(
            f,
            "smp={} mem_bytes={} protected={} attack={} disk={disk} kind={kind}",
            self.vcpus, self.memory_bytes, self.protected, self.attack
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_round_trips() {
        let config = HostConfig {
            vcpus: 4,
            memory_bytes: 64 << 20,
            protected: false,
            attack: true,
            disk: Disk::ReadOnly,
            kind: GuestKind::Demo,
        };
        assert_eq!(config.to_string().parse(), Ok(config));
        assert_eq!("".parse(), Ok(HostConfig::default()));
        assert_eq!(" \n".parse(), Ok(HostConfig::default()));
    }

    #[test]
    fn bad_lines_are_refused_by_key() {
        let parse = |line: &str| line.parse::<HostConfig>();
        assert_eq!(parse("smp"), Err(ConfigError::NotKeyValue));
        assert_eq!(parse("cpus=1"), Err(ConfigError::UnknownKey));
        for (line, key) in [
            ("smp=0", "smp"),
            ("smp=9", "smp"),
            ("mem_bytes=4097", "mem_bytes"),
            ("mem_bytes=0", "mem_bytes"),
            ("protected=1", "protected"),
            ("disk=maybe", "disk"),
            ("kind=", "kind"),
        ] {
            assert_eq!(parse(line), Err(ConfigError::BadValue(key)), "{line}");
        }
    }

    #[test]
    fn devices_follow_from_kind_and_disk() {
        let devices = |line: &str| -> Vec<_> {
            let config: HostConfig = line.parse().unwrap();
            config.virtio_devices().collect()
        };
        assert_eq!(devices("kind=demo disk=rw"), [VirtioKind::Console, VirtioKind::Block]);
        assert_eq!(devices("kind=foreign disk=ro"), [VirtioKind::Block]);
        assert_eq!(devices("kind=foreign disk=none"), []);
        assert_eq!(devices("kind=bench"), [VirtioKind::Console]);
    }
}
