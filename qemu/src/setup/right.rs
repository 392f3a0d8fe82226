//! Whether packages may be installed without asking anybody.

use std::process::Command;

use super::ask;

/// A way to run a program as root that never prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// This is root.
    Root,
    /// `sudo -n` works.
    Sudo,
}

impl Right {
    /// The way that works here, if any does.
    pub(super) fn find() -> Option<Self> {
        if ask("id", &["-u"]).is_some_and(|text| text.trim() == "0") {
            return Some(Self::Root);
        }
        ask("sudo", &["-n", "true"]).map(|_| Self::Sudo)
    }

    /// A program to be run that way, in an environment in which packages ask nothing.
    pub(super) fn command(self, program: &str) -> Command {
        // `env` because sudo clears the environment.
        let mut command = match self {
            Self::Root => Command::new("env"),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.args(["-n", "env"]);
                command
            }
        };
        command.args(["DEBIAN_FRONTEND=noninteractive", program]);
        command
    }
}
