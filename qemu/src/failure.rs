//! Why a command failed, and the exit status that this means.

use std::fmt;
use std::path::Path;

use serde::Serialize;

/// Exit statuses of the tool.
pub mod status {
    /// All is well.
    pub const OK: u8 = 0;
    /// A run or a check failed.
    pub const FAILED: u8 = 1;
    /// Bad usage or input.
    pub const USAGE: u8 = 2;
    /// The machine is not prepared and can't be.
    pub const NOT_PREPARED: u8 = 3;
    /// A build failed.
    pub const BUILD: u8 = 4;
    /// The run outlasted its time.
    pub const TIMEOUT: u8 = 124;
}

/// What kind of failure it is; each has its exit status and its code in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An argument or an input file is not acceptable.
    Usage,
    /// QEMU or the bare-metal target is missing and can't be installed.
    NotPrepared,
    /// A bare-metal build or check failed.
    Build,
    /// The machine ran and something that should have happened did not.
    Run,
    /// The hypervisor panicked.
    Panic,
    /// The hypervisor or the host refused the image, the machine or a launch.
    Refused,
    /// The run outlasted its time.
    Timeout,
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// The development machine's own: files, processes.
    System,
}

impl Kind {
    /// The exit status.
    #[must_use]
    pub const fn status(self) -> u8 {
        match self {
            Self::Usage => status::USAGE,
            Self::NotPrepared => status::NOT_PREPARED,
            Self::Build => status::BUILD,
            Self::Timeout => status::TIMEOUT,
            Self::Run | Self::Panic | Self::Refused | Self::Interrupted | Self::System => status::FAILED,
        }
    }

    /// The code in a record's `error`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::NotPrepared => "not-prepared",
            Self::Build => "build",
            Self::Run => "run",
            Self::Panic => "panic",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Interrupted => "interrupted",
            Self::System => "system",
        }
    }
}

/// A failure: its kind, and for people what happened and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind.
    pub kind: Kind,
    /// What happened and what to do about it.
    pub message: String,
}

/// A failure as records have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureRecord {
    /// The failure's code.
    pub code: &'static str,
    /// What happened and what to do about it.
    pub message: String,
}

impl Failure {
    /// A failure of a kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Bad usage or input.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// An input file that can't be used.
    #[must_use]
    pub fn input(path: &Path, problem: impl fmt::Display) -> Self {
        Self::usage(format!("{}: {problem}", path.display()))
    }

    /// Something that the development machine refused to do.
    pub fn system(doing: impl fmt::Display, error: impl fmt::Display) -> Self {
        Self::new(Kind::System, format!("{doing}: {error}"))
    }

    /// Ctrl-C or SIGTERM.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted by Ctrl-C or a signal")
    }

    /// As records have it.
    #[must_use]
    pub fn record(&self) -> FailureRecord {
        FailureRecord { code: self.kind.code(), message: self.message.clone() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A result whose error is a [`Failure`].
pub type Result<T> = std::result::Result<T, Failure>;
