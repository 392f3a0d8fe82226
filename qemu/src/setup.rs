//! Prepares the machine: QEMU, and a Rust that builds for bare metal.
//!
//! What is there already is used. What is missing is installed where that needs no question; where it
//! can't be, the failure names the exact commands. Nothing here ever prompts.

mod apt;
mod debian_rust;
mod qemu;
mod right;
mod rustup;
mod system;

use std::env;

use clap::ValueEnum as _;

pub use qemu::{PROGRAM as QEMU, Qemu};

use crate::failure::{Failure, Kind, Result};
use crate::process::{self, Output};
use crate::toolchain::{self, Toolchain};
use crate::ui::Ui;
use right::Right;
use system::System;

/// The variable that forbids installing anything, as `never`.
pub const INSTALL_VARIABLE: &str = "CLOISTER_INSTALL";

/// A machine on which Cloister can be built and booted.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The QEMU that boots it.
    pub qemu: Qemu,
    /// The Rust that builds it.
    pub toolchain: Toolchain,
}

/// What setup works with.
struct Setup {
    ui: Ui,
    system: System,
    /// Whether anything may be installed at all.
    install: bool,
}

/// Prepares the machine. With `install` false, only looks.
///
/// # Errors
///
/// [`Kind::NotPrepared`] with the commands that would help, or [`Kind::Usage`] for a toolchain that
/// does not exist.
pub fn prepare(forced: Option<Toolchain>, install: bool, ui: Ui) -> Result<Prepared> {
    let setup = Setup::new(install, ui);
    let qemu = setup.qemu()?;
    let toolchain = setup.toolchain(forced)?;
    Ok(Prepared { qemu, toolchain })
}

/// Prepares the bare-metal toolchain alone.
///
/// # Errors
///
/// Those of [`prepare`].
pub fn prepare_toolchain(forced: Option<Toolchain>, ui: Ui) -> Result<Toolchain> {
    Setup::new(true, ui).toolchain(forced)
}

/// Finds QEMU, or installs it.
///
/// # Errors
///
/// Those of [`prepare`].
pub fn prepare_qemu(ui: Ui) -> Result<Qemu> {
    Setup::new(true, ui).qemu()
}

impl Setup {
    fn new(install: bool, ui: Ui) -> Self {
        let forbidden = env::var(INSTALL_VARIABLE).is_ok_and(|value| value == "never");
        Self { ui, system: System::detect(), install: install && !forbidden }
    }

    /// The right to install packages, or the failure that names `commands` instead.
    fn right(&self, missing: &str, commands: &[String]) -> Result<Right> {
        let right = if self.install { Right::find() } else { None };
        right.ok_or_else(|| not_prepared(missing, commands))
    }

    fn toolchain(&self, forced: Option<Toolchain>) -> Result<Toolchain> {
        let forced = match forced {
            Some(toolchain) => Some(toolchain),
            None => from_environment(env::var(toolchain::VARIABLE).ok().as_deref())?,
        };
        match forced {
            Some(Toolchain::Rustup) => self.rustup()?,
            Some(Toolchain::Debian) => self.debian_rust()?,
            None => return self.any_toolchain(),
        }
        Ok(forced.unwrap_or(Toolchain::Rustup))
    }

    /// The target beside the Rust in use, else rustup's download, else Debian's packages.
    fn any_toolchain(&self) -> Result<Toolchain> {
        if rustup::target_is_installed() {
            return Ok(Toolchain::Rustup);
        }
        if debian_rust::problem().is_none() {
            return Ok(Toolchain::Debian);
        }
        let Err(rustup) = self.rustup() else {
            return Ok(Toolchain::Rustup);
        };
        if rustup.kind != Kind::NotPrepared || !self.system.is_debian() {
            return Err(rustup);
        }
        self.ui.note(&format!("{}\nThe tool uses Debian's Rust packages instead.", rustup.message));
        self.debian_rust()?;
        Ok(Toolchain::Debian)
    }
}

fn from_environment(value: Option<&str>) -> Result<Option<Toolchain>> {
    match value {
        None | Some("") => Ok(None),
        Some(name) => Toolchain::from_str(name, false).map(Some).map_err(|_| {
            Failure::usage(format!(
                "{} is {name:?}: set it to rustup or debian, or unset it",
                toolchain::VARIABLE
            ))
        }),
    }
}

/// The failure for a missing program that the tool can't install, with the commands that install it.
fn not_prepared(missing: &str, commands: &[String]) -> Failure {
    let mut message = missing.to_owned();
    if !commands.is_empty() {
        message.push_str("\nThese commands install it:");
        for command in commands {
            message.push_str("\n    ");
            message.push_str(command);
        }
    }
    Failure::new(Kind::NotPrepared, message)
}

/// The last lines of a failed installer.
fn said(output: &Output) -> String {
    const LINES: usize = 5;
    let lines: Vec<&str> = output.text.lines().collect();
    let start = lines.len().saturating_sub(LINES);
    let end = if output.status.is_some() { "" } else { "\nThe tool stopped it because it took too long." };
    format!("{}{end}", lines[start..].join("\n"))
}

/// Runs a quick question to a program; `None` if it can't be asked or fails.
fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    const QUICK: std::time::Duration = std::time::Duration::from_secs(20);
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    let output = process::run(&mut command, QUICK, |_| ()).ok()?;
    output.success().then_some(output.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_a_toolchain() {
        assert_eq!(from_environment(None), Ok(None));
        assert_eq!(from_environment(Some("")), Ok(None));
        assert_eq!(from_environment(Some("debian")), Ok(Some(Toolchain::Debian)));
        assert_eq!(from_environment(Some("rustup")), Ok(Some(Toolchain::Rustup)));
        assert_eq!(from_environment(Some("nightly")).map_err(|failure| failure.kind), Err(Kind::Usage));
    }

    #[test]
    fn a_machine_that_is_not_prepared_gets_the_commands() {
        let failure = not_prepared("no QEMU", &["brew install qemu".into()]);
        assert_eq!(failure.kind.status(), 3);
        assert!(failure.message.contains("\n    brew install qemu"));
    }
}
