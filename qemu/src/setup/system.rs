//! Which operating system this is.

use std::fs;

/// An operating system, as far as installing on it differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum System {
    /// Debian, by its release's code name.
    Debian {
        /// Such as `bookworm`.
        codename: String,
    },
    /// Ubuntu, by its release's number.
    Ubuntu {
        /// Such as `24.04`.
        version: String,
    },
    /// Fedora and what is built like it.
    Fedora,
    /// macOS.
    MacOs,
    /// Something else.
    Other,
}

impl System {
    /// The one that the tool runs on.
    pub(super) fn detect() -> Self {
        if cfg!(target_os = "macos") {
            return Self::MacOs;
        }
        fs::read_to_string("/etc/os-release").map_or(Self::Other, |text| Self::parse(&text))
    }

    /// Reads an os-release file.
    pub(super) fn parse(text: &str) -> Self {
        let field = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(|value| value.trim_matches(['"', '\'']).to_owned())
                .unwrap_or_default()
        };
        match field("ID").as_str() {
            "debian" => Self::Debian { codename: field("VERSION_CODENAME") },
            "ubuntu" => Self::Ubuntu { version: field("VERSION_ID") },
            "fedora" => Self::Fedora,
            _ if field("ID_LIKE").split(' ').any(|like| like == "fedora") => Self::Fedora,
            _ => Self::Other,
        }
    }

    /// Whether Debian's own packages are to be had.
    pub(super) fn is_debian(&self) -> bool {
        matches!(self, Self::Debian { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_apart() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n\
                      VERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(System::parse(debian), System::Debian { codename: "bookworm".into() });
        let ubuntu = "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n";
        assert_eq!(System::parse(ubuntu), System::Ubuntu { version: "24.04".into() });
        assert_eq!(System::parse("ID=fedora\n"), System::Fedora);
        assert_eq!(System::parse("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"), System::Fedora);
        assert_eq!(System::parse("ID=arch\n"), System::Other);
        assert_eq!(System::parse(""), System::Other);
    }
}
