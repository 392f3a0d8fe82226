//! The bare-metal target beside the Rust that runs this tool.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::{Setup, ask, not_prepared, said};
use crate::failure::{Kind, Result};
use crate::process;
use crate::toolchain::Toolchain;
use crate::workspace::BARE_TARGET;

/// The longest that a download of the target may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Whether the target's library is where rustc looks for it.
pub(super) fn target_is_installed() -> bool {
    let rustc = Toolchain::Rustup.rustc();
    let Some(rustc) = rustc.to_str() else {
        return false;
    };
    let Some(directory) = ask(rustc, &["--print", "target-libdir", "--target", BARE_TARGET]) else {
        return false;
    };
    let Ok(entries) = fs::read_dir(directory.trim()) else {
        return false;
    };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

impl Setup {
    /// Sees to it that the target is there.
    pub(super) fn rustup(&self) -> Result<()> {
        if target_is_installed() {
            return Ok(());
        }
        let commands = [format!("rustup target add {BARE_TARGET}")];
        let missing = format!("the Rust target {BARE_TARGET} is not installed");
        if !self.install {
            return Err(not_prepared(&missing, &commands));
        }
        let step = self.ui.step(&format!("rustup target add {BARE_TARGET}"));
        let mut command = Command::new("rustup");
        command.args(["target", "add", BARE_TARGET]);
        let output = process::run(&mut command, LIMIT, |line| step.detail(line)).map_err(|failure| {
            match failure.kind {
                Kind::System => {
                    not_prepared(&format!("{missing}, and rustup is missing ({failure}): install rustup, or use --toolchain debian"), &[])
                }
                _ => failure,
            }
        })?;
        if output.success() && target_is_installed() {
            step.done();
            return Ok(());
        }
        drop(step);
        let reason = output
            .text
            .lines()
            .find(|line| line.trim_start().starts_with("error:"))
            .map_or_else(|| said(&output), |line| line.trim().to_owned());
        Err(not_prepared(&format!("{missing}, and rustup failed to install it: {reason}"), &commands))
    }
}
